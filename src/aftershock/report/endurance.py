"""A soak's part of the page: each fault's recovery, and what crept up between the faults."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from itertools import pairwise
from statistics import median
from typing import Any

from aftershock.report import soak
from aftershock.report.record import Record
from aftershock.report.tables import table
from aftershock.slo.drift import Points
from aftershock.slo.enduring import watched

_SIGNS = {
    "none": ("yes", "✓"),
    "settled": ("yes", "✓"),
    "drift": ("no", "✗"),
    "unsure": ("unknown", "–"),
}
_WIDEST = 4.0  # times what is allowed: a wider interval ends at the edge
_GAP = 3.0  # times as far apart as points usually are: nothing was measured there
_WIDTH, _HEIGHT = 100.0, 20.0


def section(record: Record) -> str:
    """As HTML; empty where the load was not held."""
    told = record.document.get("soak") or {}
    if not told:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in soak.sentences(told))
    left = told["planned"] - len(told["rounds"])
    some = f"<p>{left} more of its faults were planned.</p>" if left > 0 else ""
    return (
        f"<h2>What it went through</h2><ul>{lines}</ul>"
        f"<h3>The service after each fault</h3>{_faults(record, told)}{some}"
        f"<h3>What crept up in between</h3>{_drift(record, told)}"
    )


def _faults(record: Record, told: Mapping[str, Any]) -> str:
    if not told["rounds"]:
        return "<p>No fault came.</p>"
    goal = float(record.document["rto_objective_s"])
    most = max([goal, *(_latest(one) for one in told["rounds"])]) * 1.1
    rows = []
    for one, cells in zip(told["rounds"], soak.faults(told), strict=True):
        at, where, back, again = map(escape, cells)
        value, error = one["rto_s"], one["rto_error_s"] or 0.0
        low, high = (most, most) if value is None else (value - error, value + error)
        drawn = _bar((low, value if value is not None else most, high), (0.0, most), goal)
        rows.append([f"<b>{where}</b>", drawn, back, again, at])
    heads = ["Fault", f"Objective {goal:g} s", "Service back", "Fail-back", "Begun after"]
    return table(heads, rows, "bars")


def _latest(one: Mapping[str, Any]) -> float:
    return float((one["rto_s"] or 0) + (one["rto_error_s"] or 0))


def _drift(record: Record, told: Mapping[str, Any]) -> str:
    found = told.get("drift") or ()
    if not found:
        return "<p>Nothing was watched long enough to tell.</p>"
    allowed, series = float(told["most_drift_percent_per_h"]), watched(record.timeline)
    reach = max(allowed, *(max(abs(one["low"]), abs(one["high"])) for one in found)) * 1.1
    reach = min(reach, _WIDEST * allowed)
    rows = []
    for one, cells in zip(found, soak.drift(told), strict=True):
        name, level, rise, interval, later, said = map(escape, cells)
        kind, sign = _SIGNS.get(one["word"], _SIGNS["unsure"])
        deciding = _deciding(one, allowed)
        span = (deciding["low"], deciding["percent_per_h"], deciding["high"])
        drawn = _bar(span, (-reach, reach), allowed, kind)
        so = f'<span class="{kind}"><i>{sign}</i> {said}</span>'
        curve = _curve(series.get(one["name"], ()))
        rows.append([f"<b>{name}</b>", drawn, so, rise, interval, later, level, curve])
    figure, level, rise, interval, later, _ = soak.drift_heads(told)
    heads = [figure, f"Allowed {allowed:g} %", "", rise, interval, later, level, "Measured"]
    return table(heads, rows, "bars")


def _deciding(one: Mapping[str, Any], allowed: float) -> Mapping[str, Any]:
    """The later half where its word comes from there: settled, or a drift that began late."""
    late = one["word"] == "settled" or (one["word"] == "drift" and one["low"] <= allowed)
    return one["later"] if late and "later" in one else one


def _bar(
    span: tuple[float, float, float], axis: tuple[float, float], goal: float, kind: str = ""
) -> str:
    """Lowest, likeliest and highest on an axis, beside the goal that they should not pass."""
    low, middle, high = (_percent(value, axis) for value in span)
    at = _percent(goal, axis)
    kind = kind or ("yes" if span[2] <= goal else "no" if span[0] > goal else "unknown")
    return (
        f'<div class="bar {kind}"><span class="allowed" style="width:{at:.2f}%"></span>'
        f'<span class="error" style="left:{low:.2f}%;width:{high - low:.2f}%"></span>'
        f'<span class="point" style="left:{middle:.2f}%"></span>'
        f'<span class="goal" style="left:{at:.2f}%"></span></div>'
    )


def _percent(value: float, axis: tuple[float, float]) -> float:
    first, last = axis
    return 100 * min(max((value - first) / (last - first), 0.0), 1.0)


def _curve(points: Points) -> str:
    """Every point that was measured, from the lowest to the highest; broken where none was."""
    if len(points) < 2:
        return ""
    begin, end = points[0][0], points[-1][0]
    values = [value for _, value in points]
    low, spread = min(values), max(values) - min(values)
    apart = _GAP * median(later - earlier for (earlier, _), (later, _) in pairwise(points))
    told, before = "", begin - apart - 1
    for at, value in points:
        across = _WIDTH * (at - begin) / (end - begin)
        down = _HEIGHT * (1 - (value - low) / spread if spread else 0.5)
        told += f"{'M' if at - before > apart else 'L'}{across:.1f},{down:.1f}"
        before = at
    return (
        f'<svg class="curve" viewBox="0 -1 {_WIDTH:g} {_HEIGHT + 2:g}" aria-hidden="true" '
        f'preserveAspectRatio="none"><path class="ink" d="{told}"/></svg>'
    )
