"""Hosts short of processor time, memory, processes and files; kills for memory by the kernel."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cgroups import HOLDER, Group, group, running
from held import HERE
from wires import is_gone, wait_for

from aftershock.errors import InvalidFault, InvalidInput, NotApplied, Unsupported
from aftershock.faults.exhaustion import NoRoom, OutOfMemory
from aftershock.faults.processes import Processes
from aftershock.faults.stress import CpuStress, MemoryPressure
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Inventory
from aftershock.ledger import Ledger
from aftershock.recover import recover
from aftershock.run import hostlooks
from aftershock.strain import OomKills

pytestmark = pytest.mark.root

MB = 1 << 20
# Opens a file each time it is told to; says how that went.
OPENER = """
import os, sys
print("up", flush=True)
for line in sys.stdin:
    try:
        os.open("/dev/null", os.O_RDONLY); print("opened", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


def holder(size_mb: int, within: Group) -> Any:
    return running(sys.executable, "-c", HOLDER, str(size_mb), within=within)


def hogs(parent: int) -> list[int]:
    """Children of an agent that use something up."""
    found = []
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if b"\0hog\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(int(pid))
    return found


def cpu_s(group: Group) -> float:
    """What a cgroup has used, in seconds."""
    if "cpuacct" in group.folders and (group.folders["cpuacct"] / "cpuacct.usage").exists():
        return int((group.folders["cpuacct"] / "cpuacct.usage").read_text()) / 1e9
    words = dict(line.split() for line in (group.folders["cpu"] / "cpu.stat").open())
    return int(words["usage_usec"]) / 1e6


def test_cores_are_used_up_in_a_cgroup_and_no_longer_than_the_agent_lives(
    make: Any, fleet: Fleet
) -> None:
    with group("cpu", "cpuacct") as made:
        injection = make(CpuStress(0.5, cpus=(0,), cgroup=made.path), fire=False)
        (child,) = hogs(fleet.fresh(HERE).pid)
        before = cpu_s(made)
        assert before < 1 and os.sched_getaffinity(child) == {0}, "armed, yet nothing is used"
        injection.fire()
        assert injection.observe()["bit"] is True, injection.evidence
        began, used = time.monotonic(), cpu_s(made)
        assert wait_for(lambda: cpu_s(made) - used > 0.5, 20)
        assert cpu_s(made) - used < 0.75 * (time.monotonic() - began) + 0.3, "half of one, not more"
        os.kill(fleet.fresh(HERE).pid, signal.SIGKILL)
        assert wait_for(lambda: is_gone(child))
        injection.revert()
        assert injection.to_dict()["healed_early"] is True


def test_a_stopped_agent_keeps_no_core_busy_beyond_the_deadline(make: Any, fleet: Fleet) -> None:
    injection = make(CpuStress(0.1), lease_s=2)
    agent = fleet.fresh(HERE).pid
    (child,) = hogs(agent)
    os.kill(agent, signal.SIGSTOP)
    assert wait_for(lambda: is_gone(child), 15)
    os.kill(agent, signal.SIGCONT)
    injection.revert()


def available_mb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 1024
    raise AssertionError


def rss_mb(pid: int) -> float:
    """What a process has in memory, shared pages too."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / MB


def written_mb(pid: int) -> float:
    """What a process made the kernel write to disks, or will."""
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["write_bytes"]) / MB


@pytest.mark.parametrize("of", ["anonymous", "page-cache"])
def test_memory_is_taken_and_given_back(make: Any, fleet: Fleet, of: str, tmp_path: Path) -> None:
    """Others on a busy machine take and give, too: hence the child's own, and a wide margin."""
    injection = make(MemoryPressure(take_mb=700, of=of, folder=str(tmp_path)), fire=False)
    (child,) = hogs(fleet.fresh(HERE).pid)
    assert rss_mb(child) < 200, "armed, yet nothing is taken"
    injection.fire()
    assert injection.observe()["bit"] is True, injection.evidence
    assert wait_for(lambda: rss_mb(child) > 690, 20)
    assert not list(tmp_path.glob("[!s]*")), "what it is of has no name"
    assert written_mb(child) < 10, "nothing of it is the disk's to write"
    during = available_mb()
    injection.revert()
    assert is_gone(child) and wait_for(lambda: available_mb() > during + 300, 30)


def test_the_reserve_is_not_touched(make: Any) -> None:
    most = available_mb()
    with pytest.raises(NotApplied, match="would leave less than the reserve"):
        make(MemoryPressure(take_mb=most - 100, reserve_mb=2048))  # others let go of some, too
    with pytest.raises(NotApplied, match="so many are to be left"):
        make(MemoryPressure(available_mb=most + 10_000))


@pytest.mark.parametrize("named", ["pid", "cgroup"])
def test_the_kernel_kills_the_right_process_for_memory(make: Any, named: str) -> None:
    with group("memory") as made, holder(40, made) as other, holder(25, made) as chosen:
        which = Processes(pid=chosen.pid) if named == "pid" else Processes(cgroup=made.path)
        limit = made.memory_limit
        injection = make(OutOfMemory(which), fire=False)
        assert (made.memory_limit, made.oom_kills) == (limit, 0), "armed, yet nothing is felt"
        injection.fire()
        dies, lives = (chosen, other) if named == "pid" else (other, chosen)
        assert wait_for(lambda: dies.poll() == -signal.SIGKILL, 30)
        assert injection.observe()["bit"] is True, injection.evidence
        # The kernel may strike twice before the memory is free: then at our own child.
        assert made.oom_kills in (1, 2) and lives.poll() is None
        assert wait_for(lambda: made.memory_limit == limit), "what comes anew has its room"
        with holder(60, made) as fresh:
            assert fresh.poll() is None
        injection.revert()
        assert injection.to_dict()["clean"] and injection.to_dict()["ordered"]
        assert Path(f"/proc/{lives.pid}/oom_score_adj").read_text().strip() == "0"


def test_a_process_of_next_to_no_memory_dies_before_a_big_one_and_before_our_child(
    make: Any,
) -> None:
    with (
        group("memory") as made,
        holder(30, made) as big,
        running("sh", "-c", "echo up; exec sleep 99", within=made) as small,
    ):
        injection = make(OutOfMemory(Processes(pid=small.pid)))
        assert wait_for(lambda: small.poll() == -signal.SIGKILL, 30)
        assert injection.observe()["bit"] is True, injection.evidence
        assert big.poll() is None


def test_our_own_child_is_not_counted_among_those_who_were_killed(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the two that are to die only one is there, and the kernel takes our child next."""
    monkeypatch.setattr(OomKills, "patience_s", 1.0)
    with group("memory") as made, holder(30, made) as one:
        limit = made.memory_limit
        injection = make(OutOfMemory(Processes(cgroup=made.path), kills=2))
        assert wait_for(lambda: one.poll() == -signal.SIGKILL, 30)
        assert wait_for(lambda: made.memory_limit == limit, 30), "nobody is left to be killed"
        assert injection.observe()["bit"] is False, injection.evidence
        assert f"1 of them in {made.path}" in str(injection.evidence)


def test_a_cgroup_that_goes_with_its_dead_container_is_counted_all_the_same(
    make: Any, fleet: Fleet
) -> None:
    """A container's runtime kills what is left in it, our child too, and takes the cgroup away."""
    with group("memory") as made, holder(30, made) as one:
        injection = make(OutOfMemory(Processes(pid=one.pid)), fire=False)

        children = hogs(fleet.fresh(HERE).pid)
        died = os.pidfd_open(one.pid)

        def clear_up() -> None:
            select.select([died], [], [])
            for child in children:
                os.kill(child, signal.SIGKILL)
            one.wait()
            made.remove()

        runtime = threading.Thread(target=clear_up)
        runtime.start()
        injection.fire()
        runtime.join(30)
        os.close(died)
        assert one.returncode == -signal.SIGKILL
        assert injection.observe()["bit"] is True, injection.evidence


def test_of_several_that_are_to_die_the_heaviest_do(make: Any) -> None:
    with (
        group("memory") as made,
        holder(20, made) as light,
        holder(40, made) as heavy,
        holder(30, made) as middle,
    ):
        injection = make(OutOfMemory(Processes(cgroup=made.path), kills=2))
        assert wait_for(lambda: heavy.poll() == middle.poll() == -signal.SIGKILL, 30)
        assert injection.observe()["bit"] is True, injection.evidence
        assert light.poll() is None


def test_a_lowered_limit_is_put_back_by_the_watcher_and_by_recover(
    make: Any, fleet: Fleet, ledger: Ledger
) -> None:
    """Of three times the kernel would have to kill, the agent is killed before that."""
    with group("memory") as made, holder(30, made) as one:
        limit = made.memory_limit
        for ends in ("watcher", "recover"):
            injection = make(OutOfMemory(Processes(pid=one.pid), kills=100), fire=False)
            agent = fleet.fresh(HERE).pid
            watcher = watcher_of(agent)
            for child in hogs(agent):  # without it the limit stays low, and nobody dies
                os.kill(child, signal.SIGSTOP)
            injection.fire()
            assert made.memory_limit != limit
            if ends == "recover":
                os.kill(watcher, signal.SIGKILL)
            os.kill(agent, signal.SIGKILL)
            if ends == "recover":
                time.sleep(0.5)
                assert made.memory_limit != limit, "nobody is left who could put it back"
                found = recover(force=True)
                assert found.healed, found.lines()
            assert wait_for(lambda: made.memory_limit == limit, 15)
            assert Path(f"/proc/{one.pid}/oom_score_adj").read_text().strip() == "0"
            fleet.let_go(HERE)
        assert one.poll() is None and made.oom_kills == 0


def watcher_of(agent: int) -> int:
    for entry in Path("/proc").iterdir():
        words: list[bytes] = []
        with suppress(OSError):  # no process, or one that has just ended
            words = (entry / "cmdline").read_bytes().split(b"\0")
        if b"watch" in words and str(agent).encode() in words:
            return int(entry.name)
    raise AssertionError("no watcher")


def test_no_process_can_be_begun_in_a_cgroup(make: Any, fleet: Fleet) -> None:
    with group("pids") as made, running("sh", "-c", "echo up; sleep 600; :", within=made) as one:
        limit, fork = made.pids_limit, ["sh", "-c", "true & wait $!"]
        assert subprocess.run(fork, check=False).returncode == 0
        injection = make(NoRoom("pids", Processes(pid=one.pid), room=1), fire=False)
        assert made.pids_limit == limit, "armed, yet nothing is felt"
        injection.fire()
        assert injection.observe()["bit"] is True, injection.evidence
        with pytest.raises(NotApplied, match="is set by another injection: heal that first"):
            make(NoRoom("pids", Processes(pid=one.pid)))
        with pytest.raises(subprocess.CalledProcessError):
            inside = f"echo $$ >{made.folders['pids'] / 'cgroup.procs'}; (true) && (true)"
            subprocess.run(["sh", "-c", inside], check=True, capture_output=True)
        os.kill(fleet.fresh(HERE).pid, signal.SIGKILL)
        assert wait_for(lambda: made.pids_limit == limit, 15), "the watcher has it"


def test_no_further_file_can_be_opened(make: Any, fleet: Fleet) -> None:
    words = [sys.executable, "-c", OPENER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, text=True, **pipes) as one:
        assert one.stdin and one.stdout
        told = one.stdout.readline()

        def opens() -> str:
            one.stdin.write("now\n")
            one.stdin.flush()
            return one.stdout.readline().strip()

        assert told and opens() == "opened"
        injection = make(NoRoom("files", Processes(pid=one.pid), room=2))
        assert injection.observe()["bit"] is True, injection.evidence
        assert [opens() for _ in range(3)] == ["opened", "opened", "Too many open files"]
        os.kill(fleet.fresh(HERE).pid, signal.SIGKILL)
        assert wait_for(lambda: opens() == "opened", 15), "the watcher has it"
        one.stdin.close()


def test_limits_that_touch_ourselves_or_the_root_are_refused(make: Any) -> None:
    own = next(
        line.split(":", 2)[2]
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if ":memory:" in line or line.startswith("0::")
    )
    said = "which is our own|root memory cgroup|PID 1|below the root"
    with pytest.raises((InvalidInput, NotApplied), match=said):
        make(OutOfMemory(Processes(cgroup=own)))
    with running("sh", "-c", "echo up; exec sleep 99") as one:
        with pytest.raises((InvalidInput, NotApplied), match=r"root pids cgroup|which is our own"):
            make(NoRoom("pids", Processes(pid=one.pid)))
        assert one.poll() is None
    with pytest.raises((InvalidInput, NotApplied), match="no memory cgroup /no/such here"):
        make(OutOfMemory(Processes(cgroup="/no/such")))


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (lambda: CpuStress(0), "cores 0: more than 0"),
        (lambda: CpuStress(2, cpus=(0,)), "cores 2 on 1 CPUs"),
        (lambda: CpuStress(1, nice=30), "nice 30"),
        (MemoryPressure, "and one of them only"),
        (lambda: MemoryPressure(take_mb=1, available_mb=900), "and one of them only"),
        (lambda: MemoryPressure(available_mb=100), "below the reserve"),
        (lambda: MemoryPressure(take_mb=5, of="swap"), "of 'swap'"),
        (lambda: OutOfMemory(Processes(pid=9), kills=0), "kills 0"),
        (lambda: NoRoom("threads", Processes(pid=9)), "pids or files"),
    ],
)
def test_nonsense_is_refused(make_it: Any, said: str) -> None:
    with pytest.raises(InvalidFault, match=said):
        make_it()


