"""Whether an indicator is within a level, now or in any window of the timeline."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from aftershock.errors import AftershockError
from aftershock.slo.levels import INDICATORS, Levels
from aftershock.slo.timeline import LOAD, Timeline, Window

WINDOW_S = 5.0
PRESSED = "gpus_pressed"  # by a fault of ours, on this node


class NoMeasurement(AftershockError):
    """There is nothing in the timeline to tell an indicator from; never reported as None or NaN."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An indicator's value beside its bound."""

    indicator: str
    level: str
    value: float
    bound: float
    ok: bool
    samples: int
    start: float
    end: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        relation = "≤" if INDICATORS[self.indicator].ceiling else "≥"
        return f"{self.indicator} {self.value:.4g} (wanted {relation} {self.bound:g})"


def decided(timeline: Timeline, now: float, patience_s: float) -> float:
    """Up to when every request is decided; NoMeasurement if that is more than `patience_s` ago.

    What a generator that has stopped reported last is no measurement of the present.
    """
    horizon = timeline.horizon()
    if now - horizon > patience_s:
        raise NoMeasurement(
            f"no request was decided for {now - horizon:.0f} s; is the load (and the sentinel) "
            "running?"
            if horizon
            else "no request was decided yet; is the load (and the sentinel) running?"
        )
    return horizon


def within(
    timeline: Timeline,
    levels: Levels,
    indicator: str,
    level: str,
    *,
    end: float | None = None,
    width_s: float = WINDOW_S,
) -> Reading:
    """Read an indicator over the last `width_s` that are decided (or up to `end`).

    A gauge's value is the worst label's mean, without those that a fault of ours presses then: what
    we use up is not the service's. Raises NoMeasurement when nothing was measured.
    """
    bound = levels.bound(indicator, level)
    kind = INDICATORS[indicator]
    stop = timeline.horizon() if end is None else end
    start = stop - width_s
    if kind.gauge:
        pressed = timeline.series(PRESSED)
        means = {
            label: mean
            for label, mean in gauge_means(timeline, indicator, start, stop).items()
            if not any(start <= at < stop for at, _ in pressed.get(label, ()))
        }
        found = (max if kind.ceiling else min)(means.values(), default=None)
        samples = len(means)
    else:
        window = timeline.window(start, stop)
        found, samples = _from_window(window, indicator, levels.metric), window.requests
        if found is None and samples:
            raise NoMeasurement(f"{indicator}: none of {samples} requests was answered")
    if found is None:
        raise NoMeasurement(
            f"{indicator}: nothing measured in the last {width_s:g} s; "
            "is the load (or the sentinel, or the gauge's poller) running?"
        )
    return Reading(indicator, level, found, bound, kind.meets(found, bound), samples, start, stop)


def _from_window(window: Window, indicator: str, metric: str) -> float | None:
    if window.requests == 0:
        return None
    match indicator:
        case "p99_latency_ms":
            return window.p99_ms(metric)
        case "error_rate":
            return window.error_rate
        case "served_share":
            return window.served_share
        case "goodput_share":
            return window.goodput_share
        case _:
            return window.throughput_rps


def gauge_means(timeline: Timeline, name: str, start: float, end: float) -> dict[str, float]:
    """The mean of each label's points within [start, end)."""
    means: dict[str, float] = {}
    for label, points in timeline.series(name).items():
        values = [value for at, value in points if start <= at < end]
        if values:
            means[label] = sum(values) / len(values)
    return means


def violations(
    timeline: Timeline, levels: Levels, level: str, start: float, end: float
) -> list[str]:
    """What in this window is outside the level; empty: all is within.

    A gauge without a point here, and a latency when nothing was answered (the error rate tells
    that), say nothing. A sentinel's failures count beside the load's, from two on: one canary of
    five is no rate.
    """
    window = timeline.window(start, end)
    if window.requests == 0:
        return ["no requests in the window"]
    broken = []
    for name in levels.bounds(level):
        try:
            reading = within(timeline, levels, name, level, end=end, width_s=end - start)
        except NoMeasurement:
            continue
        if not reading.ok:
            broken.append(str(reading))
    allowed = levels.bound("error_rate", level)
    for source, (total, bad) in window.per_source.items():
        if source != LOAD and bad >= 2 and bad / total > allowed:
            broken.append(f"{source} {bad} of {total} bad (wanted ≤ {allowed:g})")
    return broken
