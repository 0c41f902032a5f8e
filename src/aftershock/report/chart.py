"""An SVG of curves and strips over one time axis, from plain numbers; it knows no run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

LEFT, RIGHT = 50, 14
LANE, ROW, BAND = 84, 17, 16
LETTER = 6.1  # the width of an average letter at the picture's 11 px
NARROW = 600  # below this a legend gets a line of its own
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 86_400)

Points = Sequence[tuple[float, float | None]]
X = Callable[[float], float]


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
class Picture:
    """What is drawn, in seconds on one axis. `fault` is shaded; `marks` are named moments."""

    start: float
    end: float
    axis: str
    panels: Sequence[Lane | Strip] = ()
    marks: Sequence[tuple[float, str]] = ()
    phases: Sequence[tuple[float, str]] = ()
    fault: tuple[float, float] | None = None


@dataclass(slots=True)
class _Sheet:
    width: float
    x: X
    parts: list[str] = field(default_factory=list)

    @property
    def right(self) -> float:
        return self.width - RIGHT

    def text(self, x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> None:
        self.parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(said)}</text>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(
            f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )

    def box(self, x1: float, y: float, x2: float, height: float, kind: str, said: str = "") -> None:
        told = f"<title>{escape(said)}</title>" if said else ""
        self.parts.append(
            f'<rect class="{kind}" x="{x1:.1f}" y="{y:.1f}" width="{max(x2 - x1, 0):.1f}" '
            f'height="{height:.1f}">{told}</rect>'
        )


def draw(picture: Picture, width: int = 960) -> str:
    """The picture as an SVG of this width; a narrow one is laid out for a phone."""
    span = max(picture.end - picture.start, 1e-3)

    def x(at: float) -> float:
        share = min(max((at - picture.start) / span, 0.0), 1.0)
        return LEFT + (width - LEFT - RIGHT) * share

    sheet = _Sheet(float(width), x)
    rows = _label_rows(picture.marks, sheet)
    top = 14 * (max((row for _, _, row, _ in rows), default=-1) + 1) + 4
    body: float = top + (BAND + 6 if picture.phases else 0)
    heights = [_height(panel, width) for panel in picture.panels]
    floor = body + sum(heights) + 4
    ticks = _ticks(picture.start, picture.end, (width - LEFT - RIGHT) / 46)
    if picture.fault:
        sheet.box(x(picture.fault[0]), top, x(picture.fault[1]), floor - top, "fault", "the fault")
    for tick in ticks:
        sheet.line(x(tick), body, x(tick), floor, "grid")
        sheet.text(x(tick), floor + 14, f"{tick:g}", "tick", "middle")
    sheet.text(sheet.right, floor + 28, picture.axis, "tick", "end")
    _draw_phases(picture, sheet, top)
    for panel, height in zip(picture.panels, heights, strict=True):
        (_draw_lane if isinstance(panel, Lane) else _draw_strip)(panel, sheet, body, picture)  # type: ignore[arg-type]
        body += height
    _draw_marks(rows, sheet, floor)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {floor + 34:.0f}" '
        f'role="img" aria-label="timeline of the run">{"".join(sheet.parts)}</svg>'
    )


def _head(width: float) -> float:
    return 20 if width >= NARROW else 34


def _height(panel: Lane | Strip, width: float) -> float:
    if isinstance(panel, Lane):
        return _head(width) + LANE + 12
    return 20 + ROW * len(panel.rows) + 8


def _draw_lane(lane: Lane, sheet: _Sheet, top: float, picture: Picture) -> None:
    ceiling = _ceiling(lane)
    floor = top + _head(sheet.width) + LANE
    sheet.text(LEFT, top + 13, lane.title, "title")
    legend_y = top + 13 if sheet.width >= NARROW else top + 27
    _draw_legend(lane.series, sheet, legend_y)
    for share in (0.0, 0.5, 1.0):
        y = floor - LANE * share
        sheet.line(LEFT, y, sheet.right, y, "axis" if share == 0 else "grid")
        sheet.text(LEFT - 6, y + 4, f"{ceiling * share:,.4g}", "tick", "end")
    if lane.limit is not None and lane.limit <= ceiling:
        y = floor - LANE * lane.limit / ceiling
        sheet.line(LEFT, y, sheet.right, y, "limit")
        sheet.text(LEFT + 4, y - 3, f"tolerated: {lane.limit:g}", "limit")
    for series in lane.series:
        for piece in _pieces(series.points):
            shown = [(t, v) for t, v in piece if picture.start <= t <= picture.end]
            path = " ".join(
                f"{sheet.x(t):.1f},{floor - LANE * min(v / ceiling, 1.0):.1f}" for t, v in shown
            )
            if path:
                sheet.parts.append(f'<polyline class="{series.colour}" points="{path}"/>')


def _draw_legend(series: Iterable[Series], sheet: _Sheet, y: float) -> None:
    spans = " ".join(
        f'<tspan class="{one.colour}">━</tspan> {escape(one.label)}\u2002' for one in series
    )
    at, anchor = (sheet.right, "end") if sheet.width >= NARROW else (LEFT, "start")
    sheet.parts.append(
        f'<text class="tick" x="{at:.1f}" y="{y:.1f}" text-anchor="{anchor}">{spans}</text>'
    )


def _draw_strip(strip: Strip, sheet: _Sheet, top: float, picture: Picture) -> None:
    sheet.text(LEFT, top + 13, strip.title, "title")
    for number, (label, points) in enumerate(strip.rows):
        y = top + 20 + ROW * number
        sheet.text(LEFT - 6, y + 12, label, "tick", "end")
        most = max((value for _, value in points), default=0.0)
        for at, end, value in _stays(points, picture.end):
            kind = "full" if value >= most > 0 else "none" if value <= 0 else "some"
            begin, finish = sheet.x(at), sheet.x(end)
            said = f"{value:g} of {most:g}"
            sheet.box(begin, y, finish, ROW - 4, f"state {kind}", f"{label}: {said}")
            if finish - begin > LETTER * len(said) + 6:
                sheet.text(begin + 4, y + 10.5, said, "state")


def _stays(
    points: Sequence[tuple[float, float]], end: float
) -> Iterable[tuple[float, float, float]]:
    """(from, to, value) for each stretch of one value."""
    changes = [point for n, point in enumerate(points) if n == 0 or point[1] != points[n - 1][1]]
    for (at, value), (until, _) in pairwise([*changes, (end, 0.0)]):
        yield at, until, value


def _draw_phases(picture: Picture, sheet: _Sheet, top: float) -> None:
    phases = sorted(picture.phases)
    for number, ((at, name), (until, _)) in enumerate(pairwise([*phases, (picture.end, "")])):
        begin, finish = sheet.x(at), sheet.x(until)
        sheet.box(begin, top, finish, BAND, f"phase odd{number % 2}", name)
        if finish - begin > LETTER * len(name) + 4:
            sheet.text((begin + finish) / 2, top + 12, name, "phase", "middle")


_Placed = tuple[float, str, int, bool]


def _label_rows(marks: Sequence[tuple[float, str]], sheet: _Sheet) -> list[_Placed]:
    """Each mark's x, label, row and whether its label stands left of it; none write over others."""
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
        placed.append((x, label, row, left))
    return placed


def _draw_marks(rows: Iterable[_Placed], sheet: _Sheet, floor: float) -> None:
    placed = list(rows)
    for x, _, row, _ in placed:
        sheet.line(x, 14 * row + 4, x, floor, "mark")
    for x, label, row, left in placed:
        sheet.text(
            x - 4 if left else x + 4, 14 * row + 12, label, "mark", "end" if left else "start"
        )


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
