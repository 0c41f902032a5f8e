"""When a service returned: each source's last bad moment, the windows' word, and who decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from aftershock.slo.changepoint import Moment, disturbed, locate
from aftershock.slo.slots import TICK_S
from aftershock.slo.timeline import LOAD, Timeline

_STEADY_S = 60.0  # of the time before the effect this much tells the background
_FEWEST = 100  # samples for a 99th percentile
_STRAY = 1  # this many bad requests of a source are no outage; the windows judge them


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive good windows, from the first one's start to the last one's end.

    `last_bad` is the start of the last bad window before it, `block` where that stretch of bad
    windows began; None when there was none. `again`: the service had been back before that.
    """

    start: float
    end: float
    last_bad: float | None = None
    block: float | None = None
    again: bool = False


def steady_counts(timeline: Timeline, source: str, until: float) -> tuple[int, int]:
    """(bad, total) of a source before the effect, without what was still in flight then."""
    seen = timeline.outcomes(source, until - _STEADY_S, until - 1.0)
    return seen.bad_count, seen.count


def returned(
    timeline: Timeline, run: Run, since: float, step_s: float, steady_until: float
) -> dict[str, Any]:
    """When the service returned, given that it was back in this run of windows.

    The fields of a Recovery that follow from it.
    """
    moments: dict[str, Moment] = {}
    last_bad: dict[str, float] = {}
    begins: list[Moment] = []
    per_source: dict[str, dict[str, Any]] = {}
    start = run.block if run.again and run.block is not None else since
    for source in timeline.sources:
        seen = timeline.outcomes(source, start, run.end)
        counts = per_source[source] = {"requests": seen.count, "bad": seen.bad_count}
        steady = steady_counts(timeline, source, steady_until)
        if seen.bad_count <= _STRAY or not disturbed(seen, steady):
            continue
        outage = locate(seen, steady, start, run.end)
        coarse = TICK_S / 2 if source == LOAD else 0.0  # the load's outcomes stand in ticks
        moments[source] = Moment(outage.ended.at, outage.ended.error + coarse)
        last_bad[source] = max(t for t, bad in zip(seen.times, seen.bad, strict=True) if bad)
        begins.append(outage.began)
        counts["rto_s"] = round(outage.ended.at - since, 4)
        counts["error_s"] = round(moments[source].error, 4)
    if run.last_bad is not None:
        moments = _no_earlier_than(moments, run.last_bad, step_s)
    enough = timeline.window(run.start, run.end).requests >= _FEWEST
    common = {"per_source": per_source, "enough_samples": enough}
    if not moments:
        finest = _resolution(timeline, start, run.end)
        held = round(run.end - since, 3)
        return {"rto_s": 0.0, "error_s": finest, "undisturbed": True, "held_s": held, **common}
    return {**_decided(moments, last_bad, begins, since, run.end), **common}


def _decided(
    moments: Mapping[str, Moment],
    last_bad: Mapping[str, float],
    begins: Sequence[Moment],
    since: float,
    end: float,
) -> dict[str, Any]:
    source, moment = _latest(moments, last_bad)
    low, high = max(moment.low - since, 0.0), max(moment.high - since, 0.0)
    first = min(begins, key=lambda m: m.at, default=None)
    return {
        "rto_s": round((low + high) / 2, 5),
        "error_s": round((high - low) / 2, 5),
        "decided_by": source,
        "held_s": round(end - moment.at, 3),
        "first_bad_s": round(first.at - since, 4) if first else None,
        "first_bad_error_s": round(first.error, 4) if first else None,
    }


def _no_earlier_than(
    moments: Mapping[str, Moment], last_bad: float, step_s: float
) -> dict[str, Moment]:
    """The last bad window was bad for something in its first step: nothing ended before that.

    Where no source's requests say so (a throughput or a gauge was outside), the windows do.
    """
    edge = Moment(last_bad + step_s / 2, step_s / 2)
    if all(moment.high < edge.low for moment in moments.values()):
        return {**moments, "windows": edge}
    return dict(moments)


def _latest(moments: Mapping[str, Moment], last_bad: Mapping[str, float]) -> tuple[str, Moment]:
    """The source that was back last.

    Those that agree with it within their errors saw the same moment; the sharpest of them tells it.
    A source has seen nothing of what came after its last bad request: who asks rarely, and asked
    just before the end, doesn't contradict one that saw it.
    """
    slowest = max(moments, key=lambda name: moments[name].at)
    last = moments[slowest]
    since = min(last.low, last_bad.get(slowest, last.low))
    agreeing = {name: m for name, m in moments.items() if m.high >= since and m.at <= last.high}
    name = min(agreeing, key=lambda name: agreeing[name].error)
    return name, agreeing[name]


def _resolution(timeline: Timeline, start: float, end: float) -> float:
    """The mean distance of samples of the source that looks most often."""
    counts = [timeline.outcomes(source, start, end) for source in timeline.sources]
    most = max((seen.count for seen in counts), default=0)
    return round((end - start) / most, 5) if most else end - start


def gaps(
    timeline: Timeline, since: float, end: float, gone: Sequence[str]
) -> tuple[tuple[str, float, float], ...]:
    """Where a source sent nothing although it was due, in seconds after `since`."""
    found = []
    for source in timeline.sources:
        rate = timeline.rate(source)
        if source != LOAD and rate > 0:
            longest = max(0.5, 5 / rate)
            times = [sample.sent for sample in timeline.samples(source, since - longest, end)]
            found += [(source, a, b) for a, b in pairwise(times) if b - a > longest]
        if source in gone and timeline.horizon(source) < end:
            found.append((source, max(timeline.horizon(source), since), end))
    return tuple((source, round(a - since, 3), round(b - since, 3)) for source, a, b in found)
