"""When a day is due: windows, black-outs, missed dates, and the clocks' changes."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from aftershock.errors import InvalidInput
from aftershock.gameday.calendar import (
    CAUGHT_UP,
    MISSED,
    ON_TIME,
    Calendar,
    blackout,
    checked_cron,
    window,
)

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def dates(calendar: Calendar, after: str, count: int = 4) -> list[str]:
    return [f"{one:%m-%d %H:%M %Z}" for one in islice(calendar.dates(at(after)), count)]


def test_a_line_at_an_hour_that_is_jumped_over_or_comes_twice_fires_once_a_day() -> None:
    nightly = Calendar("30 2 * * *", BERLIN)
    assert dates(nightly, "2026-03-27T12:00") == [
        "03-28 02:30 CET", "03-29 03:00 CEST", "03-30 02:30 CEST", "03-31 02:30 CEST",
    ]  # fmt: skip
    assert dates(nightly, "2026-10-23T12:00") == [
        "10-24 02:30 CEST", "10-25 02:30 CEST", "10-26 02:30 CET", "10-27 02:30 CET",
    ]  # fmt: skip
    morning = Calendar("0 10 * * *", BERLIN)
    hours = [one.astimezone(UTC).hour for one in islice(morning.dates(at("2026-03-27T12:00")), 3)]
    assert hours == [9, 8, 8], "ten o'clock stays ten o'clock"


def test_windows_and_black_outs_take_dates_away() -> None:
    calendar = Calendar(
        "0 10 * * *",
        BERLIN,
        windows=(window("Mon-Thu 09:00-16:00"),),
        blackout=(blackout("2026-12-24"), blackout("2026-12-28..2027-01-06")),
    )
    assert dates(calendar, "2026-12-22T12:00", 3) == [
        "12-23 10:00 CET", "01-07 10:00 CET", "01-11 10:00 CET",
    ]  # fmt: skip
    assert "black-out date" in (calendar.closed(at("2027-01-06T10:00")) or "")
    assert "in no allowed window" in (calendar.closed(at("2026-12-22T15:00")) or "")
    assert calendar.closed(at("2026-12-22T14:59")) is None
    assert len(dates(Calendar("* * * * *", BERLIN, blackout=calendar.blackout), "2026-12-28T00:00"))


def test_a_window_over_midnight_belongs_to_the_day_it_begins_on() -> None:
    night = window("Fri 22:00-04:00")
    assert night.holds(datetime(2026, 11, 27, 23)) and night.holds(datetime(2026, 11, 28, 3))
    assert not night.holds(datetime(2026, 11, 27, 3)) and not night.holds(
        datetime(2026, 11, 28, 23)
    )
    assert window("Sat-Mon 08:00-09:00").days == {5, 6, 0}


@pytest.mark.parametrize(
    ("now", "catch_up_s", "kinds"),
    [
        ("2026-11-05T09:05", 0, [ON_TIME]),
        ("2026-11-05T08:59", 0, []),
        ("2026-11-05T11:00", 0, [MISSED]),
        ("2026-11-05T11:00", 4 * 3600, [CAUGHT_UP]),
        ("2026-11-05T14:00", 4 * 3600, [MISSED]),
        ("2026-11-05T17:00", 24 * 3600, [MISSED]),  # the window has closed
        ("2026-11-12T09:05", 4 * 3600, [MISSED, ON_TIME]),
    ],
)
def test_a_missed_date_is_caught_up_or_skipped(
    now: str, catch_up_s: float, kinds: list[str]
) -> None:
    calendar = Calendar(
        "0 10 * * Thu", BERLIN, windows=(window("09:00-17:00"),), catch_up_s=catch_up_s
    )
    since = at("2026-10-29T09:00")  # the last one that was held
    assert [one.kind for one in calendar.due(at(now), since, 7)] == kinds


@pytest.mark.parametrize(
    ("since", "now", "catch_up_s", "kinds"),
    [
        ("2026-03-28T02:00", "2026-03-29T01:05", 0, [ON_TIME]),  # 2:30 is jumped over: held at 3:00
        ("2026-03-28T02:00", "2026-03-29T05:00", 0, [MISSED]),
        ("2026-03-28T02:00", "2026-03-29T05:00", 6 * 3600, [CAUGHT_UP]),
        ("2026-10-24T01:00", "2026-10-25T00:35", 0, [ON_TIME]),  # the first 2:30 of two
        ("2026-10-25T00:30", "2026-10-25T01:35", 0, []),  # the second
        ("2026-10-24T01:00", "2026-10-25T03:00", 6 * 3600, [CAUGHT_UP]),
    ],
)
def test_what_is_due_where_the_clocks_change(
    since: str, now: str, catch_up_s: float, kinds: list[str]
) -> None:
    calendar = Calendar("30 2 * * *", BERLIN, catch_up_s=catch_up_s)
    assert [one.kind for one in calendar.due(at(now), at(since), 7)] == kinds


def test_a_day_begins_at_a_drawn_time_which_lies_in_the_window() -> None:
    calendar = Calendar("0 10 * * *", BERLIN, windows=(window("09:00-11:00"),), spread_s=7200)
    starts = [calendar.start(one, 7) for one in islice(calendar.dates(at("2026-11-01T00:00")), 50)]
    assert len({one.strftime("%H:%M:%S") for one in starts}) > 40
    assert all(one.hour == 10 for one in starts), "two hours on, the window is closed"
    again = [calendar.start(one, 7) for one in islice(calendar.dates(at("2026-11-01T00:00")), 50)]
    assert again == starts


@pytest.mark.parametrize(
    ("calendar", "sentence"),
    [
        (
            Calendar("0 10 * * *", BERLIN, windows=(window("12:00-13:00"),)),
            "never fires within its",
        ),
        (Calendar("0 10 * * *", BERLIN, spread_s=12 * 3600), "days would overlap: after 2026-11"),
        (Calendar("*/30 * * * *", BERLIN), "next date comes in 30 min, and a day may last 13 h"),
        (Calendar("0 2,15 * * *", BERLIN), "after 2027-03-28 03:00|after 2026-11"),
    ],
)
def test_dates_that_never_come_or_come_too_close(calendar: Calendar, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        calendar.check(13 * 3600.0, at("2026-11-01T00:00"))


def test_days_that_just_fit_do_not_overlap() -> None:
    Calendar("0 10 * * *", BERLIN).check(23 * 3600.0, at("2026-03-20T00:00"))
    with pytest.raises(InvalidInput, match="after 2026-03-28 10:00 the next date comes in 23 h"):
        Calendar("0 10 * * *", BERLIN).check(23.5 * 3600, at("2026-03-20T00:00"))


@pytest.mark.parametrize("line", ["0 10 * * Thu", "*/5 1-3,7 1-7 * 1-5", "0 0 29 2 *"])
def test_lines_that_every_cron_knows(line: str) -> None:
    assert checked_cron(line) == line


def test_dates_are_after_the_moment_that_was_asked_for() -> None:
    minute = Calendar("* * * * *", ZoneInfo("UTC"))
    first = next(iter(minute.dates(at("2026-11-01T10:00"))))
    assert first - at("2026-11-01T10:00") == timedelta(minutes=1)
