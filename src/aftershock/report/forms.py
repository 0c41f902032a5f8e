"""Every form of a run's report, by the name of its file beside verdict.json.

`FORMS` are written at the end of each run; `PICTURES` only when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from aftershock.report.junit import junit
from aftershock.report.markdown import markdown
from aftershock.report.metrics import metrics
from aftershock.report.page import render
from aftershock.report.record import Record
from aftershock.report.still import timeline_png, timeline_svg

FORMS: dict[str, Callable[[Record], str]] = {
    "report.html": render,
    "report.md": markdown,
    "junit.xml": lambda record: junit(record.document),
    "verdict.prom": lambda record: metrics(record.document),
}
PICTURES: dict[str, Callable[[Record], str | bytes]] = {
    "timeline.svg": timeline_svg,
    "timeline.png": timeline_png,
}
