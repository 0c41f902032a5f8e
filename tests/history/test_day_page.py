"""A game day's page, in a browser and in words."""

from pathlib import Path
from typing import Any

import pytest

from aftershock.gameday.page import write_page
from aftershock.gameday.record import Record


@pytest.fixture
def day(tmp_path: Path) -> Record:
    """A day with everything in it, as its record tells it."""
    plan = tmp_path / "plan.yaml"
    plan.write_text("title: Autumn\n")
    record = Record.create("Autumn", plan)
    runs = ["01-kill", "02-zone", "03-zone", "04-disk"]
    record.begin(
        title="Autumn <day>", owner="Ops", plan=str(plan), runs=runs, seed=7, only=["zone"]
    )
    for key, rto_s, verdict in (("01-kill", 1.25, "PASS"), ("02-zone", 17.5, "FAIL")):
        record.note("gate", run=key, name="Error budget left", go=True, value="0.31 " * 30)
        record.note("run begun", run=key, drawn={"zone": "az-b"}, child={})
        link = record.folder / "runs" / key
        link.mkdir()
        (link / "report.html").write_text(f"<title>{key}'s own</title>")
        why = "" if verdict == "PASS" else "back in 17.5 s, objective 15 s"
        detail = {"service_rto_s": rto_s, "service_rto_error_s": 0.05, "rto_objective_s": 15.0,
                  "reasons": [why], "leftovers": []}  # fmt: skip
        record.note("run ended", run=key, verdict=verdict, why=why, detail=detail)
    record.note("gate", run="03-zone", name="Incidents", go=False, value="2, above 0")
    record.note("run skipped", run="03-zone", verdict="SKIPPED", why="gate said no: Incidents")
    record.note("stopped", why="aborted by alice at 2026-11-27T10:00:00+00:00", by="alice")
    record.note(
        "notified", name="webhook SLACK", there=False, tries=4, why="refused", text="begins"
    )
    record.note("ended", verdict=record.told.word)
    write_page(record.folder, record.told)
    record.close()
    return record


def test_the_day_in_a_browser(day: Record, opened: Any) -> None:
    page = opened(day.folder / "day.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    for what in (".word", ".headline", ".tiles div:first-child"):
        box = page.locator(what).first.bounding_box()
        assert box["y"] + box["height"] <= 844
    assert page.locator("h1").inner_text() == "Autumn <day>"
    cell = page.locator("td", has_text="Error budget left: go").first.bounding_box()
    assert cell["width"] <= page.viewport_size["width"], "a long decision is wrapped"
    page.get_by_role("link", name="02-zone").click()
    assert page.title() == "02-zone's own"


def test_the_day_in_words(day: Record) -> None:
    assert day.told.word == "FAIL"
    text = (day.folder / "day.md").read_text()
    for line in (
        "## FAIL: Autumn \\<day\\>",
        "1 of 4 runs passed; the day ended early: aborted by alice",
        "| 02-zone | **FAIL** | 17.50 s ± 0.05 | 15 s | zone=az-b | back in 17.5 s",
        "- 02-zone is FAIL: back in 17.5 s, objective 15 s",
        "- 03-zone was skipped: gate said no: Incidents",
        "- 04-disk did not begin",
        "- news did not get to webhook SLACK in 4 attempts: refused (begins)",
        "| 03-zone | Incidents | no-go | 2, above 0 |",
        "--now --seed 7 --only zone",
        "--seed 7 --only zone  # on the lab",
    ):
        assert line in text, text
