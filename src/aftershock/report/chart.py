"""An SVG of curves and strips over one time axis, from plain numbers; it knows no run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise, zip_longest

from aftershock.report.sheet import LEFT, LETTER, NARROW, RIGHT, Sheet

LANE, ROW, BAND = 84, 17, 16
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 86_400)

Points = Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: (seconds, value) points, None where nothing was measured. `colour`: a class."""

    label: str
    colour: str
    points: Points


@dataclass(frozen=True, slots=True)
class Lane:
    """Curves on one scale from 0; `limit` is a level to stay below (or None), drawn dashed."""

    title: str
    series: Sequence[Series]
    limit: float | None = None
    top: float | None = None


@dataclass(frozen=True, slots=True)
class Strip:
    """Rows of what changes in steps: label → (seconds, count) points; full at the most seen."""

    title: str
    rows: Sequence[tuple[str, Sequence[tuple[float, float]]]]


@dataclass(frozen=True, slots=True)
class Bars:
    """Rows of stretches: (label, from, to); one that is over at once has no length."""

    title: str
    rows: Sequence[tuple[str, float, float]]


Panel = Lane | Strip | Bars


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn, in seconds on one axis. `faults` are shaded; `marks` are named moments."""

    start: float
    end: float
    axis: str
    panels: Sequence[Panel] = ()
    marks: Sequence[tuple[float, str]] = ()
    phases: Sequence[tuple[float, str]] = ()
    faults: Sequence[tuple[float, float]] = ()


def draw(picture: Picture, width: int = 960) -> str:
    """The picture as an SVG of this width; a narrow one is laid out for a phone."""
    sheet = Sheet(float(width), picture.start, picture.end)
    height = draw_on(sheet, picture)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="timeline" '
        f'viewBox="0 0 {width} {height:.0f}" data-start="{picture.start:.3f}" '
        f'data-end="{picture.end:.3f}" data-left="{LEFT}" data-right="{sheet.right:g}" '
        f'role="img" aria-label="timeline of the run">{"".join(sheet.parts)}</svg>'
    )


def draw_on(sheet: Sheet, picture: Picture) -> float:
    """Lay the picture out on a sheet; how high it is, in pixels."""
    rows = _label_rows(picture.marks, sheet)
    top = 14 * (max((row for _, _, row, _ in rows), default=-1) + 1) + 4
    body: float = top + (BAND + 6 if picture.phases else 0)
    heights = [_height(panel, sheet.width) for panel in picture.panels]
    floor = body + sum(heights) + 4
    for begin, end in picture.faults:
        sheet.stretch(begin, end, top, floor - top, "fault", "the fault")
    sheet.parts.append(f'<g class="ticks" data-top="{body:.1f}" data-floor="{floor:.1f}">')
    for tick in _ticks(picture.start, picture.end, (sheet.width - LEFT - RIGHT) / 46):
        sheet.upright(tick, body, floor, "grid")
        sheet.label(tick, floor + 14, f"{tick:g}", "tick", anchor="middle")
    sheet.parts.append("</g>")
    sheet.text(sheet.right, floor + 28, picture.axis, "tick", "end")
    _draw_phases(picture, sheet, top)
    for panel, height in zip(picture.panels, heights, strict=True):
        _draw_panel(panel, sheet, body)
        body += height
    _draw_marks(rows, sheet, floor)
    return floor + 34


def _head(width: float) -> float:
    return 20 if width >= NARROW else 34


def _height(panel: Panel, width: float) -> float:
    if isinstance(panel, Lane):
        return _head(width) + LANE + 12
    return 20 + ROW * len(panel.rows) + 8


def _draw_panel(panel: Panel, sheet: Sheet, top: float) -> None:
    sheet.text(LEFT, top + 13, panel.title, "title")
    if isinstance(panel, Lane):
        _draw_lane(panel, sheet, top)
    elif isinstance(panel, Strip):
        _draw_strip(panel, sheet, top)
    else:
        _draw_bars(panel, sheet, top)


def _draw_lane(lane: Lane, sheet: Sheet, top: float) -> None:
    ceiling = _ceiling(lane)
    floor = top + _head(sheet.width) + LANE
    _draw_legend(lane.series, sheet, top + 13 if sheet.width >= NARROW else top + 27)
    for share in (0.0, 0.5, 1.0):
        y = floor - LANE * share
        sheet.line(LEFT, y, sheet.right, y, "axis" if share == 0 else "grid")
        sheet.text(LEFT - 6, y + 4, f"{ceiling * share:,.4g}", "tick", "end")
    if lane.limit is not None and lane.limit <= ceiling:
        y = floor - LANE * lane.limit / ceiling
        sheet.line(LEFT, y, sheet.right, y, "limit")
        below = 12 if y - 12 < top + _head(sheet.width) else -3  # else it is in the title
        sheet.text(LEFT + 4, y + below, f"tolerated: {lane.limit:g}", "limit")
    paths = [
        f'<path class="{one.colour}" data-n="{number}" data-top="{ceiling:g}" d="{path}"/>'
        for number, one in enumerate(lane.series)
        if (path := _path(one.points, sheet, ceiling))
    ]
    if paths:
        sheet.plot(paths, floor - LANE, LANE)


def _path(points: Points, sheet: Sheet, ceiling: float) -> str:
    """Level where the value is the same, so that quiet hours take no room in the file."""
    drawn: list[str] = []
    for piece in _pieces(points):
        shown = [
            (sheet.across(t), f"{LANE * (1 - min(v / ceiling, 1.0)):.1f}")
            for t, v in piece
            if sheet.start <= t <= sheet.end
        ]
        if not shown:
            continue
        (x, y), *more = shown
        drawn.append(f"M{x} {y}" if more else f"M{x} {y}h0")
        for (new_x, new_y), after in zip_longest(more, more[1:]):
            if new_y != y:
                drawn.append(f"V{new_y}" if new_x == x else f"L{new_x} {new_y}")
            elif after is None or after[1] != y:
                drawn.append(f"H{new_x}")
            x, y = new_x, new_y
    return "".join(drawn)


def _draw_legend(series: Iterable[Series], sheet: Sheet, y: float) -> None:
    spans = " ".join(
        f'<tspan class="{one.colour}">━</tspan> {escape(one.label)}'
        '<tspan class="value"></tspan>\u2002'
        for one in series
    )
    at, anchor = (sheet.right, "end") if sheet.width >= NARROW else (LEFT, "start")
    sheet.parts.append(
        f'<text class="tick" x="{at:.1f}" y="{y:.1f}" text-anchor="{anchor}">{spans}</text>'
    )


def _draw_strip(strip: Strip, sheet: Sheet, top: float) -> None:
    for number, (label, points) in enumerate(strip.rows):
        y = top + 20 + ROW * number
        sheet.text(LEFT - 6, y + 12, label, "tick", "end")
        most = max((value for _, value in points), default=0.0)
        for at, end, value in _stays(points, sheet.end):
            kind = _state(value, most)
            said = f"{value:g} of {most:g}"
            sheet.stretch(at, end, y, ROW - 4, f"state {kind}", f"{label}: {said}")
            sheet.inside(at, end, y + 10.5, said, "state")


def _state(value: float, most: float) -> str:
    """Where nothing ever was, nothing is missing."""
    if not most:
        return "empty"
    return "full" if value >= most else "none" if value <= 0 else "some"


def _draw_bars(bars: Bars, sheet: Sheet, top: float) -> None:
    for number, (label, begin, end) in enumerate(bars.rows):
        y = top + 20 + ROW * number
        if end > begin:
            sheet.stretch(begin, end, y, ROW - 4, "bar", label)
        else:
            sheet.upright(begin, y, y + ROW - 4, "moment")
        left = sheet.x(begin) + LETTER * len(label) > sheet.right
        sheet.label(begin, y + 10.5, label, "bar", -4 if left else 4, "end" if left else "start")


def _stays(
    points: Sequence[tuple[float, float]], end: float
) -> Iterable[tuple[float, float, float]]:
    """(from, to, value) for each stretch of one value."""
    changes = [point for n, point in enumerate(points) if n == 0 or point[1] != points[n - 1][1]]
    for (at, value), (until, _) in pairwise([*changes, (end, 0.0)]):
        yield at, until, value


def _draw_phases(picture: Picture, sheet: Sheet, top: float) -> None:
    phases = sorted(picture.phases)
    for number, ((at, name), (until, _)) in enumerate(pairwise([*phases, (picture.end, "")])):
        sheet.stretch(at, until, top, BAND, f"phase odd{number % 2}", name)
        sheet.inside(at, until, top + 12, name, "phase")


_Placed = tuple[float, str, int, bool]


def _label_rows(marks: Sequence[tuple[float, str]], sheet: Sheet) -> list[_Placed]:
    """Each mark's moment, label, row, and whether the label stands left; none overlap."""
    taken: list[list[tuple[float, float]]] = []
    placed = []
    for at, label in sorted(marks):
        x, width = sheet.x(at), LETTER * len(label) + 6
        left = x + width > sheet.width
        span = (x - width, x) if left else (x, x + width)
        row = next(
            (
                n
                for n, spans in enumerate(taken)
                if all(span[1] < a or b < span[0] for a, b in spans)
            ),
            len(taken),
        )
        if row == len(taken):
            taken.append([])
        taken[row].append(span)
        placed.append((at, label, row, left))
    return placed


