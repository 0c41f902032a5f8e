"""`timeline.svg` and `timeline.png`: the timeline alone, for chats and documents.

The SVG has its style inside, in plain colours, and curves in pixels: viewers other than browsers
know no CSS variables and scale strokes. It is always on light paper, whatever the reader prefers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from html import escape

from aftershock.errors import Unsupported
from aftershock.report import figures, sentences
from aftershock.report.chart import draw_on
from aftershock.report.page import STYLE
from aftershock.report.picture import picture_of
from aftershock.report.record import Record
from aftershock.report.sheet import LEFT, LETTER, RIGHT, Sheet

WIDTH, HEAD = 1060, 52
ZOOM = 2  # pixels of the PNG for one of the SVG: sharp on dense screens, and where it is enlarged
_RULE, _VARIABLE = re.compile(r"([^{}]+)\{([^{}]*)\}"), re.compile(r"(--[\w-]+):([^;}]+)")
_FONTS = "'Liberation Sans',Arial,Helvetica,'Noto Sans','DejaVu Sans',sans-serif"
_WORD = {"PASS": "good", "FAIL": "bad", "INCONCLUSIVE": "unknown"}


def timeline_svg(record: Record) -> str:
    """The verdict in two lines and the timeline below, as an SVG that stands alone."""
    picture = picture_of(record.timeline, record.document, record.levels, record.zones)
    sheet = Sheet(float(WIDTH), picture.start, picture.end, still=True)
    height = HEAD + draw_on(sheet, picture)
    word = str(record.document["verdict"])
    title = str(record.document["title"] or "Aftershock")
    told = figures.sentence(sentences.summary(record.document)[0])
    below = f"{told} · {figures.where_and_when(record)}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" role="img" aria-label="{escape(told)}">'
        f"<style>{_style()}</style>"
        f'<rect class="paper" width="{WIDTH}" height="{height:.0f}"/>'
        f'<text class="head" x="{RIGHT}" y="22"><tspan class="{_WORD.get(word, "ink")}">'
        f"{escape(word)}</tspan> {escape(_fitting(title, 8.6))}</text>"
        f'<text x="{RIGHT}" y="40">{escape(_fitting(below, LETTER))}</text>'
        f'<g transform="translate(0 {HEAD})">{"".join(sheet.parts)}</g></svg>\n'
    )


def timeline_png(record: Record) -> bytes:
    """The same as a PNG; `Unsupported` on a machine without fonts."""
    if not has_fonts():
        raise Unsupported(
            "timeline.png would have no words: this machine has no fonts; "
            "install some (Debian: fonts-dejavu-core)"
        )
    return _rendered(timeline_svg(record))


def _rendered(svg: str) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=ZOOM))


def _fitting(said: str, letter: float) -> str:
    most = int((WIDTH - LEFT) / letter)
    return said if len(said) <= most else f"{said[: most - 1]}…"


@cache
def _style() -> str:
    """What of the page's style is about the picture, each variable replaced by its light colour."""
    colours: Mapping[str, str] = dict(_VARIABLE.findall(STYLE.partition("}")[0]))
    plain = re.sub(r"var\((--[\w-]+)\)", lambda found: colours[found[1]], STYLE)
    rules = [
        f"{chosen.strip().replace('svg ', '')}{{{said}}}"
        for chosen, said in _RULE.findall(plain)
        if all(part.startswith("svg ") for part in chosen.strip().split(","))
    ]
    own = (
        f"text{{font-family:{_FONTS};font-size:11px;font-weight:400}}.title{{font-weight:600}}"
        f".paper{{fill:{colours['--paper']}}}tspan.unknown{{fill:{colours['--unknown']}}}"
        f"text.head{{font-size:15px;font-weight:700;fill:{colours['--ink']}}}"
    )
    return "".join(rules) + own


@cache
def has_fonts() -> bool:
    """Whether anything is to be seen of a letter."""
    page = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="30" height="20">'
        f'<text y="15" style="font-family:{_FONTS}">{{}}</text></svg>'
    )
    return _rendered(page.format("M")) != _rendered(page.format(""))
