"""A day that isn't held: somebody else has its target, or nobody called in time. Told, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from aftershock.gameday.news import News
from aftershock.gameday.page import write_page
from aftershock.gameday.plan import Plan
from aftershock.gameday.record import Record, days, read
from aftershock.lock import Occupied


def new_day(plan: Plan, begun: Mapping[str, Any], error: Occupied) -> None:
    """A day of its own in the journal, which says who has the target. `begun`: what it was to be.

    Not while the plan's own day goes on, nor again for the same date and holder: schedulers call,
    and people try, again and again.
    """
    keys = ("plan", "kind")
    same = [told for _, told in days() if all(told.begun.get(key) == begun[key] for key in keys)]
    if any(told.is_going_on for told in same):
        return
    if same and same[-1].holder == error.holder and _date(same[-1].begun) == _date(begun):
        return
    record = Record.create(plan.title, plan.path)
    record.begin(**begun)
    record.note("stopped", why=str(error), holder=dict(error.holder))
    record.note("ended", verdict=record.told.word)
    _tell(plan, record, f"{plan.title}: does not begin: {error}")


def cut_off(plan: Plan, folder: Path, error: Occupied) -> None:
    """In the record of a day that was to be gone on with, which still is."""
    before = [one for one in read(folder).events if one["event"] == "occupied"]
    if before and before[-1]["holder"] == error.holder:
        return
    record = Record(folder)
    record.note("occupied", why=str(error), holder=dict(error.holder))
    _tell(plan, record, f"{plan.title}: does not go on: {error}")


def skipped(plan: Plan, begun: Mapping[str, Any], dates: Sequence[datetime]) -> None:
    """A day of its own for dates that were missed while none follows whose record could tell."""
    record = Record.create(plan.title, plan.path)
    record.begin(**begun)
    said = [f"{date:%Y-%m-%d %H:%M %Z}" for date in dates]
    for date in said:
        record.note("missed", date=date)
    many = "the dates %s were" if len(said) > 1 else "the date %s was"
    why = f"{many % ', '.join(said)} missed, and skipped as the plan says"
    record.note("stopped", why=why, held=False)
    record.note("ended", verdict=record.told.word)
    _tell(plan, record, f"{plan.title}: {why}")


def _date(begun: Mapping[str, Any]) -> str:
    return str(begun.get("date"))


def _tell(plan: Plan, record: Record, text: str) -> None:
    def delivered(name: str, text: str, there: bool, tries: int, why: str) -> None:
        record.note("notified", name=name, text=text, there=there, tries=tries, why=why)

    try:
        news = News(plan.notify, plan.path.parent, delivered)
        news.tell(text)
        news.close()
    finally:
        write_page(record.folder, record.told)
        record.close()
