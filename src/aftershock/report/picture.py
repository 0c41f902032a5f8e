"""What of a run's timeline is drawn: load, probes, latency, zones and GPUs around the fault."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import floor
from typing import Any

from aftershock.report.chart import Bars, Lane, Panel, Picture, Series, Strip
from aftershock.report.moments import PHASE, milestones, zero_of
from aftershock.slo.aftermath import READY_REPLICAS, SERVERS_UP, ZONE_SHARE
from aftershock.slo.levels import Levels
from aftershock.slo.timeline import LOAD, Timeline, Window

MOST_POINTS, MOST_FAULTS = 1800, 12
ZONE_COLOURS = 6
_PHASE_NAMES = {"steady": "steady state", "back": "hold", "FIRED": "fired"}
_Point = tuple[float, float | None]


def picture_of(
    timeline: Timeline,
    document: Mapping[str, Any],
    levels: Levels,
    zones: Mapping[str, str] | None = None,
) -> Picture:
    """The run's picture, its seconds counted from the fault. `zones`: node → its zone."""
    start, end = _span(timeline)
    zero = zero_of(timeline)
    effect = timeline.marks.get("t_effect")
    faults = _faults(timeline, document, zero, end)
    width = max(1.0, round((end - start) / MOST_POINTS))  # of a step, so that hours stay drawable
    panels: list[Panel] = [
        *([Bars("Faults", faults)] if faults else []),
        *_measured(timeline, levels, start, end, zero, width),
        *_zones(timeline, zero, width),
        *_gpus(timeline, zero, zones or {}, width),
    ]
    return Picture(
        start=start - zero,
        end=end - zero,
        axis="seconds after the fault fired" if effect else "seconds after the start",
        panels=panels,
        marks=[(m.at, m.short) for m in milestones(timeline, document) if m.short],
        phases=_phases(timeline, start, zero),
        faults=_union([(begin, until) for _, begin, until in faults]),
    )


def _faults(
    timeline: Timeline, document: Mapping[str, Any], zero: float, end: float
) -> list[tuple[str, float, float]]:
    """Each fault's name, firing and end: that of its last host, else the order, else the run's."""
    healed = timeline.marks.get("t_healed", end)
    found = []
    for one in document["injections"]:
        fired = one.get("fired_at_monotonic_s")
        if fired is None:
            continue
        hosts = (one.get("per_host") or {}).values()
        ends = [at for host in hosts if (at := host.get("reverted_at_monotonic_s"))]
        over = fired if one.get("momentary") else max(ends, default=max(healed, fired))
        found.append((str(one["fault"]), fired - zero, over - zero))
    if not found and "t_effect" in timeline.marks:
        found = [("fault", timeline.marks["t_effect"] - zero, healed - zero)]
    if len(found) > MOST_FAULTS:
        rest = found[MOST_FAULTS:]
        begin, over = min(at for _, at, _ in rest), max(at for _, _, at in rest)
        found = [*found[:MOST_FAULTS], (f"{len(rest)} more", begin, over)]
    return found


