"""A host is one run's, as long as its agent lives: controllers that know nothing of each other."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from wires import World, is_gone, wait_for

from aftershock.errors import NotApplied
from aftershock.hosts.fleet import Fleet
from aftershock.lock import Occupied

OURS, THEIRS = ("ours", "the run 'ours'"), ("theirs", "the run 'theirs' (process 7 on far-away)")


@pytest.fixture
def fleets() -> Iterator[tuple[Fleet, Fleet, Fleet]]:
    """Two controllers, and one more of the second."""
    made = Fleet(), Fleet(), Fleet()
    for fleet, who in zip(made, (OURS, THEIRS, THEIRS), strict=True):
        fleet.take(*who)
    yield made
    for fleet in made:
        fleet.close()


def files(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "state").rglob("alone/*")]


def test_the_second_is_refused_until_the_first_ends(
    wires: World, fleets: tuple[Fleet, Fleet, Fleet], tmp_path: Path
) -> None:
    ours, theirs, _ = fleets
    theirs.channels([wires["a"], wires["b"]])
    assert len(files(tmp_path)) == 2
    with pytest.raises(Occupied, match=r"node-a: taken by the run 'theirs' .process 7"):
        ours.fresh(wires["a"])
    with pytest.raises(Occupied, match=r"node-a: taken by .*; node-b: taken"):
        ours.channels([wires["a"], wires["b"], wires["w"]])
    assert len(files(tmp_path)) == 2, "who is refused holds nothing, not even of what was free"
    theirs.close()
    assert ours.fresh(wires["a"]).is_open
    ours.close()
    assert files(tmp_path) == []


def test_who_only_looks_on_may_look_for_two(wires: World) -> None:
    """Such as the controller's own host, beside runs of two targets."""
    ours, theirs = Fleet(), Fleet()
    try:
        for fleet, who in ((ours, OURS), (theirs, THEIRS)):
            fleet.take(*who, shared=[wires["w"]])
            assert fleet.fresh(wires["w"]).is_open
        assert ours.fresh(wires["a"]).is_open
        with pytest.raises(Occupied):
            theirs.fresh(wires["a"])
    finally:
        ours.close()
        theirs.close()


def test_those_with_one_token_stand_side_by_side(
    wires: World, fleets: tuple[Fleet, Fleet, Fleet], tmp_path: Path
) -> None:
    ours, theirs, beside = fleets
    theirs.fresh(wires["a"])
    beside.fresh(wires["a"])
    theirs.close()
    with pytest.raises(Occupied):
        ours.fresh(wires["a"])
    beside.close()
    assert files(tmp_path) == []
    ours.fresh(wires["a"])


def test_a_killed_agent_holds_nothing(
    wires: World, fleets: tuple[Fleet, Fleet, Fleet], tmp_path: Path
) -> None:
    ours, theirs, _ = fleets
    agent = theirs.fresh(wires["a"]).pid
    os.kill(agent, signal.SIGKILL)
    assert wait_for(lambda: is_gone(agent))
    assert len(files(tmp_path)) == 1
    plain = Fleet()  # such as `recover`'s: it takes nothing, and tidies up
    plain.fresh(wires["a"])
    assert files(tmp_path) == []
    plain.close()
    assert ours.fresh(wires["a"]).is_open


def test_an_agent_that_is_replaced_has_its_host_again(
    wires: World, fleets: tuple[Fleet, Fleet, Fleet]
) -> None:
    ours, theirs, _ = fleets
    agent = theirs.fresh(wires["a"]).pid
    os.kill(agent, signal.SIGKILL)
    assert wait_for(lambda: is_gone(agent) and theirs.current(wires["a"]) is None)
    theirs.fresh(wires["a"])
    with pytest.raises(Occupied):
        ours.fresh(wires["a"])


def test_where_it_cant_be_written_is_said(
    wires: World, fleets: tuple[Fleet, Fleet, Fleet], tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / "alone").write_text("in the way")
    with pytest.raises(NotApplied, match=r"alone.*: free some space there, or make it writable"):
        fleets[0].fresh(wires["a"])