def test_no_such_cpu(make: Any) -> None:
    with pytest.raises(NotApplied, match="no CPU 4000 here: there are"):
        make(CpuStress(0.5, cpus=(4000,)))


def test_probes_tell_what_the_kernel_says(fleet: Fleet) -> None:
    nodes = (HERE, replace(HERE, name="twin"))
    target = SimpleNamespace(inventory=Inventory("hosts", nodes, "", ""), agents=fleet)
    run: Any = Looking(target)
    told = hostlooks.look(run, "here")["here"]
    assert told["memory"]["available"] / MB == pytest.approx(available_mb(), rel=0.3)
    assert told["cpu"]["cpus"] == os.cpu_count()
    assert 0 <= hostlooks.busy(run, "here", 0.3) <= 100
    assert 0 < hostlooks.memory_available(run, "all") < 100
    assert 0 <= hostlooks.swap_used(run, "all") <= 100
    if Path("/proc/pressure/cpu").exists():
        assert not told["psi_why"] and 0 <= hostlooks.pressure(run, "all", "io", "full", 60) <= 100
    else:
        with pytest.raises(Unsupported, match=r"CONFIG_PSI|psi=1"):
            hostlooks.pressure(run, "all", "cpu", "some", 10)
    with pytest.raises(InvalidInput, match="resource is 'disk': one of cpu, memory, io"):
        hostlooks.pressure(run, "all", "disk", "some", 10)
    with group("memory") as made, holder(30, made) as one:
        assert hostlooks.cgroup_memory(run, "here", made.path) > 30 * MB
        assert hostlooks.oom_kills(run, "all", made.path) == 0
        words = {"chosen": {"pid": one.pid}, "kills": 1, "kind": "oom"}
        agent = fleet.fresh(HERE)
        agent.ask("arm", 20, injection="probed", steps=[words], lease_s=30)
        agent.ask("fire", 20, injection="probed")
        assert wait_for(lambda: one.poll() is not None, 20)
        assert hostlooks.oom_kills(run, "all", made.path) == 1, "one machine counts once"
        agent.ask("revert", 20, injection="probed")


class Looking:
    """What a run has that probes of hosts need."""

    def __init__(self, target: Any) -> None:
        self.target = target
