"""No room for records and ledger: what is on still goes, and what was said of it stays readable."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import small_disk
from held import drop, tbf
from wires import HOOKS, Inject, World, arrives, cut_off, is_gone, lost, wait_for

from aftershock import ledger as books
from aftershock.errors import InvalidInput, NotApplied
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.ledger import Ledger
from aftershock.recover import recover

pytestmark = pytest.mark.root
Fill = Callable[[], Callable[[], None]]


@pytest.fixture
def fill(state: Path) -> Iterator[Fill]:
    """Fill the disk that records and ledger are on; what is returned frees it again."""
    with small_disk(state) as full:
        yield full


@pytest.fixture
def ledger(fill: Fill) -> Iterator[Ledger]:
    """A run's book, on the small disk."""
    made = Ledger.open("run-under-test")
    yield made
    made.close()


def test_a_line_that_found_no_room_spoils_no_other(fill: Fill, ledger: Ledger) -> None:
    free = fill()
    with pytest.raises(InvalidInput, match="free some space"):
        ledger.note("arming", injection="lost", nodes=["x" * 8000], agents={})
    free()
    ledger.note("arming", injection="kept", nodes=[], agents={})
    assert list(books.read(ledger.path).injections) == ["kept"]
    for line in ledger.path.read_text().splitlines():
        json.loads(line)
    ledger.note("reverted", injection="kept")


def test_a_ledger_that_finds_no_room_leaves_no_file(fill: Fill, state: Path) -> None:
    (state / "runs").mkdir()
    free = fill()
    with pytest.raises(InvalidInput, match="free some space"):
        Ledger.open("run-without-room")
    free()
    assert not list((state / "runs").iterdir())


def test_arming_says_what_is_full_and_leaves_no_draft(
    wires: World, inject: Inject, fill: Fill, state: Path
) -> None:
    free = fill()
    with pytest.raises(NotApplied, match=r"No space left on device.*free some space"):
        inject()
    free()
    assert arrives(wires["w"], wires["a"])
    assert not list(state.rglob("*.new"))


@pytest.mark.parametrize("hook", HOOKS)
def test_an_order_reaches_an_agent_whose_channel_is_lost(
    wires: World, inject: Inject, fleet: Fleet, fill: Fill, hook: str
) -> None:
    """With no room to leave it, either."""
    injection = inject(hook=hook, deadline_only=True)
    channel = fleet.fresh(wires["a"])
    agent = channel.pid
    channel.abandon(0)
    free = fill()
    assert lost(wires["w"], wires["a"])
    injection.revert()
    assert arrives(wires["w"], wires["a"]) and wait_for(lambda: is_gone(agent))
    told = injection.to_dict()
    assert told["clean"] is True
    assert told["ordered"] is True, "it lasted until the order, though nobody could write that down"
    free()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_dead_agents_part_is_healed_and_told(
    wires: World, inject: Inject, fleet: Fleet, fill: Fill, hook: str
) -> None:
    injection = inject(hook=hook)
    free = fill()
    agent = fleet.fresh(wires["a"]).pid
    os.kill(agent, signal.SIGKILL)
    assert wait_for(lambda: is_gone(agent))
    injection.revert()
    assert injection.to_dict()["clean"] is True
    assert arrives(wires["w"], wires["a"])
    assert "clsact" not in wires.tc("a", "qdisc", "show", "dev", "eth0")
    free()


def test_what_could_not_be_noted_is_told_by_recover(
    wires: World, fleet: Fleet, state: Path
) -> None:
    """The order came and the host is clean, only the ledger has no room to say so."""
    with small_disk(state / "runs") as fill:
        book = Ledger.open("run-under-test")
        injection = Injection(cut_off(wires), [wires["a"]], lease_s=30, ledger=book, fleet=fleet)
        injection.arm()
        injection.fire()
        free = fill()
        _use_up(book)
        assert injection.revert().clean
        fleet.close()
        found = recover(force=True)
        assert found.healed and "it had healed already (order)" in found.lines()[0], found.lines()
        free()
        book.note("reverted", injection=injection.id)
        book.close()


def _use_up(ledger: Ledger) -> None:
    """The last block of the ledger's file, too."""
    with pytest.raises(InvalidInput):
        while True:
            ledger.note("nothing")


def links(wires: World) -> str:
    words = ["ip", "-n", wires.netns("a"), "-br", "link"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_an_undo_that_fails_keeps_no_other_step(wires: World, fleet: Fleet, state: Path) -> None:
    """In a dead agent's place: the detour's pair goes, though a command's undo can't succeed."""
    command = {"kind": "command", "apply": ["true"], "undo": ["false"], "check": None}
    command["timeout_s"] = 5.0
    channel = fleet.fresh(wires["a"])
    steps = [tbf(8_000_000), drop(directions=["ingress"], hook="clsact"), command]
    channel.ask("arm", injection="three", steps=steps, lease_s=30)
    channel.ask("fire", injection="three")
    os.kill(channel.pid, signal.SIGKILL)
    assert wait_for(lambda: "as-" not in links(wires)), links(wires)
    assert wait_for(lambda: "clsact" not in wires.tc("a", "qdisc", "show", "dev", "eth0"))
    record = json.loads(next((state / "records").glob("three@*")).read_text())
    assert record["state"] != "reverted", "what is left must not be forgotten"
