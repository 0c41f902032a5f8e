"""Dates that are held, caught up with, or skipped, as `gameday run` decides it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aftershock.errors import InvalidInput
from aftershock.gameday import commands
from aftershock.gameday.agenda import Agenda
from aftershock.gameday.plan_file import read_plan

from .conftest import Site, until


def daily(hours_ago: float, **more: Any) -> dict[str, Any]:
    """A calendar whose date of today came so long ago."""
    at = datetime.now(UTC) - timedelta(hours=hours_ago)
    return {"cron": f"{at.minute} {at.hour} * * *", "time_zone": "UTC", "late": "10m", **more}


def known_since(site: Site, days_ago: float) -> None:
    """As if the last date had been dealt with so long ago."""
    Agenda(read_plan(site.plan)).dealt_with(datetime.now(UTC) - timedelta(days=days_ago))


def test_a_date_is_held_once(site: Site) -> None:
    site.write({}, calendar=daily(0.05))
    assert site.hold(scheduled=True) and site.verdicts() == {"01-tiny-1": "PASS"}
    first = site.day
    assert site.hold(scheduled=True), "nothing is due, and a scheduler may call again"
    assert "no date is due; the next is" in site.printed.getvalue()
    with pytest.raises(InvalidInput, match=r"no date is due; .*--now holds a day whatever"):
        site.hold()
    assert site.day == first
    assert site.hold(now=True) and site.day != first


def test_a_missed_date_is_caught_up_with_as_the_plan_says(site: Site) -> None:
    site.write({}, calendar=daily(2, missed="catch up", catch_up_within="3h"))
    known_since(site, 2.5)
    assert site.hold(scheduled=True)
    assert site.told.begun["late"] is True
    missed = [one["date"] for one in site.told.events if one["event"] == "missed"]
    assert len(missed) == 2, "and those before it are told"
    assert "was missed: was the scheduler down?" in (site.day / "day.md").read_text()
    assert site.hold(scheduled=True) and len(list(commands.days())) == 1


def test_a_missed_date_is_skipped_as_the_plan_says(site: Site) -> None:
    site.write({}, calendar=daily(2), notify=[{"command": "cat >> news"}])
    known_since(site, 0.5)
    assert site.hold(scheduled=True)
    (news,) = (site.folder / "news").read_text().splitlines()
    assert news.endswith("was missed, and skipped as the plan says")
    said = site.printed.getvalue()
    assert said.count("was missed, and is skipped as the plan says") == 1
    assert site.notes("tiny-1") == []
    (line, *_) = commands.status()
    assert "the day did not begin: the date " in line and line.endswith("skipped as the plan says")
    page = (site.day / "day.md").read_text()
    assert "was missed: was the scheduler down?" in page and "01-tiny-1 did not begin" in page
    site.hold(scheduled=True)
    assert site.printed.getvalue().count("was missed") == 1, "it is told once"
    assert len(list(commands.days())) == 1
    assert site.hold(now=True) and site.verdicts() == {"01-tiny-1": "PASS"}, (
        "nothing is gone on with"
    )


def test_a_calendar_without_a_date_left_is_a_failure_also_for_a_scheduler(site: Site) -> None:
    site.write(
        {}, calendar={"cron": "0 10 * * Mon", "time_zone": "UTC", "windows": ["Tue 09:00-16:00"]}
    )
    with pytest.raises(InvalidInput, match="its calendar has no date any more"):
        site.hold(scheduled=True)


def test_a_new_plan_has_missed_nothing_and_a_black_out_holds(site: Site) -> None:
    site.write({}, calendar=daily(2))
    site.hold(scheduled=True)
    assert "missed" not in site.printed.getvalue()
    today = datetime.now(UTC).date()
    site.write({}, calendar=daily(0.05, blackout=[f"{today - timedelta(1)}..{today}"]))
    site.hold(scheduled=True)
    assert not list(commands.days())


def test_each_date_draws_anew_and_keeps_what_it_drew(site: Site) -> None:
    site.write({"choose": {"zone": list("abcdefgh")}}, calendar=daily(1))
    agenda = Agenda(read_plan(site.plan))
    begin = datetime(2026, 11, 1, tzinfo=UTC)
    seeds = [agenda.seed_of(begin + timedelta(days=day)) for day in range(10)]
    assert len(set(seeds)) == 10
    again = Agenda(read_plan(site.plan))
    assert [again.seed_of(begin + timedelta(days=day)) for day in range(10)] == seeds


def test_a_rehearsal_is_for_the_lab_and_says_what_it_left_out(site: Site) -> None:
    from aftershock.gameday.drill import rehearsal

    site.write(
        {"choose": {"zone": ["eu-1", "eu-2"]}, "pause": "1m", "confirm": {"ask": "ready?"}},
        {"variables": {"zone": "eu-2", "hold_s": 3}, "gates": [{"command": "false"}]},
        notify=[{"command": "false"}],
        calendar=daily(1),
    )
    plan, told = rehearsal(read_plan(site.plan))
    first, second = plan.experiments
    assert list(first.choose["zone"]) == ["az-a", "az-b"] and second.variables["zone"] == "az-b"
    assert second.variables == {"zone": "az-b", "hold_s": 3, "target": "lab"}
    assert plan.calendar is None and not plan.notify and not second.gates and not first.confirm
    assert told == [
        "zone eu-1 is the lab's az-a",
        "zone eu-2 is the lab's az-b",
        "1 gates are not asked",
        "1 confirmations are not asked for",
        "1 pauses are left out",
        "1 news are not sent",
    ]


def test_a_scheduler_that_wakes_often_meets_the_day_that_waits(site: Site) -> None:
    site.write({}, calendar=daily(0.05, spread="11h"))
    known_since(site, 0.5)
    with site.held("--scheduled") as process:
        until(lambda: "as was drawn" in (site.folder / "printed").read_text())
        assert site.hold(scheduled=True)
        assert "nothing to do: plan" in site.printed.getvalue()
        assert process.poll() is None
    assert not list(commands.days())


def test_half_a_record_or_one_of_another_version_is_no_day(site: Site) -> None:
    site.write({})
    site.hold()
    whole = (site.day / "decisions.jsonl").read_text()
    for name, text in (
        ("half", whole[:40]),
        ("newer", whole.replace('"schema": 1', '"schema": 9')),
    ):
        folder = site.journal / "gamedays" / f"20990101T000000Z-{name}"
        folder.mkdir()
        (folder / "decisions.jsonl").write_text(text)
    assert [told.word for _, told in commands.days()] == ["PASS"]
    left_out = next(line for line in commands.status() if line.startswith("left out"))
    assert "20990101T000000Z-half, 20990101T000000Z-newer" in left_out
    assert site.hold(), "nor is one of them gone on with"
    cut = site.day / "decisions.jsonl"
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:-1])[:-30])
    assert "the day goes on" in "\n".join(commands.status()), "its process, this one, lives"
