"""Load held for hours, with a fault every so often, at times and in zones that chance picks.

Each fault must be recovered from within the objective, and nothing may creep up in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from aftershock import run as runs
from aftershock.errors import InvalidInput
from aftershock.run import judging, wording
from aftershock.run.breaking import Foreseen
from aftershock.run.creep import Creep
from aftershock.run.injecting import Injected
from aftershock.slo import aftermath
from aftershock.slo.drift import Trend
from aftershock.slo.recovery import Recovery, assess

if TYPE_CHECKING:
    from aftershock.run.session import Run

KINDS = ("fail_zone", "partition_zone")
_POLL_S = 0.5
_BLOCKS, _SHORTEST_S, _LONGEST_S = 120, 1.0, 60.0
_CONFIDENCE = 0.95
Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Round:
    """A fault that is due so long after the soak began."""

    at_s: float
    kind: str
    zone: str


def planned(
    seed: int, lasts_s: float, every_s: float, room_s: float, zones: Sequence[str], kinds: Any
) -> list[Round]:
    """Faults `every_s` apart, half as much more or less, each with `room_s` before the end."""
    rng, found = Random(f"{seed}/soak"), list[Round]()
    at = every_s * rng.uniform(0.5, 1.5)
    while at + room_s <= lasts_s:
        found.append(Round(round(at, 3), rng.choice(kinds), rng.choice(zones)))
        at += every_s * rng.uniform(0.5, 1.5)
    return found


def soak(every_s: Any, kinds: str, zones: str, most_drift: Any, lease_s: Any) -> Told:
    """See `aftershock.actions.load.soak`."""
    run = runs.current()
    lasts_s, gap_s = run.settings.soak_s, wording.number("every_s", every_s)
    allowed = wording.number("most_drift_percent_per_h", most_drift)
    lease = wording.number("lease_s", lease_s)
    rounds = _rounds(run, lasts_s, gap_s, kinds, zones)
    if run.breaking.foreseeing:
        raise _foreseen(run, rounds, lease)
    if allowed <= 0:
        raise InvalidInput(f"most_drift_percent_per_h is {allowed:g}: give a percentage above 0")
    return Soak(run, rounds, lasts_s, allowed, lease).go()


def _rounds(run: Run, lasts_s: float, gap_s: float, kinds: str, zones: str) -> list[Round]:
    told = run.settings
    names = [word.strip() for word in kinds.split(",") if word.strip()]
    if unknown := [name for name in names if name not in KINDS] or ([] if names else ["none"]):
        raise InvalidInput(f"faults has {unknown[0]!r}: give some of {', '.join(KINDS)}")
    known = run.target.inventory.zones()
    chosen = [word.strip() for word in zones.split(",") if word.strip()] or list(known)
    if strange := [zone for zone in chosen if zone not in known]:
        raise InvalidInput(f"zones has {strange[0]!r}: give some of {', '.join(known)}")
    room_s = 3 * told.hold_s + told.rto_objective_s
    found = planned(told.seed, lasts_s, gap_s, room_s, chosen, names) if gap_s > 0 else []
    if not found:
        raise InvalidInput(
            f"soak_s is {lasts_s:g} and every_s {gap_s:g}: no fault fits in; every_s must be above "
            f"0, and soak_s half as much again and {room_s:g} s more"
        )
    return found


def _foreseen(run: Run, rounds: Sequence[Round], lease_s: float) -> Foreseen:
    parts: list[Injected] = []
    for one in {(one.kind, one.zone): one for one in rounds}.values():
        try:
            _break(run, one, lease_s)
        except Foreseen as found:
            parts += found.parts
    last = f", the last after {rounds[-1].at_s:.0f} s" if rounds[1:] else ""
    due = (
        f"{len(rounds)} faults by seed {run.settings.seed}, the first after {rounds[0].at_s:.0f} s"
    )
    return Foreseen(parts, [due + last])


def _break(run: Run, one: Round, lease_s: float) -> Told:
    if one.kind == "fail_zone":
        return run.breaking.fail_zone(one.zone, lease_s, "", "")
    return run.breaking.partition_zone(one.zone, lease_s, "")


class Soak:
    """One soak, as a run sees it."""

    def __init__(
        self, run: Run, rounds: Sequence[Round], lasts_s: float, most_drift: float, lease_s: float
    ) -> None:
        self._run, self._rounds, self._most = run, rounds, most_drift
        self._lasts_s, self._lease_s = lasts_s, lease_s
        self._creep = Creep(run, min(max(lasts_s / _BLOCKS, _SHORTEST_S), _LONGEST_S))

    def go(self) -> Told:
        """Hold the load to its end; what was found, which is in the verdict, too."""
        run, began = self._run, time.monotonic()
        run.soak = {"lasts_s": self._lasts_s, "planned": len(self._rounds), "rounds": []}
        try:
            run.phase("soak")
            for one in self._rounds:
                self._hold(began + one.at_s)
                run.soak["rounds"].append(self._go_round(one))
                self._creep.quiet_again()
                run.phase("soak")
            self._hold(began + self._lasts_s)
        finally:
            self._creep.stop()
            found = self._creep.trends(_CONFIDENCE)
            run.soak |= {"most_drift_percent_per_h": self._most, "drift": self._told(found)}
        return run.soak

    def _told(self, found: Sequence[Mapping[str, Any]]) -> list[Told]:
        told = []
        for one in found:
            trend: Trend = one["trend"]
            told.append({**trend.as_dict(), "word": trend.word(self._most)})
        return told

    def _hold(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            self._run.load.check_alive()
            self._creep.look()
            time.sleep(min(left, _POLL_S))

    def _go_round(self, one: Round) -> Told:
        """Break, wait for the recovery, heal, wait for the fail-back."""
        run = self._run
        told = _break(run, one, self._lease_s)
        fired = [part["fired_at_monotonic_s"] for part in told["injections"]]
        effect = min(at for at in fired if at is not None)
        terms = judging.terms(run)
        recovery = self._await(
            effect + terms.patience_s + terms.hold_s + 4 * terms.window_s,
            lambda now: assess(run.timeline, run.levels, terms, effect, now=now),
        )
        run.breaking.heal_everything()
        healed, terms = time.monotonic(), judging.failback_terms(run)
        failback = self._await(
            healed + terms.patience_s + terms.hold_s + 4 * terms.window_s,
            lambda now: aftermath.fail_back(
                run.timeline, run.levels, terms, healed, now=now, t_effect=effect, zones=[one.zone]
            ),
        )
        if run.recovery is None:  # the run's own figures are those of the first fault
            run.recovery, run.failback = recovery, failback
        said = f"{one.kind} {one.zone}: {_span(recovery)}, fail-back {_span(failback)}"
        run.console.say("soak", said)
        return {
            "at_s": one.at_s,
            "fault": one.kind,
            "zone": one.zone,
            **_of(recovery, "rto"),
            **_of(failback, "failback"),
        }

    def _await(self, latest: float, look: Callable[[float], Recovery]) -> Recovery:
        while True:
            self._run.load.check_alive()
            found = look(time.monotonic())
            if found.final or time.monotonic() > latest:
                return found
            time.sleep(_POLL_S)


def _span(found: Recovery) -> str:
    if found.rto_s is None:
        return f"{found.state} after {found.censored_s or 0:g} s"
    return f"{found.rto_s:.2f} s ± {found.error_s or 0:.2f}"


def _of(found: Recovery, name: str) -> Told:
    return {
        f"{name}_s": found.rto_s,
        f"{name}_error_s": found.error_s,
        f"{name}_censored_s": found.censored_s,
        f"{name}_state": found.state,
    }
