"""What happened when: the moments of a run, for the picture and for a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aftershock.report.sentences import count
from aftershock.slo.timeline import Timeline

PHASE = "phase:"
EFFECT, HEALED = "t_effect", "t_healed"
_PHASES = {
    "lab": "the run begins",
    "steady": "load is on, the steady state is watched",
    "arming": "hosts are armed",
    "waiting": "whether requests feel it is watched",
    "failing": "requests fail, the service is waited for",
    "recovering": "requests are good again; whole windows must prove it",
    "back": "the service is back, the hold begins",
    "failback": "waiting for the fail-back",
    "stopping": "load stops, what is ours is taken down",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened; `at` is in seconds after the fault, `short` what a picture says."""

    at: float
    text: str
    short: str = ""


def zero_of(timeline: Timeline) -> float:
    """Where the clock of the report stands at 0: the first firing, else the run's beginning."""
    marks = timeline.marks
    return marks.get(EFFECT, min(marks.values(), default=0.0))


def moments(timeline: Timeline, document: Mapping[str, Any]) -> list[Moment]:
    """Phases and milestones, in order of time."""
    zero = zero_of(timeline)
    phases = [
        Moment(at - zero, _PHASES[name.removeprefix(PHASE)])
        for name, at in timeline.marks.items()
        if name.removeprefix(PHASE) in _PHASES
    ]
    return sorted([*phases, *milestones(timeline, document)], key=lambda moment: moment.at)


def milestones(timeline: Timeline, document: Mapping[str, Any]) -> list[Moment]:
    """What was broken, noticed, and got back."""
    marks, zero = timeline.marks, zero_of(timeline)
    found = list(_fired(document, zero))
    if EFFECT in marks:
        found = found or [Moment(0.0, "the fault fires")]
        found[0] = replace(found[0], short="fault")
        found += [*_healed_early(document, zero), *_after_effect(document)]
    if HEALED in marks:
        healed = marks[HEALED] - zero
        found.append(Moment(healed, "the heal is ordered", "heal"))
        found += _after_heal(document, healed)
    return sorted(found, key=lambda moment: moment.at)


def _fired(document: Mapping[str, Any], zero: float) -> Iterator[Moment]:
    for injection in document["injections"]:
        at = injection.get("fired_at_monotonic_s")
        if at is None:
            continue
        hosts = len(injection.get("hosts") or ())
        skew = injection.get("skew_ms")
        apart = f", {skew:.1f} ms apart" if skew is not None and hosts > 1 else ""
        nodes = count(hosts, str(injection.get("of", "node")))
        yield Moment(at - zero, f"{injection['fault']} fired on {nodes}{apart}")


def _healed_early(document: Mapping[str, Any], zero: float) -> Iterator[Moment]:
    for injection in document["injections"]:
        parts = (injection.get("per_host") or {}).values()
        ends = [part.get("reverted_at_monotonic_s") for part in parts]
        known = [end for end in ends if end is not None]
        if injection.get("healed_early") and known:
            name = injection["fault"]
            yield Moment(
                min(known) - zero, f"{name} healed without an order", f"{name} heals by itself"
            )


def _after_effect(document: Mapping[str, Any]) -> Iterator[Moment]:
    first, detected = document["first_bad_s"], document["time_to_detect_s"]
    rto, error = document["service_rto_s"], document["service_rto_error_s"]
    if first is not None:
        yield Moment(first, "the first request goes bad", "first bad")
    if detected is not None:
        yield Moment(detected, "the gateway counts a server as down", "detected")
    if rto:
        yield Moment(rto, f"service back: {rto:.2f} s ± {error:.3f}", f"service back {rto:.2f} s")
    for relapse in document["relapses_s"]:
        yield Moment(relapse, "the service fails again", "fails again")
    if document["capacity_rto_s"]:
        yield Moment(
            document["capacity_rto_s"], "as many replicas ready as before", "capacity back"
        )


def _after_heal(document: Mapping[str, Any], healed: float) -> Iterator[Moment]:
    failback, capacity = document["failback_rto_s"], document["capacity_after_heal_s"]
    if capacity is not None:
        yield Moment(healed + capacity, "as many replicas ready as before", "capacity back")
    if failback is not None:
        text = f"failed back: golden levels hold, the zone carries its share ({failback:.2f} s)"
        yield Moment(healed + failback, text, "failed back")
