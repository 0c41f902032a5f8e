"""Timelines out of chance: a seeded service that goes away for a while."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from typing import Any

from aftershock.load.recorder import Recorder
from aftershock.slo.changepoint import Outcomes
from aftershock.slo.levels import Levels, load_levels
from aftershock.slo.slots import SLOT_S, TICK_S, Slot
from aftershock.slo.timeline import Timeline

LAB = load_levels("lab")
EFFECT = 100.0  # when faults of these timelines fire


def outcomes(
    rng: random.Random,
    rate: float,
    outage: tuple[float, float],
    depth: float,
    background: float,
    *,
    span: tuple[float, float],
    poisson: bool = False,
) -> Outcomes:
    times: list[float] = []
    bad: list[int] = []
    at = span[0] + rng.random() / rate
    while at < span[1]:
        times.append(at)
        chance = depth if outage[0] <= at < outage[1] else background
        bad.append(int(rng.random() < chance))
        at += rng.expovariate(rate) if poisson else 1 / rate
    return Outcomes(times, [1] * len(times), bad)


def feed_sentinel(
    timeline: Timeline, seen: Outcomes, until: float, *, source: str = "health", rate: float = 200
) -> None:
    timeline.feed(
        {
            "source": source,
            "decided": until,
            "rate": rate,
            "sent": list(seen.times),
            "scheduled": list(seen.times),
            "done": [at + 0.002 for at in seen.times],
            "kind": ["refused" if bad else "" for bad in seen.bad],
        }
    )


def feed_load(
    timeline: Timeline, seen: Outcomes, until: float, latency_s: float = 0.1, **more: Any
) -> None:
    """Load whose bad requests failed and whose good ones took `latency_s`."""
    slots: dict[int, Slot] = {}
    ticks: dict[str, list[int]] = {}
    for at, bad in zip(seen.times, seen.bad, strict=True):
        slot = slots.setdefault(int(at / SLOT_S), Slot())
        slot.counts.update(scheduled=1, sent=1, good=1 - bad, ok=1 - bad)
        slot.add_time("lag", 0.001)
        if bad:
            slot.failed["refused"] += 1
        else:
            slot.add_time("e2e", latency_s)
            slot.add_time("ttft", latency_s / 2)
        tick = ticks.setdefault(str(int(at / TICK_S)), [0, 0])
        tick[0] += 1
        tick[1] += 1 - bad
    wire = {str(index): slot.wire() for index, slot in slots.items()}
    timeline.feed({"source": "load", "decided": until, "slots": wire, "ticks": ticks, **more})


def timeline_with(
    outages: Sequence[tuple[float, float, float]],
    *,
    end: float,
    seed: int = 1,
    background: float = 0.0,
    load: bool = True,
    canary: bool = True,
    gauges: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]] | None = None,
) -> Timeline:
    """A steady minute up to EFFECT, then these outages (from, to, depth; seconds after it)."""
    rng = random.Random(seed)
    timeline = Timeline()
    rates = (
        {"health": 200.0} | ({"load": 60.0} if load else {}) | ({"canary": 1.0} if canary else {})
    )
    for source, rate in rates.items():
        seen = _many(rng, rate, outages, background, EFFECT + end, poisson=source == "load")
        if source == "load":
            feed_load(timeline, seen, EFFECT + end)
        else:
            feed_sentinel(timeline, seen, EFFECT + end, source=source, rate=rate)
    for name, series in (gauges or {}).items():
        for label, points in series.items():
            for at, value in points:
                timeline.gauge(name, label, value, EFFECT + at)
    return timeline


def _many(
    rng: random.Random,
    rate: float,
    outages: Sequence[tuple[float, float, float]],
    background: float,
    end: float,
    *,
    poisson: bool,
) -> Outcomes:
    plain = outcomes(rng, rate, (0, 0), 0, background, span=(EFFECT - 20, end), poisson=poisson)
    bad = list(plain.bad)
    for start, stop, depth in outages:
        for i, at in enumerate(plain.times):
            if EFFECT + start <= at < EFFECT + stop:
                bad[i] = int(rng.random() < depth)
    return Outcomes(plain.times, plain.total, bad)


def levels() -> Levels:
    return LAB


def recorded(
    into: Timeline, rate: float, seconds: float, *, workers: int = 1, pieces: int = 4
) -> int:
    """Poisson load of streams through workers' own recorders, in simulated time: how many.

    One request in a hundred fails; latencies are lognormal, each piece comes 50 ms after the one
    before.
    """
    rng, now, begin = random.Random(1), [EFFECT], EFFECT
    told = {"ttft_ms": 250, "tpot_ms": 60, "e2e_ms": 1000}
    recorders = [Recorder(0.5, "ttft", 2000, lambda: now[0], told) for _ in range(workers)]
    events: list[tuple[float, int, Any, int]] = [(begin, 0, None, 0), (begin + 0.2, 1, None, -1)]
    number, count, reports = 1, 0, 0
    while events[0][0] < begin + seconds:
        at, _, call, stage = heapq.heappop(events)
        now[0], number = at, number + 1
        if call is None and stage < 0:
            for worker, recorder in enumerate(recorders):
                into.feed(recorder.report(worker, workers, at, reports % 25 == 0))
            reports += 1
            heapq.heappush(events, (at + 0.2, number, None, -1))
        elif call is None:
            count += 1
            own = recorders[count % workers]
            made = own.due(at)
            own.sent(made)
            heapq.heappush(events, (at + rng.lognormvariate(-2.5, 0.5), number, (own, made), 0))
            heapq.heappush(events, (at + rng.expovariate(rate), -number, None, 0))
        elif stage < pieces:
            call[0].token(call[1])
            heapq.heappush(events, (at + 0.05, number, call, stage + 1))
        elif rng.random() < 0.01:
            call[0].fail(call[1], "reset", "Connection reset by peer")
        else:
            call[0].finish(call[1], pieces, True)
    into.close()
    return count
