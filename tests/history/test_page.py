"""report.html in a real browser: without network, on a screen and on a phone, zoomed by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from aftershock.report.page import render
from aftershock.report.record import Record, read_record
from aftershock.slo.aftermath import Crossing
from aftershock.slo.levels import load_levels
from aftershock.slo.recovery import BACK, Recovery
from aftershock.slo.slots import Slot
from tests.history.conftest import Made, timeline_of
from tests.history.long import hour
from tests.history.told import CLIFF, GOODPUT, QUALITY


def written(folder: Path) -> Path:
    timeline_of(folder).close()
    path = folder / "report.html"
    path.write_text(render(read_record(folder)))
    return path


def test_verdict_reason_and_recovery_time_are_in_the_first_screen(made: Made, opened: Any) -> None:
    page = opened(written(made(16.0)))
    for what in (".word", ".headline", ".scale .says b", ".scale .point", ".tiles div:first-child"):
        box = page.locator(what).bounding_box()
        width = page.viewport_size["width"]
        assert box["y"] + box["height"] <= 844 and 0 <= box["x"] <= box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.locator("svg.timeline:visible").count() == 1


def test_a_reader_zooms_in_and_out(made: Made, opened: Any) -> None:
    page = opened(written(made(2.0)))
    chart, span = page.locator("svg.timeline:visible"), page.locator(".zoom output")
    fault = chart.locator("rect.fault")
    narrow = fault.bounding_box()["width"]
    page.get_by_text("Around the failure").click()
    assert span.inner_text() == "-2.0 to 5.0 s"
    heal = chart.locator("text.mark", has_text="heal")
    assert fault.bounding_box()["width"] > 1.5 * narrow and not heal.is_visible()
    assert chart.locator("text.mark", has_text="service back 2.00 s").is_visible()

    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    across = [box["x"] + box["width"] * share for share in (0.4, 0.7)]
    page.mouse.move(across[0], box["y"] + 60)
    assert page.locator(".zoom .at").inner_text().startswith("at ")
    values = chart.locator(".value").all_text_contents()
    assert any(text.strip() for text in values)
    page.mouse.down()
    page.mouse.move(across[1], box["y"] + 60)
    page.mouse.up()
    first, last = (float(part) for part in span.inner_text().removesuffix(" s").split(" to "))
    assert -2 < first < last < 5
    page.get_by_text("All", exact=True).click()
    assert span.inner_text() == "" and heal.is_visible()
    assert fault.bounding_box()["width"] == pytest.approx(narrow, abs=0.5)


def test_curves_and_marks_stand_where_their_moment_is(made: Made, opened: Any) -> None:
    """The curve of bad probes rises where the mark of the fault stands, zoomed or not."""
    page = opened(written(made(2.0)))
    script = """() => {
      const chart = [...document.querySelectorAll('svg.timeline')].find((one) => one.clientWidth);
      const path = chart.querySelector('path.bad'), matrix = path.getScreenCTM();
      const mark = chart.querySelector('line.mark').getBoundingClientRect();
      return [matrix.e, mark.x + mark.width / 2];
    }"""
    for button in ("All", "Around the failure"):
        page.get_by_text(button, exact=True).click()
        zero, mark = page.evaluate(script)
        assert zero == pytest.approx(mark, abs=1.0)


def test_everything_that_people_ask_of_it_is_on_the_page(made: Made, opened: Any) -> None:
    back = Recovery(1010.0, BACK, rto_s=2.0, error_s=0.02, held_s=15.0, first_bad_s=0.1)
    told = {"goodput": GOODPUT, "quality": QUALITY, "cliff": CLIFF}
    folder = made(2.0, recovery=back, detection=Crossing(rto_s=1.5, error_s=0.1), **told)
    check = {"indicator": "p99_latency_ms", "level": "golden", "value": 144.7, "bound": 500.0}
    (folder / "checks.json").write_text(json.dumps([{**check, "ok": True, "end": 1005.0}]))
    timeline = timeline_of(folder)
    slot = Slot()
    for n in range(20):
        slot.add_time("e2e", 0.05 + 0.01 * n)
        slot.add_time("ttft", 0.01 + 0.002 * n)
    wire = {**slot.wire(), "scheduled": 20, "sent": 20, "good": 20}
    slots = {10 * second: wire for second in range(1000, 1030)}
    timeline.feed({"source": "load", "decided": 1030.0, "slots": slots})
    timeline.close()
    path = folder / "report.html"
    path.write_text(render(read_record(folder)))
    page = opened(path)
    marks = page.locator("svg.timeline:visible text.mark").all_text_contents()
    for mark in ("fault", "first bad", "detected", "service back 2.00 s", "heal"):
        assert mark in marks, marks
    said = page.locator("svg.timeline:visible").text_content()
    for curve in ("P50", "P99", "P99 to the first token"):
        assert curve in said, said
    text = page.locator("main").inner_text()
    for words in ("Requests lost, by kind", "reset", "The steady state", "144.7",
                  "chaos run experiments/az-failure.json", "Seed", "Where it breaks",
                  "Knee between 20 and 30", "350", "repeats 3, empty 1"):  # fmt: skip
        assert words in text, words


def test_an_hour_at_1000_a_second_is_small_and_opens(made: Made, browser: Any) -> None:
    folder = made(2.0)
    path = folder / "report.html"
    path.write_text(render(Record(read_record(folder).document, hour(), load_levels("lab"))))
    assert 50_000 < path.stat().st_size < 3_000_000
    page = browser.new_page()
    page.goto(path.as_uri())  # how soon is a row of `make bench`
    assert page.locator("svg.timeline:visible path").count() > 7
    page.get_by_text("Around the failure").click()
    assert page.locator(".zoom output").inner_text() == "-2.0 to 5.0 s"
    page.close()
