"""Processes whose CUDA is locked: they wait for their GPU, and nobody leaves them so."""

import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cards import USER, Cards
from wires import is_gone, wait_for

from aftershock.agent import locking
from aftershock.agent.clock import identity
from aftershock.errors import NotApplied, Unsupported
from aftershock.faults.cudalock import CudaLock
from aftershock.faults.processes import Processes
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Node
from aftershock.lab import gpu
from aftershock.recover import recover

MOCK = Path(gpu.__file__).parent / "mock_cuda.c"
ASK = """
import ctypes, sys
cuda, told = ctypes.CDLL("libcuda.so.1"), (ctypes.c_uint64 * 8)()
assert cuda.cuInit(0) == 0
result = getattr(cuda, f"cuCheckpointProcess{sys.argv[1]}")(int(sys.argv[2]), told)
print(result or told[0])
"""
# A process that starts another, which has the GPU.
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], '100'])"
OLD = "int cuInit(unsigned flags) { (void)flags; return 0; }"
STUCK = f"""
#define cuInit begin_at_once
#include "{MOCK}"
#undef cuInit
int cuInit(unsigned flags) {{ (void)flags; return pause(); }}
"""
# One that takes long to lock, and one where the lock comes though its caller has been killed.
LATE = f"""
#define cuCheckpointProcessLock lock_at_once
#include "{MOCK}"
#undef cuCheckpointProcessLock
int cuCheckpointProcessLock(int pid, void *arguments) {{
    close(creat(getenv("UNDER_WAY"), 0600));
    if (!DETACHED) sleep(4);
    else if (fork()) pause();
    else sleep(1);
    return lock_at_once(pid, arguments);
}}
"""
# One that tells nothing of one process.
SHY = f"""
#define cuCheckpointProcessGetState state_of
#include "{MOCK}"
#undef cuCheckpointProcessGetState
int cuCheckpointProcessGetState(int pid, int *state) {{
    return pid == atoi(getenv("SHY")) ? pause() : state_of(pid, state);
}}
"""
User = subprocess.Popen[str]


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


@pytest.fixture
def lock(cards: Cards, make: Any) -> Any:
    """Arm and fire on the host of the cards; whatever happens, it is reverted."""

    def one(pid: int, **more: Any) -> Any:
        return make(CudaLock(Processes(pid=pid)), **{"node": cards.node, **more})

    return one


def with_driver(cards: Cards, folder: Path, code: str, **more: str) -> Node:
    """The host of the cards with another libcuda."""
    made = folder / "driver" / "libcuda.so.1"
    made.parent.mkdir()
    (folder / "driver.c").write_text(code)
    words = ["-pthread", "-shared", "-fPIC", "-o", str(made), str(folder / "driver.c")]
    subprocess.run(["cc", *words], check=True)
    path = f"{made.parent}:{cards.env['LD_LIBRARY_PATH']}"
    return replace(cards.node, env={**cards.env, **more, "LD_LIBRARY_PATH": path})


def ask(cards: Cards, verb: str, pid: int) -> int:
    """What another process is told by cuCheckpointProcess…: an error, or the state."""
    words = [sys.executable, "-c", ASK, verb, str(pid)]
    env = {**os.environ, **cards.env}
    return int(subprocess.run(words, env=env, stdout=subprocess.PIPE, check=True).stdout)


def is_locked(cards: Cards, user: User) -> bool:
    return ask(cards, "GetState", user.pid) == 1


def order(user: User) -> None:
    """Let a user of a GPU work a little."""
    assert user.stdin
    user.stdin.write("1000000\n")
    user.stdin.flush()


def answered(user: User, within_s: float = 10.0) -> bool:
    """Whether it has done so."""
    assert user.stdout
    if not select.select([user.stdout], [], [], within_s)[0]:
        return False
    return user.stdout.readline() == "0\n"


def works(user: User) -> bool:
    order(user)
    return answered(user)


def kill_both(cards: Cards, fleet: Fleet, injection: Any) -> None:
    """Nobody on the host is left to undo it."""
    agent = fleet.fresh(cards.node)
    watcher = agent.ask("record", injection=injection.id)["watcher"]["pid"]
    for pid in (watcher, agent.pid):
        os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: is_gone(agent.pid) and is_gone(watcher), 10)


def test_a_locked_process_waits_for_its_gpu_until_the_heal_and_others_do_not(
    cards: Cards, lock: Any, fleet: Fleet
) -> None:
    with cards.user(100) as victim, cards.user(100) as other:
        injection = lock(victim.pid, fire=False)
        assert works(victim) and not is_locked(cards, victim), "armed, yet nothing is felt"
        injection.fire()
        order(victim)
        assert not answered(victim, 0.5) and works(other)
        assert is_locked(cards, victim) and not is_locked(cards, other)
        assert injection.observe()["bit"] is True, injection.evidence
        assert injection.to_dict()["level"] == "emulated"
        look = partial(fleet.fresh(cards.node).ask, "fingerprint", devices=[], looks=["cuda-locks"])
        (line,) = (one for one in look() if one.startswith("cuda:"))
        assert line.startswith(f"cuda: process {victim.pid} begun") and line.endswith("is locked")
        injection.revert()
        assert answered(victim) and works(victim) and line not in look()
        told = injection.to_dict()
        assert told["clean"] and told["ordered"] and told["foreign_changes"] == {}


