"""The second clock: when as many replicas were ready again as before the fault."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from aftershock.slo.aftermath import READY_REPLICAS, Crossing, Points
from aftershock.slo.timeline import Timeline

REPLICAS_GAP = "ready_replicas_gap"  # label: late or lost; at its end, the value is its length
REPLICAS_DELAY = "ready_replicas_delay"  # how long before a count it may have been so already
LATE, LOST = "late", "lost"

Gaps = Sequence[tuple[float, float, str]]


def capacity(timeline: Timeline, t_effect: float, t_heal: float | None, now: float) -> Crossing:
    """When as many replicas were ready again as before; empty when nobody watched.

    Counts stand from one change to the next. A moment that fell into a gap of the watch lies
    anywhere in it; a `lost` gap may also hide a loss, and around the fault itself it leaves nothing
    to compare with. What is later than `now` doesn't count: another fault's, perhaps.
    """
    points = [point for point in counts(timeline) if point[0] <= now]
    index = bisect_left(points, (t_effect,))
    if index == 0:
        return Crossing()
    gaps = _gaps(timeline)
    told = tuple(
        (round(start - t_effect, 3), round(end - t_effect, 3), kind)
        for start, end, kind in gaps
        if end >= t_effect
    )
    if any(start <= t_effect <= end and kind == LOST for start, end, kind in gaps):
        return Crossing(gaps=told)
    wanted = points[index - 1][1]
    held = now if t_heal is None else min(t_heal, now)
    known = min([held, *(start for start, end, _ in gaps if t_effect < start < held <= end)])
    after = points[index:]
    during = [point for point in after if point[0] <= known]
    low_points = [at for at, value in during if value < wanted]
    if not low_points and known == held:
        return _undisturbed(timeline, gaps, t_effect, held, told)
    back = _back(during, wanted)
    if back is not None and low_points:
        low, high = _bracket(timeline, gaps, back)
        middle, error = (low + high) / 2 - t_effect, (high - low) / 2
        return Crossing(round(middle, 4), round(error, 4), gaps=told)
    came = _back(after, wanted)
    since_heal = round(max(came - t_heal, 0.0), 3) if came and t_heal is not None else None
    return Crossing(censored_s=round(known - t_effect, 3), after_heal_s=since_heal, gaps=told)


def counts(timeline: Timeline) -> list[tuple[float, float]]:
    """How many replicas were ready, all zones together, from each of these moments on."""
    sums: dict[float, float] = {}
    for points in timeline.series(READY_REPLICAS).values():
        for at, value in points:
            sums[at] = sums.get(at, 0.0) + value
    return sorted(sums.items())


def _gaps(timeline: Timeline) -> list[tuple[float, float, str]]:
    series = timeline.series(REPLICAS_GAP)
    return sorted(
        (end - length, end, kind) for kind, points in series.items() for end, length in points
    )


def _undisturbed(
    timeline: Timeline, gaps: Gaps, t_effect: float, held: float, told: Gaps
) -> Crossing:
    """Never seen below; what a gap hid was over by its end."""
    hidden = [end for start, end, kind in gaps if kind == LOST and t_effect < start < held]
    if hidden:
        half = (min(max(hidden), held) - t_effect) / 2
        return Crossing(round(half, 4), round(half, 4), gaps=tuple(told))
    longest = max((value for _, value in _delays(timeline)), default=0.0)
    return Crossing(0.0, round(longest, 4), gaps=tuple(told))


def _back(points: Points, wanted: float) -> float | None:
    """From when on the count stayed at what is wanted, up to the last point."""
    found = None
    for at, value in points:
        if value < wanted:
            found = None
        elif found is None:
            found = at
    return found


def _bracket(timeline: Timeline, gaps: Gaps, at: float) -> tuple[float, float]:
    delay = next((value for moment, value in _delays(timeline) if moment == at), 0.0)
    return min([at - delay, *(start for start, end, _ in gaps if start < at <= end)]), at


def _delays(timeline: Timeline) -> Points:
    return [point for points in timeline.series(REPLICAS_DELAY).values() for point in points]
