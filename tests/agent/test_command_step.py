"""Somebody's own commands under our lease: applied, checked, undone, whoever dies."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from held import held
from wires import is_gone, wait_for

from aftershock.errors import HostUnreachable, NotApplied, NotReverted
from aftershock.faults.command import Command
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger

HERE = Node("here", "none", ("127.0.0.1",), devices=("lo",))


@pytest.fixture
def agent(fleet: Fleet) -> AgentChannel:
    return fleet.fresh(HERE)


@pytest.fixture
def thing(tmp_path: Path) -> Path:
    """What the commands break: there, or not."""
    return tmp_path / "broken"


def command(thing: Path, **more: Any) -> dict[str, Any]:
    words = {"apply": ["touch", str(thing)], "undo": ["rm", "-f", str(thing)]}
    return {"kind": "command", **words, "check": ["test", "-e", str(thing)], "timeout_s": 5, **more}


def test_before_during_after(agent: AgentChannel, thing: Path) -> None:
    with held(agent, command(thing), fire=False) as holding:
        assert not thing.exists(), "armed, yet nothing is done"
        holding.ask("fire")
        assert thing.exists() and holding.ask("observe")[0]["ok"] is True
        thing.unlink()
        assert holding.ask("observe")[0]["ok"] is False, "the check is asked anew"
        thing.touch()
        assert holding.ask("revert")["ordered"] is True
    assert not thing.exists()


def test_an_effect_that_is_there_already_is_refused(agent: AgentChannel, thing: Path) -> None:
    thing.touch()
    with (
        pytest.raises(NotApplied, match="there already, before the fault"),
        held(agent, command(thing)),
    ):
        pass
    assert thing.exists(), "what was not ours is not undone"


def test_a_check_that_cannot_run_is_refused(agent: AgentChannel, thing: Path) -> None:
    for check, said in (
        (["no-such-program"], "No such file or directory: no-such-program"),
        (["sh", "-c", "echo my disk is gone; exit 3"], "ended 3: my disk is gone"),
        (["sleep", "9"], "took longer than 0.3 s"),
    ):
        step = command(thing, check=check, timeout_s=0.3)
        with pytest.raises(NotApplied, match=said), held(agent, step):
            pass


def test_an_apply_that_fails_is_undone(agent: AgentChannel, thing: Path) -> None:
    step = command(thing, apply=["sh", "-c", f"touch {thing}; echo half done; exit 4"])
    with held(agent, step, fire=False) as holding:
        with pytest.raises(NotApplied, match="ended 4: half done"):
            holding.ask("fire")
        holding.ask("revert")
        assert not thing.exists()


def test_an_apply_that_hangs_is_ended_with_all_it_began(agent: AgentChannel, thing: Path) -> None:
    number = thing.with_suffix(".pid")
    step = command(thing, apply=["sh", "-c", f"sleep 99 & echo $! >{number}; wait"], timeout_s=0.5)
    with held(agent, step, fire=False) as holding:
        with pytest.raises(NotApplied, match=r"took longer than 0\.5 s"):
            holding.ask("fire")
        assert wait_for(lambda: is_gone(int(number.read_text())))


def test_an_undo_that_fails_is_told_and_tried_again(agent: AgentChannel, thing: Path) -> None:
    key = thing.with_suffix(".key")
    undo = ["sh", "-c", f"test -e {key} || {{ echo no key; exit 1; }}; rm -f {thing}"]
    with held(agent, command(thing, undo=undo)) as holding:
        with pytest.raises(NotReverted, match="ended 1: no key"):
            holding.ask("revert")
        assert thing.exists()
        key.touch()
        holding.ask("revert")
        assert not thing.exists()


def test_an_undo_that_does_nothing_is_told(agent: AgentChannel, thing: Path) -> None:
    with held(agent, command(thing, undo=["true"])) as holding:
        with pytest.raises(NotReverted, match="still sees the effect"):
            holding.ask("revert")
        thing.unlink()
        holding.ask("revert")


def test_the_deadline_undoes(agent: AgentChannel, thing: Path) -> None:
    with held(agent, command(thing), lease_s=3) as holding:
        assert thing.exists()
        assert wait_for(lambda: not thing.exists(), 10)
        assert holding.ask("record")["ended_by"] == "deadline"


def test_sigkill_of_the_agent_undoes(agent: AgentChannel, thing: Path) -> None:
    with held(agent, command(thing)):
        os.kill(agent.pid, signal.SIGKILL)
        assert wait_for(lambda: not thing.exists(), 10), "the watcher has the undo"
        assert wait_for(lambda: not agent.is_open)


def test_sigkill_of_an_armed_agent_undoes_nothing(agent: AgentChannel, thing: Path) -> None:
    with held(agent, command(thing), fire=False):
        thing.touch()  # somebody else's
        os.kill(agent.pid, signal.SIGKILL)
        assert wait_for(lambda: not agent.is_open)
        assert wait_for(lambda: '"reverted"' in record(thing)), "the watcher came and went"
    assert thing.exists()


def record(thing: Path) -> str:
    (path,) = (thing.parent / "state" / "records").glob("*.json")
    return path.read_text()


def test_an_apply_ends_with_its_agent(agent: AgentChannel, thing: Path) -> None:
    """Or it would go on applying after the watcher's undo."""
    number = thing.with_suffix(".pid")
    slow = f"import os,time; open({str(number)!r},'w').write(str(os.getpid())); time.sleep(30)"
    step = command(thing, apply=[sys.executable, "-c", slow], timeout_s=40)
    with held(agent, step, fire=False) as holding:
        answer = agent.post("fire", injection=holding.injection)
        assert wait_for(lambda: number.exists() and number.read_text() != "", 10)
        os.kill(agent.pid, signal.SIGKILL)
        assert wait_for(lambda: is_gone(int(number.read_text())))
        with pytest.raises(HostUnreachable):
            agent.result(answer, "fire")
    time.sleep(0.1)


def test_words_are_a_list(agent: AgentChannel, thing: Path) -> None:
    from aftershock.errors import InvalidInput

    with (
        pytest.raises(InvalidInput, match="apply 'rm -rf': a list of words"),
        held(agent, command(thing, apply="rm -rf")),
    ):
        pass


def test_an_undo_that_fails_is_told_in_its_own_words_and_tried_again(
    fleet: Fleet, ledger: Ledger, thing: Path, tmp_path: Path
) -> None:
    busy = tmp_path / "busy"
    busy.touch()
    undo = f"if [ -e {busy} ]; then echo the switch is busy; exit 3; else rm -f {thing}; fi"
    fault = Command(("touch", str(thing)), ("sh", "-c", undo))
    injection = Injection(fault, [HERE], lease_s=30, ledger=ledger, fleet=fleet)
    injection.arm()
    injection.fire()
    with pytest.raises(NotReverted, match=r"ended 3: the switch is busy.*recover"):
        injection.revert()
    told = injection.to_dict()
    assert told["reverted"] is False and "busy" in told["per_host"]["here"]["error"]
    busy.unlink()
    injection.revert()
    assert injection.to_dict()["clean"] is True and not thing.exists()


def test_without_a_check_nothing_proves_the_effect(
    fleet: Fleet, ledger: Ledger, thing: Path
) -> None:
    fault = Command(("touch", str(thing)), ("rm", "-f", str(thing)))
    injection = Injection(fault, [HERE], lease_s=30, ledger=ledger, fleet=fleet)
    injection.arm()
    injection.fire()
    assert thing.exists() and injection.observe(within_s=0)["bit"] is False
    injection.revert()
    assert injection.to_dict()["clean"] is True and not thing.exists()
