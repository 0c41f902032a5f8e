"""What the report of a long run costs its reader, in Chromium; left out where there is none."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from aftershock.report.page import render
from aftershock.report.record import Record
from aftershock.slo.document import document
from aftershock.slo.levels import load_levels
from aftershock.slo.verdict import decide
from benchmarks.rows import row
from tests.history.conftest import CHROMIUM, chromium, facts
from tests.history.long import hour

PROMISED_MIB, PROMISED_S = 3.0, 2.0


def rows() -> list[dict[str, Any]]:
    """An hour at 1000 requests a second."""
    told = facts(2.0, 15.0)
    page = render(Record(document(told, decide(told)), hour(), load_levels("lab")))
    found = [row("an hour at 1000/s, its page", len(page) / 2**20, "MiB", "promised", PROMISED_MIB)]
    if CHROMIUM is None:
        return found
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        path = Path(folder) / "report.html"
        path.write_text(page)
        opened = browser.new_page()
        began = time.perf_counter()
        opened.goto(path.as_uri())
        opened.locator("svg.timeline:visible path").first.wait_for()
        took = time.perf_counter() - began
    return [*found, row("an hour at 1000/s, its page opens", took, "s", "promised", PROMISED_S)]