def test_whoever_a_chosen_process_started_is_locked_where_that_uses_the_gpu(
    cards: Cards, lock: Any
) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    env = {**os.environ, **cards.env}
    with subprocess.Popen([sys.executable, "-c", PARENT, USER], env=env, **pipes) as parent:
        assert answered(parent)
        injection = lock(parent.pid)
        order(parent)
        assert not answered(parent, 0.5)
        assert injection.observe()["bit"] is True, injection.evidence
        injection.revert()
        assert answered(parent)


def test_an_effect_that_is_gone_is_seen_to_be(cards: Cards, lock: Any) -> None:
    """Whoever unlocks it: what is told is the driver's word, not the locker's."""
    with cards.user(100) as victim:
        injection = lock(victim.pid)
        assert ask(cards, "Unlock", victim.pid) == 0
        assert injection.observe(within_s=0.1)["bit"] is False
        injection.revert()
        assert works(victim) and injection.to_dict()["clean"]


def test_the_watcher_unlocks_when_the_agent_is_killed(
    cards: Cards, lock: Any, fleet: Fleet
) -> None:
    with cards.user(100) as victim:
        injection = lock(victim.pid)
        order(victim)
        assert not answered(victim, 0.3)
        os.kill(fleet.fresh(cards.node).pid, signal.SIGKILL)
        assert answered(victim) and not is_locked(cards, victim)
        injection.revert()
        told = injection.to_dict()
        assert told["healed_early"] and told["clean"]


def test_recover_unlocks_when_agent_and_watcher_are_dead(
    cards: Cards, lock: Any, fleet: Fleet
) -> None:
    with cards.user(100) as victim:
        injection = lock(victim.pid)
        kill_both(cards, fleet, injection)
        order(victim)
        assert not answered(victim, 1.0), "it outlives whoever locked it"
        found = recover(force=True)
        assert found.healed and "healed now (the agent's death)" in found.lines()[0], found.lines()
        assert answered(victim) and not is_locked(cards, victim)
        again = recover(force=True)
        assert again.healed and "healed now" not in again.lines()[0], again.lines()


def test_one_that_ended_meanwhile_is_nobodys_trouble(cards: Cards, lock: Any, fleet: Fleet) -> None:
    with cards.user(100) as first, cards.user(100) as second:
        injection = lock(first.pid)
        first.kill()
        first.wait()
        injection.revert()
        assert injection.to_dict()["clean"] and injection.to_dict()["ordered"]
        other = lock(second.pid)
        kill_both(cards, fleet, other)
        second.kill()
        second.wait()
        assert recover(force=True).healed
    assert cards.read()[0]["users"] == []


def test_another_process_that_was_given_the_number_is_not_touched(
    cards: Cards, lock: Any, fleet: Fleet
) -> None:
    with cards.user(100) as victim:
        injection = lock(victim.pid)
        who = identity(victim.pid)
        stranger = {**who, "started": who["started"] - 1}
        states = partial(fleet.fresh(cards.node).ask, "cuda_states")
        assert [one["state"] for one in states(processes=[stranger, who])] == [None, 1]
        assert locking.undo({"processes": [stranger]}) == []
        assert is_locked(cards, victim), "it isn't the one of the record"
        injection.revert()
        assert not is_locked(cards, victim)


def test_the_deadline_unlocks_also_when_the_agent_hangs(
    cards: Cards, lock: Any, fleet: Fleet
) -> None:
    with cards.user(100) as victim:
        for hangs in (False, True):
            injection = lock(victim.pid, lease_s=3)
            agent = fleet.fresh(cards.node).pid
            if hangs:
                os.kill(agent, signal.SIGSTOP)
            order(victim)
            assert not answered(victim, 0.3)
            began = time.monotonic()
            assert answered(victim, 20) and time.monotonic() - began > 0.5
            os.kill(agent, signal.SIGCONT)
            injection.revert()
            part = injection.to_dict()["per_host"]["gpu-host"]
            assert part["ended_by"] == "deadline" and injection.to_dict()["clean"]


