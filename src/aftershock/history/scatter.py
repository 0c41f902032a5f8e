"""Recovery times run by run, as an SVG: each with its error, against what was to be met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from math import isfinite

from aftershock.history.assess import Assessment
from aftershock.history.journal import PastRun
from aftershock.history.words import clock, measured
from aftershock.report.scale import round_up
from aftershock.report.sheet import LEFT, LETTER, RIGHT

HEIGHT, TOP, APART = 220, 14, 26  # APART: the row of runs without a time, below the axis
Link = Callable[[PastRun], str]


def scatter(found: Assessment, link: Link, width: int) -> str:
    """Runs from the oldest to the newest. `link`: where a run's own report is."""
    runs = found.runs
    ceiling = _ceiling(found)
    floor = TOP + HEIGHT

    def x(number: int) -> float:
        return LEFT + (width - LEFT - RIGHT) * (number + 0.5) / len(runs)

    def y(seconds: float) -> float:
        return floor - HEIGHT * min(seconds / ceiling, 1.0)

    parts = [_axis(ceiling, width, floor), _goal(found, y, width)]
    parts += [_steps(found, x, floor)]
    for number, run in enumerate(runs):
        told = f"{clock(run)} UTC: {measured(run)}, {run.verdict}"
        told += f" ({run.why})" if run.why else ""
        parts.append(
            f'<a href="{escape(link(run), quote=True)}"><title>{escape(told)}</title>'
            f"{_run(run, x(number), y, floor)}</a>"
        )
    parts += _dates(runs, x, floor + APART + 18, width)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="timeline runs" '
        f'viewBox="0 0 {width} {floor + APART + 26:.0f}" role="img" '
        f'aria-label="recovery times of {len(runs)} runs">{"".join(parts)}</svg>'
    )


def _ceiling(found: Assessment) -> float:
    times = [run.rto_s + run.error_s for run in found.runs if run.rto_s is not None]
    times += [run.censored_s for run in found.runs if run.censored_s]
    most = max(times, default=0.0)
    goal = found.claim.objective_s or max(run.objective_s for run in found.runs)
    return round_up(1.1 * (max(most, goal) if most > goal / 20 else goal))


def _axis(ceiling: float, width: int, floor: float) -> str:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = floor - HEIGHT * share
        kind = "axis" if share == 0 else "grid"
        parts.append(
            f'<line class="{kind}" x1="{LEFT}" y1="{y:.1f}" x2="{width - RIGHT}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{ceiling * share:g} s</text>"
        )
    y = floor + APART
    parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y:.1f}" text-anchor="end">none</text>')
    return "".join(parts)


def _goal(found: Assessment, y: Callable[[float], float], width: int) -> str:
    goals = {found.claim.objective_s or run.objective_s for run in found.runs}
    return "".join(
        f'<line class="limit" x1="{LEFT}" y1="{y(goal):.1f}" x2="{width - RIGHT}" '
        f'y2="{y(goal):.1f}"/><text class="limit" x="{LEFT + 4}" y="{y(goal) - 4:.1f}">'
        f"objective {goal:g} s</text>"
        for goal in sorted(goals)
    )


def _steps(found: Assessment, x: Callable[[int], float], floor: float) -> str:
    """A line before each run from which on it got worse."""
    numbers = {run.name: number for number, run in enumerate(found.runs)}
    worse = sorted({numbers[one.after.name] for one in found.regressions})
    return "".join(
        f'<line class="mark" x1="{(x(n) + x(n - 1)) / 2:.1f}" y1="{TOP}" '
        f'x2="{(x(n) + x(n - 1)) / 2:.1f}" y2="{floor}"/>'
        for n in worse
    )


def _run(run: PastRun, x: float, y: Callable[[float], float], floor: float) -> str:
    """A dot with its error; a triangle where it was not back; below the axis without a time."""
    if run.rto_s is not None and isfinite(run.rto_s):
        at, low, high = y(run.rto_s), y(run.rto_s + run.error_s), y(run.rto_s - run.error_s)
        return (
            f'<line class="axis {run.verdict}" x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" '
            f'y2="{min(high, floor):.1f}"/>'
            f'<circle class="{run.verdict}" cx="{x:.1f}" cy="{at:.1f}" r="4"/>'
        )
    if run.censored_s is not None:
        at = y(run.censored_s)
        return f'<path class="dot {run.verdict}" d="M{x - 5:.1f} {at:.1f}h10l-5 -8z"/>'
    return f'<circle class="{run.verdict}" cx="{x:.1f}" cy="{floor + APART - 4:.1f}" r="4"/>'


def _dates(runs: Sequence[PastRun], x: Callable[[int], float], y: float, width: int) -> list[str]:
    """As many days below the axis as there is room for."""
    room, parts, free = 10 * LETTER + 14, [], 0.0
    for number, run in enumerate(runs):
        left = min(max(x(number) - room / 2, LEFT), width - RIGHT - room)
        if left >= free:
            day = clock(run)[:10]
            parts.append(f'<text class="tick" x="{left:.1f}" y="{y:.1f}">{day}</text>')
            free = left + room
    return parts
