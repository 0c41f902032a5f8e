"""The matrix: what happens, when, and to hosts reached in which way.

A cell that makes no sense says why; the table shows it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from play import (
    LATER_S,
    Drama,
    books_are_in_order,
    hosts_are_as_before,
    in_flight,
    nobody_is_left,
    open_injections,
    recover,
    recovers,
)
from sites import WAYS

from aftershock.agent.clock import boottime
from tests.agent.disks import small_disk

# Beside other tests a cell takes longer than two seconds to get to its stage.
LEASES_S = (8.0, 24.0) if "PYTEST_XDIST_WORKER" in os.environ else (2.0, 8.0, 24.0)
STAGES = ("before arming", "armed", "fired", "reverting")
NOTHING_CUT = "the fault cuts nothing before it is fired"
NO_ROLLBACK = "nothing is armed, so there is no rollback to interrupt"
NONSENSE = {
    ("network cut by the fault", "before arming"): NOTHING_CUT,
    ("network cut by the fault", "armed"): NOTHING_CUT,
    ("second Ctrl-C", "before arming"): NO_ROLLBACK,
}
Event = Callable[[Drama, str], float | None]  # seconds until healed, where it can tell


@dataclass(frozen=True)
class Cell:
    """One square of the table."""

    event: str
    stage: str
    way: str

    @property
    def nonsense(self) -> str:
        """Why it can't be played, or nothing."""
        return NONSENSE.get((self.event, self.stage), "")

    def __str__(self) -> str:
        return f"{self.event} {self.stage} {self.way}".replace(" ", "-")

    def play(self, folder: Path) -> float:
        """Play it, look at everything; seconds from the event until the hosts were as before.

        Played again with a longer lease while the machine is too busy to get there within it.
        """
        for lease_s in LEASES_S:
            place = folder / f"lease-{lease_s:g}"
            place.mkdir()
            with WAYS[self.way](place) as site:
                drama = Drama(site, place, lease_s)
                try:
                    return self._play(drama)
                except AssertionError:
                    if not drama.is_late() or lease_s == LEASES_S[-1]:
                        raise
                    # The site can't be taken down while agents still work on it.
                    drama.close()
                    nobody_is_left(drama, lease_s + LATER_S)
                finally:
                    drama.close()
        raise AssertionError("no lease to try")

    def _play(self, drama: Drama) -> float:
        took = EVENTS[self.event](drama, self.stage) or hosts_are_as_before(drama)
        nobody_is_left(drama)
        books_are_in_order(drama)
        healed = recovers(drama)
        if drama.final and not drama.deadline_only:
            assert "Nothing was left behind" in healed[0], healed
        hosts_are_as_before(drama)
        return took


def signalled(number: signal.Signals) -> Event:
    """The controller takes a signal as a run does: it reverts, and ends by itself."""

    def play(drama: Drama, stage: str) -> None:
        _reach(drama, stage)
        drama.hurt()
        drama.kill(number)
        final = drama.end()
        assert final["received"] == [number.name] and not final["errors"], final
        _taken_back(drama, stage)

    return play


def _reach(drama: Drama, stage: str, *more: str) -> None:
    drama.start(stage, *more)
    drama.reach(stage)
    in_flight(drama, stage)


def _taken_back(drama: Drama, stage: str) -> None:
    """The controller has seen for itself that all is over and clean."""
    assert drama.final
    told = drama.final["told"]
    if stage != "before arming":
        assert told["reverted"] is True and told["clean"] is True, told


def controller_killed(drama: Drama, stage: str) -> None:
    """SIGKILL of the controller: the agents lose their channels, and nobody reverts."""
    _reach(drama, stage)
    drama.hurt()
    drama.kill(signal.SIGKILL)
    drama.process.wait()
    assert len(open_injections(drama)) == (0 if stage == "before arming" else 1)


def agent_killed(drama: Drama, stage: str) -> float:
    """SIGKILL of every agent: the kernel lets go, watchers undo, the controller goes on."""
    _reach(drama, stage)
    drama.hurt()
    for pid in drama.agents:
        os.kill(pid, signal.SIGKILL)
    took = hosts_are_as_before(drama)
    final = drama.end()
    if stage == "before arming":  # all of its life was still to come
        drama.looked_at = boottime()
    _fails_only_armed(final, stage)
    _taken_back(drama, "fired")
    assert final["told"]["ordered"] is (stage == "before arming"), final["told"]
    return took