def _draw_marks(rows: Iterable[_Placed], sheet: Sheet, floor: float) -> None:
    placed = list(rows)
    for at, _, row, _ in placed:
        sheet.upright(at, 14 * row + 4, floor, "mark")
    for at, label, row, left in placed:
        anchor = "end" if left else "start"
        sheet.label(at, 14 * row + 12, label, "mark", -4 if left else 4, anchor)


def _pieces(points: Points) -> list[list[tuple[float, float]]]:
    """The stretches without a gap."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is None or not math.isfinite(value):
            pieces.append([])
        else:
            pieces[-1].append((at, value))
    return [piece for piece in pieces if piece]


def _ceiling(lane: Lane) -> float:
    """The scale's end: a round number that holds every value, and the limit if that is near."""
    if lane.top is not None:
        return lane.top
    values = [v for one in lane.series for _, v in one.points if v is not None and math.isfinite(v)]
    most = max(values, default=0.0)
    if lane.limit is not None and most >= lane.limit / 4:
        most = max(most, lane.limit)
    if most <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(most))
    return float(next(n * scale for n in (1, 2, 3, 4, 5, 6, 8, 10, 20) if n * scale >= most))


def _ticks(start: float, end: float, most: float) -> list[float]:
    step = next((s for s in _STEPS if (end - start) / s <= most), 86_400.0 * 7)
    first = math.ceil(start / step)
    return [round(step * n, 6) for n in range(first, int(end // step) + 1)]