def test_who_must_not_be_locked_is_refused_before_anything_is_touched(
    cards: Cards, lock: Any
) -> None:
    with cards.user(100) as victim, subprocess.Popen(["sleep", "60"]) as idle:
        with pytest.raises(NotApplied, match=f"process {idle.pid} .sleep 60. uses no GPU"):
            lock(idle.pid)
        idle.kill()
        assert ask(cards, "Lock", victim.pid) == 0
        with pytest.raises(
            NotApplied, match="is locked already, by somebody else: unlock it first"
        ):
            lock(victim.pid)
        assert is_locked(cards, victim), "and stays so"
        assert ask(cards, "Unlock", victim.pid) == 0
        injection = lock(victim.pid)
        with pytest.raises(NotApplied, match="another injection's of ours: revert that first"):
            lock(victim.pid)
        assert is_locked(cards, victim)
        injection.revert()
        assert works(victim)
        lock(victim.pid).revert()


def test_what_somebody_else_locks_just_before_us_stays_theirs(cards: Cards, lock: Any) -> None:
    with cards.user(100) as victim:
        injection = lock(victim.pid, fire=False)
        assert ask(cards, "Lock", victim.pid) == 0
        with pytest.raises(NotApplied, match="CUDA_ERROR_ILLEGAL_STATE: it may be hung by=freeze"):
            injection.fire()
        assert is_locked(cards, victim)
        assert ask(cards, "Unlock", victim.pid) == 0
        again = lock(victim.pid)
        assert is_locked(cards, victim)
        again.revert()


def test_a_lock_that_comes_after_nobody_waits_for_it_any_more_is_undone(
    cards: Cards, lock: Any, tmp_path: Path
) -> None:
    under_way = tmp_path / "under-way"
    code = f"#define DETACHED 1\n{LATE}"
    node = with_driver(cards, tmp_path, code, UNDER_WAY=str(under_way))
    with cards.user(100) as victim:
        injection = lock(victim.pid, fire=False, node=node)
        with pytest.raises(NotApplied, match="has not answered for 4 s: it may be hung by=freeze"):
            injection.fire()
        assert under_way.exists() and not is_locked(cards, victim) and works(victim)
        injection.revert()
        assert injection.to_dict()["clean"]


def test_a_driver_without_the_calls_is_refused_with_what_to_do(
    cards: Cards, lock: Any, tmp_path: Path
) -> None:
    node = with_driver(cards, tmp_path, OLD)
    with cards.user(100) as victim:
        with pytest.raises(
            (Unsupported, NotApplied), match="driver 570 or newer, or hang the process by=freeze"
        ):
            lock(victim.pid, node=node)
        assert works(victim)


def test_a_driver_that_hangs_does_not_hang_the_agent(
    cards: Cards, fleet: Fleet, tmp_path: Path
) -> None:
    agent = fleet.fresh(with_driver(cards, tmp_path, STUCK))
    with cards.user(100) as victim:
        asked = agent.post("cuda_states", processes=[identity(victim.pid)])
        assert wait_for(lambda: children(agent.pid) != [], 5)
        (child,) = children(agent.pid)
        assert agent.ask("clock") > 0 and children(agent.pid) == [child], "meanwhile"
        with pytest.raises(NotApplied, match="CUDA's driver has not answered for 6 s"):
            agent.result(asked, "cuda_states", 20)
        assert wait_for(lambda: is_gone(child), 5)


def test_a_process_of_which_the_driver_tells_nothing_keeps_no_other_from_being_told_of(
    cards: Cards, lock: Any, fleet: Fleet, tmp_path: Path
) -> None:
    with cards.user(100) as shy, cards.user(100) as other:
        node = with_driver(cards, tmp_path, SHY, SHY=str(shy.pid))
        who = [identity(shy.pid), identity(other.pid)]
        silent, told = fleet.fresh(node).ask("cuda_states", processes=who)
        assert silent["failed"] == "the driver has not answered for 4 s" and told["state"] == 0
        with pytest.raises(NotApplied, match="has not answered for 4 s: it may be hung by=freeze"):
            lock(shy.pid, node=node)
        injection = lock(other.pid, node=node)
        assert is_locked(cards, other)
        injection.revert()
        assert injection.to_dict()["clean"] and injection.to_dict()["foreign_changes"] == {}
        assert works(shy) and works(other)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(one) for task in tasks for one in task.read_text().split()]


@pytest.mark.parametrize("detached", [0, 1])
def test_a_lock_that_was_under_way_when_its_agent_was_killed_does_not_stay(
    cards: Cards, lock: Any, fleet: Fleet, tmp_path: Path, detached: int
) -> None:
    """The child that asks for it ends with the agent; what may come all the same is waited for."""
    under_way = tmp_path / "under-way"
    code = f"#define DETACHED {detached}\n{LATE}"
    node = with_driver(cards, tmp_path, code, UNDER_WAY=str(under_way))
    with cards.user(100) as victim:
        injection = lock(victim.pid, fire=False, node=node)
        agent = fleet.fresh(node)
        agent.post("fire", injection=injection.id)
        assert wait_for(under_way.exists, 10)
        os.kill(agent.pid, signal.SIGKILL)
        time.sleep(3 if detached else 5)
        assert not is_locked(cards, victim) and works(victim)
        injection.revert()
