"""Where a service broke as its load was stepped up: the page's table and picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from aftershock.report.cliff import HEADS, rows, sentences
from aftershock.report.figures import sentence
from aftershock.report.tables import table

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 220, 48, 30


def section(told: Mapping[str, Any]) -> str:
    """The page's part of it, as HTML; empty where the load was not stepped up."""
    if not told:
        return ""
    lines = "".join(f"<li>{escape(sentence(line))}</li>" for line in sentences(told))
    return f"<h2>Where it breaks</h2><ul>{lines}</ul>{plot(told)}{_steps(told)}"


def _steps(told: Mapping[str, Any]) -> str:
    return table(HEADS, [[escape(cell) for cell in row] for row in rows(told)], "steps")


def plot(told: Mapping[str, Any]) -> str:
    """Good answers a second over what was offered, with the knee; the dotted line is all of it."""
    steps: Sequence[Mapping[str, Any]] = told["steps"]
    if len(steps) < 2:
        return ""
    most = float(max(step["rate_rps"] for step in steps))

    def x(rate: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - 10) * rate / most, 1)

    def y(rate: float) -> float:
        return round((_HEIGHT - _BOTTOM) * (1 - rate / most) + 6, 1)

    points = " ".join(f"{x(s['rate_rps'])},{y(s['good_rps'])}" for s in steps)
    dots = ""
    for step in steps:
        at, rate = x(step["rate_rps"]), step["rate_rps"]
        dots += f'<circle cx="{at}" cy="{y(step["good_rps"])}" r="3"/>'
        dots += f'<text x="{at}" y="{_HEIGHT - 10}" text-anchor="middle">{rate:g}</text>'
    knee = ""
    if told["knee_rps"]:
        low, high = (x(rate) for rate in told["knee_rps"])
        knee = (
            f'<rect x="{low}" y="6" width="{max(high - low, 1):.1f}" height="{_HEIGHT - _BOTTOM}" '
            f'opacity=".12"><title>the knee</title></rect>'
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="good answers over load" '
        f'style="max-width:{_WIDTH}px;font-size:11px" fill="currentColor">{knee}'
        f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(most)}" y2="{y(most)}" stroke="currentColor" '
        f'stroke-dasharray="2 4" opacity=".5"/><polyline points="{points}" fill="none" '
        f'stroke="currentColor" stroke-width="2"/>{dots}'
        f'<text x="4" y="{y(most) + 8}">{most:g}/s</text><text x="4" y="{y(0)}">good</text></svg>'
    )
