"""What else a run measures: fail-back after the heal, capacity, detection, what was lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from aftershock.slo.levels import GOLDEN, Levels
from aftershock.slo.recovery import ENDED, FAILING, GIVEN_UP, Recovery, Terms, assess
from aftershock.slo.timeline import Timeline

READY_REPLICAS = "ready_replicas"  # per zone
ZONE_SHARE = "zone_share"  # the share of traffic that a zone carries
SERVERS_UP = "servers_up"  # as the gateway sees them
DETECTED = "t_detected"  # a mark, where the gateway tells it exactly
_STILL_IN_FLIGHT_S = 10.0  # what was sent so long before the effect may have been cut by it

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Crossing:
    """When a gauge reached a level for good, in seconds after some moment.

    `censored_s`: not within so many seconds while the fault held, `after_heal_s` after it then.
    `gaps`: (from, to, kind), stretches in which it could not be watched; see `cluster.watch`.
    """

    rto_s: float | None = None
    error_s: float | None = None
    censored_s: float | None = None
    after_heal_s: float | None = None
    gaps: tuple[tuple[float, float, str], ...] = ()

    @property
    def interval_s(self) -> tuple[float, float] | None:
        """Earliest and latest."""
        if self.rto_s is None:
            return None
        error = self.error_s or 0.0
        return self.rto_s - error, self.rto_s + error

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fail_back(
    timeline: Timeline,
    levels: Levels,
    terms: Terms,
    t_heal: float,
    *,
    now: float,
    t_effect: float,
    zones: Sequence[str] = (),
    share: float = 0.8,
) -> Recovery:
    """Golden levels hold again after the heal, and the zones carry their traffic.

    A zone is back when its `zone_share` gauge reaches `share` of its mean before the effect and
    stays there. Zones without such a gauge before the effect are not waited for.
    """
    found = assess(timeline, levels, terms, t_heal, now=now, level=GOLDEN, steady_until=t_effect)
    for zone in zones:
        points = timeline.series(ZONE_SHARE).get(zone, [])
        before = _before(points, t_effect)
        if not before:
            continue
        wanted = share * sum(before) / len(before)
        found = _with_zone(found, zone, _reached([p for p in points if p[0] >= t_heal], wanted))
        if found.state == FAILING and now - t_heal > terms.patience_s:
            return replace(found, state=GIVEN_UP, censored_s=terms.patience_s)
    return found


def unseen(timeline: Timeline, t_effect: float, zones: Sequence[str]) -> tuple[str, ...]:
    """The zones whose share of the traffic nobody told: for them golden levels are all there is."""
    series = timeline.series(ZONE_SHARE)
    return tuple(zone for zone in zones if not _before(series.get(zone, []), t_effect))


def _before(points: Points, t_effect: float) -> list[float]:
    return [value for at, value in points if at < t_effect]


def _with_zone(found: Recovery, zone: str, reached: tuple[float, float] | None) -> Recovery:
    if reached is None:
        broken = (*found.broken, f"zone {zone} does not carry its share")
        state = found.state if found.state in (GIVEN_UP, ENDED) else FAILING
        return replace(found, state=state, broken=broken, rto_s=None, error_s=None)
    low, high = (moment - found.since for moment in reached)
    if found.rto_s is None or found.error_s is None or high <= found.rto_s + found.error_s:
        return found
    middle, error = round((low + high) / 2, 4), round((high - low) / 2, 4)
    return replace(found, rto_s=middle, error_s=error, decided_by=f"zone_share {zone}")


def _reached(points: Points, wanted: float) -> tuple[float, float] | None:
    """The last two polls between which a gauge came up to `wanted` to stay."""
    if not points or points[-1][1] < wanted:
        return None
    for earlier, later in reversed(list(pairwise(points))):
        if earlier[1] < wanted:
            return earlier[0], later[0]
    return points[0][0], points[0][0]


def total(series: Mapping[str, Points]) -> list[tuple[float, float]]:
    """The sum of a gauge's labels at each of its polls, each label standing at its last value.

    Labels polled together (within 50 ms) make one point; it begins when all have been seen.
    """
    points = sorted((at, label, value) for label, held in series.items() for at, value in held)
    latest: dict[str, float] = {}
    sums: list[tuple[float, float]] = []
    for at, label, value in points:
        latest[label] = value
        if len(latest) < len(series):
            continue
        if sums and at - sums[-1][0] < 0.05:
            sums[-1] = (sums[-1][0], sum(latest.values()))
        else:
            sums.append((at, sum(latest.values())))
    return sums


def _crossing(reached: tuple[float, float], since: float) -> Crossing:
    low, high = reached
    return Crossing(round((low + high) / 2 - since, 4), round((high - low) / 2, 4))


def time_to_detect(timeline: Timeline, t_effect: float) -> Crossing:
    """When the gateway first counted a server as down."""
    mark = timeline.marks.get(DETECTED)
    if mark is not None and mark >= t_effect:
        return Crossing(round(mark - t_effect, 4), 0.0)
    points = total(timeline.series(SERVERS_UP))
    for earlier, later in pairwise(points):
        if later[0] >= t_effect and later[1] < earlier[1]:
            return _crossing((max(earlier[0], t_effect), later[0]), t_effect)
    return Crossing()


@dataclass(frozen=True, slots=True)
class Losses:
    """The load's requests from the effect to `end`; cut streams also from shortly before it."""

    requests_total: int
    requests_lost: int
    requests_slow: int
    streams_cut: int
    failed_by_kind: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "failed_by_kind": dict(self.failed_by_kind)}


def losses(timeline: Timeline, t_effect: float, end: float, limit_s: float) -> Losses:
    """What the run cost: `lost` were never answered soundly, in flight at its start or later.

    What was still open at the end, and for no longer than `limit_s`, was neither: it is left out.
    """
    total = lost = slow = 0
    kinds: dict[str, int] = {}
    cut = in_flight = 0
    for at, slot in timeline.slots():
        if t_effect <= at < end:
            failed = sum(slot.failed.values())
            answered = slot.counts["good"] + slot.counts["slow"]
            hung = max(0, slot.counts["scheduled"] - answered - failed) if at < end - limit_s else 0
            total += answered + failed + hung
            lost += failed + hung
            slow += slot.counts["slow"]
            for kind, count in slot.failed.items():
                kinds[kind] = kinds.get(kind, 0) + count
        if t_effect - _STILL_IN_FLIGHT_S <= at < end:
            cut += slot.counts["cut"]
        if t_effect - _STILL_IN_FLIGHT_S <= at < t_effect:
            in_flight += sum(slot.failed.values())
    return Losses(total, lost + in_flight, slow, cut, kinds)


def error_budget_spent(timeline: Timeline, levels: Levels, start: float, end: float) -> float:
    """Bad requests of the load as a multiple of what the golden error rate allows."""
    seen = timeline.outcomes("load", start, end) if "load" in timeline.sources else None
    allowed = levels.golden["error_rate"] * seen.count if seen else 0.0
    return round(seen.bad_count / allowed, 3) if seen and allowed else 0.0
