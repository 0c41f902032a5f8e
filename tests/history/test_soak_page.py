"""A soak's part of the report: each fault's recovery, and the trend of what was watched."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aftershock.report.markdown import markdown
from aftershock.report.page import render
from aftershock.report.record import read_record
from aftershock.slo.drift import trends
from aftershock.slo.enduring import P50, P99, SERVER_MEMORY, watched
from aftershock.slo.timeline import Timeline
from tests.history.conftest import Made, timeline_of

HOURS, ALLOWED = 2.0, 5.0
# A figure's gauge, label, level, percent that it rose after so many hours, and noise in percent.
CREEPS: tuple[tuple[str, str, float, Callable[[float], float], float], ...] = (
    (P50, "", 80.0, lambda _: 0.0, 2.0),
    (P99, "", 240.0, lambda hours: 2 * hours, 9.0),
    (SERVER_MEMORY, "az-a-1 (up since 1764230000)", 900.0 * 2**20, lambda hours: 14 * hours, 0.3),
    (SERVER_MEMORY, "az-b-1 (up since 1764230000)", 910.0 * 2**20, lambda hours: hours / 5, 0.3),
    (SERVER_MEMORY, "az-c-1 (up since 1764230000)", 800.0 * 2**20, lambda h: min(14 * h, 12), 0.3),
)


def around(timeline: Timeline) -> dict[str, Any]:
    """A soak's findings as a run tells them, by the project's own trends."""
    chance = Random(7)
    for gauge, label, level, risen, noise in CREEPS:
        for minute in (n for n in range(int(60 * HOURS)) if not 38 <= n < 48):  # a fault was on
            share = 1 + risen(minute / 60) / 100 + chance.gauss(0, noise / 100)
            timeline.gauge(gauge, label, level * share, 1000.0 + 60 * minute)
    found = trends(watched(timeline))
    rounds = [
        _round(612, "fail_zone", "az-a", 1.96, 0.12, 2.25),
        _round(1410, "partition_zone", "az-c", 2.4, 0.2, 3.5),
        _round(2322, "fail_zone", "az-b", 15.05, 0.1, None),
        _round(3300, "fail_zone", "az-b", None, None, None),
    ]
    return {
        "lasts_s": HOURS * 3600,
        "planned": 5,
        "rounds": rounds,
        "most_drift_percent_per_h": ALLOWED,
        "drift": [{**one.as_dict(), "word": one.word(ALLOWED)} for one in found],
    }


def _round(
    at_s: float, fault: str, zone: str, rto: float | None, error: float | None, back: float | None
) -> dict[str, Any]:
    told = {"at_s": at_s, "fault": fault, "zone": zone}
    for name, value, more in (("rto", rto, error), ("failback", back, 0.25)):
        told |= {
            f"{name}_s": value,
            f"{name}_error_s": None if value is None else more,
            f"{name}_censored_s": 30.0 if value is None else None,
            f"{name}_state": "given_up" if value is None else "back",
        }
    return told


@pytest.fixture
def soaked(made: Made) -> Path:
    soak = around(Timeline())
    folder = made(1.96, "soak", soak=soak)
    timeline = timeline_of(folder)
    around(timeline)
    timeline.close()
    (folder / "report.html").write_text(render(read_record(folder)))
    return folder


def test_every_fault_and_figure_has_a_row(soaked: Path) -> None:
    said = markdown(read_record(soaked))
    page = (soaked / "report.html").read_text()
    for text in (page, said):
        assert "0:10:12" in text and "0:55:00" in text and "1.96 s ± 0.12" in text
        assert "not within 30 s" in text and "2.25 s ± 0.25" in text
        assert "memory of server az-a-1 (up since 11-27 07:53)" in text
        words = ("drifts", "no drift", "settled", "can't tell yet")
        assert all(word in text.replace("&#x27;", "'") for word in words)
    assert "1 more of its faults were planned" in page
    curves = re.findall(r'<svg class="curve".*?<path class="ink" d="([^"]*)"', page)
    assert len(curves) == len(CREEPS)
    assert {curve.count("M") for curve in curves} == {2}, "broken where nothing was measured"


def test_bars_stand_where_their_figures_are(soaked: Path, opened: Any) -> None:
    page = opened(soaked / "report.html")
    script = """() => [...document.querySelectorAll('div.bar')].map((bar) => {
      const at = (name) => bar.querySelector(name).getBoundingClientRect();
      const goal = at('.goal').x, error = at('.error'), point = at('.point');
      return [bar.className, point.x + point.width / 2 - goal, error.x - goal, error.right - goal];
    })"""
    bars = page.evaluate(script)
    assert [kind.split()[-1] for kind, *_ in bars[:4]] == ["yes", "yes", "unknown", "no"]
    for kind, point, low, high in bars[:7]:
        assert low - 3 <= point <= high + 3, "the likeliest is within its interval"
        assert (point < 0) == ("yes" in kind) or "unknown" in kind, "the goal parts good from bad"
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    heading = page.get_by_text("What crept up in between")
    heading.scroll_into_view_if_needed()
    assert heading.is_visible() and page.locator("svg.curve").first.is_visible()


def test_a_bar_shows_what_decided(soaked: Path, opened: Any) -> None:
    record = read_record(soaked)
    late = {"percent_per_h": 14.0, "low": 9.0, "high": 19.0}
    soak = record.document["soak"]
    soak["drift"] = [{**soak["drift"][0], "word": "drift", "later": late}]
    (soaked / "report.html").write_text(render(record))
    bars = opened(soaked / "report.html").locator("div.bar.no:below(:text('What crept up'))")
    point = bars.first.locator(".point").bounding_box()
    goal = bars.first.locator(".goal").bounding_box()
    assert point["x"] > goal["x"], "red, and beyond what is allowed"


def test_a_soak_that_was_too_short_says_so(made: Made) -> None:
    told = {"lasts_s": 60, "planned": 1, "rounds": [], "most_drift_percent_per_h": 5, "drift": []}
    folder = made(2.0, "soak", soak=told)
    timeline_of(folder).close()
    page = render(read_record(folder))
    assert "No fault came." in page and "Nothing was watched long enough to tell." in page
