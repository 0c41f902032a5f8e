"""The controller dies or is paused; the hosts heal, and the next command tidies up."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from wires import HOOKS, World, arrives, back_after, is_gone, lost, wait_for

from aftershock import ledger
from aftershock.agent.records import Records
from aftershock.errors import NotReverted
from aftershock.recover import recover

pytestmark = pytest.mark.root

Controller = subprocess.Popen[str]
Start = Callable[..., tuple[Controller, list[int]]]


@pytest.fixture
def start(wires: World) -> Iterator[Start]:
    """Start a controller that cuts node `a` off; it is ended with the test."""
    started: list[Controller] = []

    def make(hook: str = "tcx", **options: object) -> tuple[Controller, list[int]]:
        script = str(Path(__file__).with_name("controller.py"))
        words = [json.dumps([asdict(wires["a"])]), hook, json.dumps({"lease_s": 60, **options})]
        process = subprocess.Popen(
            [sys.executable, script, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout
        return process, json.loads(process.stdout.readline())["agents"]

    yield make
    for process in started:
        process.kill()
        process.communicate()


def left_in(state: Path) -> list[str]:
    return [str(path) for path in state.rglob("*") if path.is_file()]


@pytest.mark.parametrize("hook", HOOKS)
def test_after_sigkill_of_the_controller_hosts_heal_and_recover_tidies(
    wires: World,
    start: Start,
    state: Path,
    hook: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process, agents = start(hook)
    assert back_after(wires["w"], wires["a"], process.kill, 5.0) < 1.0
    process.wait()
    assert wait_for(lambda: all(map(is_gone, agents)))
    monkeypatch.chdir(tmp_path)
    first = recover()
    assert first.healed and "channel lost" in first.lines()[0], first.lines()
    assert left_in(state) == []
    assert "Nothing was left behind" in recover().lines()[0]


@pytest.mark.parametrize("hook", HOOKS)
def test_recover_ends_what_outlives_its_controller(
    wires: World, start: Start, state: Path, hook: str
) -> None:
    process, agents = start(hook, deadline_only=True)
    process.kill()
    process.wait()
    assert lost(wires["w"], wires["a"])
    found = recover()
    assert found.healed and "healed now" in found.lines()[0], found.lines()
    assert arrives(wires["w"], wires["a"])
    assert wait_for(lambda: all(map(is_gone, agents)))
    assert left_in(state) == [] and recover().findings == ()


def test_recover_heals_what_lost_agent_and_watcher(wires: World, start: Start, state: Path) -> None:
    process, agents = start("clsact", deadline_only=True)
    record = json.loads(next((state / "records").glob("*.json")).read_text())
    for number in (process.pid, record["watcher"]["pid"], *agents):
        os.kill(number, signal.SIGKILL)
    process.wait()
    assert wait_for(lambda: arrives(wires["w"], wires["a"])), "the kernel ended what the filter did"
    assert "clsact" in wires.tc("a", "qdisc", "show", "dev", "eth0")
    assert recover().healed
    assert "clsact" not in wires.tc("a", "qdisc", "show", "dev", "eth0")


def test_recover_heals_an_agent_that_hangs(wires: World, start: Start) -> None:
    process, agents = start(deadline_only=True)
    os.kill(agents[0], signal.SIGSTOP)
    process.kill()
    process.wait()
    assert recover().healed
    assert arrives(wires["w"], wires["a"]) and wait_for(lambda: is_gone(agents[0]))


def test_recover_leaves_a_living_controller_alone(wires: World, start: Start) -> None:
    process, _ = start()
    lines = recover().lines()
    assert "still going on" in lines[0] and lost(wires["w"], wires["a"])
    assert recover(force=True).healed
    assert arrives(wires["w"], wires["a"])
    told = json.loads(process.communicate("\n")[0])
    assert told["ordered"] is False and told["healed_early"] is True


def test_recover_when_the_namespace_is_gone(wires: World, start: Start, state: Path) -> None:
    process, agents = start()
    for name in ("a", "b", "w"):
        subprocess.run(["ip", "netns", "del", wires.netns(name)], check=True)
    process.kill()
    process.wait()
    found = recover()
    assert found.healed and "namespace is gone" in found.lines()[0]
    assert left_in(state) == []
    assert wait_for(lambda: all(map(is_gone, agents)))


def test_a_paused_controller_learns_that_the_hosts_healed(wires: World, start: Start) -> None:
    process, agents = start(grace_s=1.5)
    process.send_signal(signal.SIGSTOP)
    assert lost(wires["w"], wires["a"])
    assert arrives(wires["w"], wires["a"], within_s=4.0)
    assert wait_for(lambda: all(map(is_gone, agents)))
    process.send_signal(signal.SIGCONT)
    told = json.loads(process.communicate("\n")[0])
    assert (told["ordered"], told["healed_early"], told["clean"]) == (False, True, True)
    assert told["per_host"]["node-a"]["ended_by"] == "heartbeat missed"


def test_recover_takes_back_what_lives_in_an_api(tmp_path: Path) -> None:
    taken: list[object] = []

    @ledger.undoes("tested")
    def undo(data: object) -> str:
        taken.append(data)
        if len(taken) == 1:
            raise NotReverted("the API does not answer")
        return "let go of it"

    book = subprocess.run([sys.executable, "-c", _CRASH], check=True, env=os.environ)
    assert book.returncode == 0
    first, second, third = recover(), recover(), recover()
    assert not first.healed and "does not answer" in first.lines()[0]
    assert second.healed and second.lines() == ["crashed: let go of it"]
    assert third.findings == () and taken == [{"node": "n1"}] * 2


_CRASH = """
import os
from aftershock import ledger
ledger.undoes("tested")(lambda data: "")
book = ledger.Ledger.open("crashed")
done = book.intend_undo("tested", {"node": "n0"})
book.undone(done)
book.intend_undo("tested", {"node": "n1"})
os._exit(0)
"""


def test_a_run_without_leftovers_leaves_no_file(state: Path) -> None:
    book = ledger.Ledger.open("tidy")
    assert left_in(state)
    book.close()
    assert left_in(state) == []


def test_a_draft_of_a_killed_writer_goes_with_its_record(state: Path) -> None:
    records = Records(str(state), "h")
    records.write({"injection": "one", "state": "armed"})
    records.order("one", "recover")
    (state / "records" / "one@h.4711.new").write_text('{"inj')
    (state / "records" / "one-more@h.4711.new").write_text("{")
    records.drop("one")
    assert [path.name for path in (state / "records").iterdir()] == ["one-more@h.4711.new"]