def _union(stretches: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time, without overlaps."""
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(stretches):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        elif end > begin:
            joined.append((begin, end))
    return joined


def _span(timeline: Timeline) -> tuple[float, float]:
    """From the steady state on; building the target is of no interest."""
    marks = timeline.marks
    seen = [at for at, _ in timeline.slots()] + list(marks.values())
    seen += [at for name in (SERVERS_UP, READY_REPLICAS) for at in _moments(timeline, name)]
    seen += [timeline.horizon(source) for source in timeline.sources]
    if not seen:
        return 0.0, 1.0
    start = marks.get(f"{PHASE}steady", min(seen))
    return start, max(*seen, start + 1.0)


def _moments(timeline: Timeline, gauge: str) -> list[float]:
    return [at for points in timeline.series(gauge).values() for at, _ in points]


def _measured(
    timeline: Timeline, levels: Levels, start: float, end: float, zero: float, width: float
) -> list[Lane]:
    """What requests and probes told; only what is decided."""
    if not timeline.sources:
        return []
    main = LOAD if LOAD in timeline.sources else timeline.sources[0]
    decided = min(end, timeline.horizon(main))
    first = floor((start - zero) / width)  # a step's edge stands at the fault, not in the midst
    steps = [n * width for n in range(first + 1, floor((decided - zero) / width))]
    windows = [(at, timeline.window(zero + at, zero + at + width)) for at in steps]
    served = _steps([(at, w.throughput_rps) for at, w in windows], width)
    bad = _steps([(at, (w.requests - w.good) / width) for at, w in windows], width)
    limit = levels.tolerated.get("p99_latency_ms")
    judged = "to the first token" if levels.metric == "ttft" else "end to end"
    lanes = [
        Lane("Requests a second", [Series("served", "good", served), Series("bad", "bad", bad)]),
        Lane(
            f"Latency in ms; judged: P99 {judged}",
            _latencies(windows, width, main == LOAD),
            limit=limit,
        ),
    ]
    probes = [
        Series(f"{name}, {_rate(timeline, name)}", colour, _bad_share(timeline, name, width, zero))
        for name, colour in (("canary", "z5"), ("health", "bad"))
        if name in timeline.sources
    ]
    if probes:
        lanes.insert(1, Lane("Probes gone bad, %", probes, top=100))
    return lanes


def _latencies(
    windows: Sequence[tuple[float, Window]], width: float, streamed: bool
) -> list[Series]:
    """`streamed`: whether there were first tokens; a probe's answer has none of its own."""
    told = {
        "P50": ("z5", [(at, w.p50_e2e_ms) for at, w in windows]),
        "P99 to the first token": ("z1", [(at, w.p99_ttft_ms) for at, w in windows]),
        "P99": ("ink", [(at, w.p99_e2e_ms) for at, w in windows]),
    }
    return [
        Series(name, colour, _steps(values, width))
        for name, (colour, values) in told.items()
        if (streamed or "token" not in name) and any(value is not None for _, value in values)
    ]


def _rate(timeline: Timeline, source: str) -> str:
    return f"{timeline.rate(source):g} a second"


def _bad_share(timeline: Timeline, source: str, width: float, zero: float) -> list[_Point]:
    """The share of bad samples in percent, in bins fine enough for the rate."""
    samples = timeline.samples(source)
    rate = timeline.rate(source) or 1.0
    width = max(width / 10, 10.0 / rate) if rate > 4 else max(width, 1.0 / rate)
    bins: dict[int, list[bool]] = {}
    for sample in samples:
        bins.setdefault(floor((sample.sent - zero) / width), []).append(bool(sample.kind))
    shares = [(number * width, 100 * sum(held) / len(held)) for number, held in bins.items()]
    return _steps(sorted(shares), width)


def _zones(timeline: Timeline, zero: float, width: float) -> list[Panel]:
    shares = timeline.series(ZONE_SHARE)
    panels: list[Panel] = []
    if shares:
        percent = {
            zone: _with_gaps([(at - zero, 100 * v) for at, v in points], width)
            for zone, points in shares.items()
        }
        panels.append(Lane("Share of the traffic, %", _by_zone(percent)))
    for title, gauge in (
        ("Servers that the gateway counts as up", SERVERS_UP),
        ("Replicas that are ready", READY_REPLICAS),
    ):
        held = sorted(timeline.series(gauge).items())
        if held:
            rows = [(zone, [(at - zero, value) for at, value in points]) for zone, points in held]
            panels.append(Strip(title, rows))
    return panels


def _gpus(timeline: Timeline, zero: float, zones: Mapping[str, str], width: float) -> list[Lane]:
    lanes = []
    for title, gauge in (
        ("GPU utilisation, %", "gpu_utilisation_percent"),
        ("GPU memory used, %", "gpu_memory_used_percent"),
    ):
        per_zone: dict[str, list[Sequence[tuple[float, float]]]] = {}
        for node, points in timeline.series(gauge).items():
            moved = [(at - zero, value) for at, value in points]
            per_zone.setdefault(zones.get(node, "all nodes"), []).append(moved)
        if per_zone:
            means = {zone: _mean(nodes, width) for zone, nodes in per_zone.items()}
            lanes.append(Lane(title, _by_zone(means), top=100))
    return lanes


def _mean(nodes: Sequence[Sequence[tuple[float, float]]], width: float) -> list[_Point]:
    """The mean over nodes, step by step."""
    steps: dict[int, list[float]] = {}
    for points in nodes:
        for at, value in points:
            steps.setdefault(floor(at / width), []).append(value)
    means = [(step * width, sum(held) / len(held)) for step, held in sorted(steps.items())]
    return _steps(means, width)


def _steps(bins: Sequence[tuple[float, float | None]], width: float) -> list[_Point]:
    """What was measured over a stretch, drawn level over all of it; with a gap after a missing one.

    A single empty stretch is bridged: a poll a second slips past a second's edge now and then.
    """
    points: list[_Point] = []
    for at, value in bins:
        if points and at - points[-1][0] > 1.5 * width:
            points.append((at, None))
        points += [(at, value), (at + width, value)]
    return points


def _with_gaps(points: Sequence[tuple[float, float]], width: float) -> list[_Point]:
    """Where nothing was polled for seconds, nothing is drawn; several polls a step are enough."""
    drawn: list[_Point] = []
    for at, value in points:
        since = at - drawn[-1][0] if drawn else width
        if since < width / 8:
            continue
        if since > max(2.0, width):
            drawn.append((at, None))
        drawn.append((at, value))
    return drawn


def _by_zone(per_zone: Mapping[str, Sequence[tuple[float, float | None]]]) -> list[Series]:
    return [
        Series(zone, f"z{number % ZONE_COLOURS}", points)
        for number, (zone, points) in enumerate(sorted(per_zone.items()))
    ]


def _phases(timeline: Timeline, start: float, zero: float) -> list[tuple[float, str]]:
    return [
        (at - zero, _PHASE_NAMES.get(name, name))
        for mark, at in timeline.marks.items()
        if at >= start and (name := mark.removeprefix(PHASE)) != mark
    ]