def _fails_only_armed(final: dict[str, Any], stage: str) -> None:
    """What isn't there any more can't be fired; before arming a fresh agent takes over, if the
    death was noticed in time."""
    if stage != "before arming":
        assert bool(final["errors"]) == (stage == "armed"), final["errors"]


def channel_cut(drama: Drama, stage: str) -> float:
    """All channels go at once, and the agents with them; the controller goes on."""
    _reach(drama, stage)
    drama.hurt()
    if drama.site.cut:
        drama.site.cut()
    else:
        drama.say("cut")
    took = hosts_are_as_before(drama)
    final = drama.end()
    _fails_only_armed(final, stage)
    _taken_back(drama, "fired")
    return took


def network_cut(drama: Drama, stage: str) -> float | None:
    """The fault cuts its own channel: only the deadline heals, and then the records tell."""
    drama.deadline_only = True
    _reach(drama, stage)
    drama.hurt()
    if drama.site.cut is None:
        drama.say("cut")  # a pipe isn't of the network: cut as if it were
    time.sleep(drama.lease_s / 4)
    in_flight(drama, "fired")
    took = hosts_are_as_before(drama) if stage == "fired" else None
    final = drama.end()
    ends = {part["ended_by"] for part in final["told"]["per_host"].values()}
    assert ends <= ({"deadline"} if took else {"deadline", "order"}), ends
    return took


def second_ctrl_c(drama: Drama, stage: str) -> None:
    """Ctrl-C, and again during the rollback that follows."""
    more = () if stage == "reverting" else ("reverting",)
    _reach(drama, stage, *more)
    drama.hurt()
    drama.kill(signal.SIGINT)
    if more:
        drama.reach("reverting")
    else:
        drama.hear("already cleaning up")  # two in the very same moment are one
    drama.kill(signal.SIGINT)
    final = drama.end()
    drama.looked_at = boottime()  # until here it was to be on
    assert final["received"] == ["SIGINT"] * 2 and not final["errors"], final
    _taken_back(drama, stage)
    assert final["told"]["ordered"] is True


def disk_full(drama: Drama, stage: str) -> float:
    """No room for ledger and records: what is on goes on order, what isn't is refused."""
    with small_disk(drama.disk) as fill:
        _reach(drama, stage)
        drama.hurt()
        free = fill()
        final = drama.end()
        if stage in ("before arming", "armed"):  # it was still to be fired
            drama.looked_at = boottime()
        said = " ".join(final["errors"])
        assert ("No space left" in said and "free some space" in said) == (
            stage in ("before arming", "armed")
        ), said
        took = hosts_are_as_before(drama)
        nobody_is_left(drama)
        while_full = recover(drama)
        assert while_full.returncode == 0, while_full.stdout + while_full.stderr
        free()
        books_are_in_order(drama)
        recovers(drama)
    drama.final = None
    return took


def overlapping(drama: Drama, stage: str) -> None:
    """Another injection like it is fired at this stage; it outlasts the first, and then its host.

    The first is taken back on order, the second must go on biting, and goes with its controller.
    """
    _reach(drama, stage, "reverted")
    drama.say("overlap")
    drama.say_go_to("reverted")
    in_flight(drama, "fired", twice=True)
    drama.hurt()
    drama.kill(signal.SIGKILL)
    drama.process.wait()
    assert len(open_injections(drama)) == 1


EVENTS: dict[str, Event] = {
    "SIGINT": signalled(signal.SIGINT),
    "SIGTERM": signalled(signal.SIGTERM),
    "SIGHUP": signalled(signal.SIGHUP),
    "SIGKILL": controller_killed,
    "SIGKILL of the agent": agent_killed,
    "channel cut": channel_cut,
    "network cut by the fault": network_cut,
    "second Ctrl-C": second_ctrl_c,
    "disk full": disk_full,
    "overlapping": overlapping,
}
CELLS = [Cell(event, stage, way) for event in EVENTS for stage in STAGES for way in WAYS]
SENSIBLE = [cell for cell in CELLS if not cell.nonsense]


def sample(seed: int) -> list[Cell]:
    """A cell of each event, with chance deciding when and where."""
    rng = random.Random(seed)
    return [rng.choice([cell for cell in SENSIBLE if cell.event == event]) for event in EVENTS]
