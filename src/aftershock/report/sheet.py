"""The paper of a picture: SVG pieces over one time axis, each carrying its moment.

A script beside the page moves what carries a moment (`data-t`, or `data-a` and `data-b`) when the
reader zooms; without it the picture stands as it is drawn. Curves are in seconds in a view of their
own, which is all that a zoom has to change. A `still` picture has them in pixels, since viewers
other than browsers scale a curve's stroke with such a view.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape

LEFT, RIGHT = 50, 14
LETTER = 6.1  # the width of an average letter at the picture's 11 px
NARROW = 600  # below this a legend gets a line of its own


@dataclass(slots=True)
class Sheet:
    """A picture of `width` in the making, from `start` to `end` in seconds."""

    width: float
    start: float
    end: float
    still: bool = False
    parts: list[str] = field(default_factory=list)

    @property
    def right(self) -> float:
        return self.width - RIGHT

    @property
    def span(self) -> float:
        return max(self.end - self.start, 1e-3)

    def x(self, at: float) -> float:
        """Where a moment stands; the nearer edge for one outside."""
        share = min(max((at - self.start) / self.span, 0.0), 1.0)
        return LEFT + (self.right - LEFT) * share

    def text(
        self, x: float, y: float, said: str, kind: str = "", anchor: str = "start", moment: str = ""
    ) -> None:
        """`moment`: attributes that tell where a zoom puts it."""
        self.parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{moment}>'
            f"{escape(said)}</text>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(
            f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )

    def upright(self, at: float, y1: float, y2: float, kind: str) -> None:
        """A line at a moment."""
        x = self.x(at)
        self.parts.append(
            f'<line class="{kind}" x1="{x:.1f}" y1="{y1:.1f}" x2="{x:.1f}" y2="{y2:.1f}"'
            f' data-t="{at:.3f}"/>'
        )

    def label(
        self, at: float, y: float, said: str, kind: str, dx: float = 0, anchor: str = "start"
    ) -> None:
        """Words at a moment, `dx` beside it."""
        moment = f' data-t="{at:.3f}" data-dx="{dx:g}"'
        self.text(self.x(at) + dx, y, said, kind, anchor, moment)

    def stretch(
        self, begin: float, end: float, y: float, height: float, kind: str, said: str = ""
    ) -> None:
        """A box from one moment to another."""
        told = f"<title>{escape(said)}</title>" if said else ""
        x1, x2 = self.x(begin), self.x(end)
        self.parts.append(
            f'<rect class="{kind}" x="{x1:.1f}" y="{y:.1f}" width="{max(x2 - x1, 0):.1f}" '
            f'height="{height:.1f}" data-a="{begin:.3f}" data-b="{end:.3f}">{told}</rect>'
        )

    def inside(self, begin: float, end: float, y: float, said: str, kind: str) -> None:
        """Words within a stretch; the script hides them where they no longer fit."""
        room = LETTER * len(said) + 6
        shown = "" if self.x(end) - self.x(begin) > room else ' visibility="hidden"'
        at = f' data-a="{begin:.3f}" data-b="{end:.3f}" data-room="{room:.0f}"'
        x = (self.x(begin) + self.x(end)) / 2 if kind == "phase" else self.x(begin) + 4
        self.text(x, y, said, kind, "middle" if kind == "phase" else "start", at + shown)

    def across(self, at: float) -> str:
        """A moment as a coordinate in a plot: seconds, or pixels where nobody zooms."""
        return f"{self.x(at):.1f}" if self.still else f"{at:.2f}".rstrip("0").rstrip(".")

    def plot(self, paths: Iterable[str], y: float, height: float) -> None:
        """Paths by `across` and in pixels down, in a view of their own where they are zoomed."""
        if self.still:
            self.parts.append(f'<g transform="translate(0 {y:.1f})">{"".join(paths)}</g>')
            return
        self.parts.append(
            f'<svg class="plot" x="{LEFT}" y="{y:.1f}" width="{self.right - LEFT:.1f}" '
            f'height="{height:g}" viewBox="{self.start:.3f} 0 {self.span:.3f} {height:g}" '
            f'preserveAspectRatio="none">{"".join(paths)}</svg>'
        )
