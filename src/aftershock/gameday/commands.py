"""`aftershock gameday …`: which day is meant, and what is done with it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from aftershock.agent.clock import is_there
from aftershock.errors import InvalidInput
from aftershock.gameday import elsewhere, orders, refused, telling
from aftershock.gameday.agenda import Agenda, Take
from aftershock.gameday.calendar import CAUGHT_UP, length, lines_of
from aftershock.gameday.day import Day, ended
from aftershock.gameday.drill import rehearsal
from aftershock.gameday.page import write_page
from aftershock.gameday.plan import Plan, Step
from aftershock.gameday.plan_file import read_plan
from aftershock.gameday.record import RUNS, Record, Told, days, digest_of, read, unreadable
from aftershock.gameday.running import LONGEST_END_S, end, outcome
from aftershock.gameday.targets import A_DAY, Targets, only_known
from aftershock.lock import HostLock, Occupied
from aftershock.slo.verdict import PASS

LONGEST_BREAK_S = 86_400.0  # a day that was cut off before that is not gone on with
_AFTER_DEATH = ("occupied", "notified")  # what may come into a record whose day has died
REAL, REHEARSAL = "day", "rehearsal"


@dataclass(frozen=True, slots=True)
class Wish:
    """How a day is to be held. `now`: whatever the calendar says; `scheduled`: a scheduler calls,
    so a date that isn't due is no failure; `anew`: don't go on with one that was cut off."""

    now: bool = False
    only: Sequence[str] = ()
    scheduled: bool = False
    anew: bool = False
    seed: int | None = None
    kind: str = REAL


def hold(path: str, wish: Wish, show: TextIO | None = None) -> bool:
    """Hold a day, or go on with the one that was cut off; whether every run passed."""
    show = show or sys.stdout
    if not wish.scheduled:
        return _hold(path, wish, show)
    # A scheduler that wakes often meets the day that waits for its time, or goes on.
    mine = HostLock(f"plan {Path(path).absolute()}", "a day of this plan")
    try:
        mine.acquire()
    except Occupied as error:
        show.write(f"nothing to do: {error}\n")
        return True
    try:
        return _hold(path, wish, show)
    finally:
        mine.release()


def _hold(path: str, wish: Wish, show: TextIO) -> bool:
    plan, left_out = read_plan(path), list[str]()
    if wish.kind == REHEARSAL:
        plan, left_out = rehearsal(plan)
    only_known(wish.only, [one.name for one in plan.experiments])
    if not wish.anew and (folder := _cut_off(plan, wish.kind)):
        passed, fresh = _go_on(plan, folder, show)
        if fresh:
            return passed
    agenda, take = Agenda(plan), Take(None, ())
    if plan.calendar and not wish.now:
        take = agenda.look(datetime.now(UTC))
        if not take.due:
            return _not_due(plan, agenda, take, wish, show)
        _await(take.due.start, show)
    date = take.due.date if take.due else None
    late = take.due is not None and take.due.kind == CAUGHT_UP
    seed = _seed(agenda, wish, date)
    steps = plan.steps(seed, wish.only)
    begun = _begun(plan, wish, date, seed, steps, late)
    targets = _targets(plan, steps)
    try:
        targets.acquire()
    except Occupied as error:
        refused.new_day(plan, begun, error)
        raise
    try:
        record = Record.create(plan.title, plan.path)
        record.begin(**begun)
        for date in take.missed:
            record.note("missed", date=f"{date:%Y-%m-%d %H:%M %Z}")
        for what in left_out:
            record.note("left out", what=what)
        if take.due:
            agenda.dealt_with(take.due.date)
        return _held(plan, record, targets, steps, show)
    finally:
        targets.release()


def _seed(agenda: Agenda, wish: Wish, date: datetime | None) -> int:
    return agenda.seed_of(date) if wish.seed is None else wish.seed


def _begun(
    plan: Plan,
    wish: Wish,
    date: datetime | None,
    seed: int,
    steps: Sequence[Step],
    late: bool = False,
) -> dict[str, Any]:
    """What the record of a day begins with. `date`: the one it is for, if the calendar has one."""
    return {
        "title": plan.title,
        "owner": plan.owner,
        "plan": str(plan.path),
        "digest": digest_of(plan.path),
        "kind": wish.kind,
        "seed": seed,
        "only": list(wish.only),
        "date": date,
        "late": late,
        "scheduled": date is not None,
        "runs": [step.key for step in steps],
    }


def _held(plan: Plan, record: Record, targets: Targets, steps: list[Step], show: TextIO) -> bool:
    told = record.told
    try:
        scheduled = bool(told.begun.get("scheduled"))
        word = Day(plan, record, targets, scheduled, show).hold(steps)
    finally:
        where = write_page(record.folder, told)
        record.close()
    show.write(f"{word:<12} {telling.headline(told)}\n")
    for line in telling.follow_ups(told):
        show.write(f"{'':<12} {line}\n")
    show.write(f"{'':<12} {where}\n")
    return word == PASS


def _targets(plan: Plan, steps: Sequence[Step]) -> Targets:
    return Targets(
        steps, plan.path.parent, f"{A_DAY} {plan.title!r}", f"gameday-{int(time.time())}"
    )


def _cut_off(plan: Plan, kind: str) -> Path | None:
    """The last day of this very plan, if its process died before its end."""
    same = [
        (folder, told)
        for folder, told in days()
        if told.begun["plan"] == str(plan.path) and told.begun.get("kind") == kind
    ]
    if not same:
        return None
    folder, told = same[-1]
    if told.ended or told.is_going_on or told.begun["digest"] != digest_of(plan.path):
        return None
    return folder


def _go_on(plan: Plan, folder: Path, show: TextIO) -> tuple[bool, bool]:
    """What was cut off is settled first: what it left is healed, and its run is judged.

    Whether every run passed, and whether it was gone on with: one of long ago only ends.
    """
    from aftershock.recover import recover

    told = read(folder)
    lived = [one for one in told.events if one["event"] not in _AFTER_DEATH]
    since_s = (datetime.now(UTC) - datetime.fromisoformat(lived[-1]["at"])).total_seconds()
    fresh = since_s <= LONGEST_BREAK_S
    show.write(f"goes on with {folder.name}, whose process died\n")
    for run in told.runs.values():
        if run.state == "begun":
            _await_end(run.child)
    planned = set(told.begun["runs"])
    steps = [one for one in plan.steps(int(told.begun["seed"])) if one.key in planned]
    targets = _targets(plan, steps)
    try:
        targets.acquire()
    except Occupied as error:
        refused.cut_off(plan, folder, error)
        raise
    try:
        record = Record(folder)
        record.begin()
        for line in recover().lines():
            record.note("recovered", what=line)
        for run in list(record.told.runs.values()):
            if run.state == "begun":
                found = outcome(folder / RUNS / run.key, folder / f"{run.key}.log", 0)
                died = "" if found.verdict == PASS else "the day's process died during it"
                ended(record, run.key, replace(found, why=died))
        if not fresh:
            record.note("stopped", why=f"its process had died, and that {length(since_s)} ago")
        return _held(plan, record, targets, steps, show), fresh
    finally:
        targets.release()


def _await_end(child: Any) -> None:
    """A run that outlived its day is healing: it was told to end when the day's process died."""
    until = time.monotonic() + LONGEST_END_S
    while is_there(child):
        if time.monotonic() > until:
            raise InvalidInput(
                f"the run of process {child['pid']} does not end: end it, then `aftershock recover`"
            )
        end(child)
        time.sleep(1.0)


def _not_due(plan: Plan, agenda: Agenda, take: Take, wish: Wish, show: TextIO) -> bool:
    assert plan.calendar
    for date in take.missed:
        show.write(
            f"the date {date:%Y-%m-%d %H:%M %Z} was missed, and is skipped as the plan says\n"
        )
    if take.missed:
        date = take.missed[-1]
        seed = _seed(agenda, wish, date)
        begun = _begun(plan, wish, date, seed, plan.steps(seed, wish.only))
        refused.skipped(plan, begun, take.missed)
        agenda.dealt_with(date)
    coming = next(iter(lines_of(plan.calendar, datetime.now(UTC), 1)), "")
    if not coming:
        raise InvalidInput(
            f"{plan.path}: its calendar has no date any more: `gameday check` tells why"
        )
    said = f"no date is due; the next is {coming}"
    if not wish.scheduled:
        raise InvalidInput(f"{said}: --now holds a day whatever the calendar says")
    show.write(f"{said}\n")
    return True


def _await(start: datetime, show: TextIO) -> None:
    """Until the time that was drawn for the date."""
    left = (start - datetime.now(UTC)).total_seconds()
    if left > 0:
        show.write(f"begins in {length(left)}, as was drawn\n")
        show.flush()
    while (left := (start - datetime.now(UTC)).total_seconds()) > 0:
        time.sleep(min(left, 60.0))


def status(name: str | None = None) -> Iterator[str]:
    """Days that go on, and the last ones that ended; of one plan or all."""
    plan = read_plan(name) if name else None
    found = [
        (folder, told)
        for folder, told in days()
        if plan is None or told.begun["plan"] == str(plan.path)
    ]
    for folder, told in found[-10:]:
        yield f"{_state(told):<12} {folder.name}: {telling.headline(told)}"
        if told.is_going_on:
            yield from (f"{'':<12} {at} {what}" for at, what in telling.decisions(told)[-3:])
    if not found:
        yield "no game day was held here"
    if lost := unreadable():
        yield f"{'left out':<12} half written, or of another version: {', '.join(lost)}"
    if plan and plan.calendar:
        yield from (
            f"{'next':<12} {line}" for line in lines_of(plan.calendar, datetime.now(UTC), 3)
        )
    if plan:
        yield from (f"{'taken':<12} {line}" for line in elsewhere.holders(plan))


def _state(told: Told) -> str:
    if told.ended:
        return told.word
    return "goes on" if told.is_going_on else "cut off"


def order(what: str, name: str | None, why: str = "") -> Iterator[str]:
    """Ask a day that goes on for something: the one named, a plan's, or the only one there is."""
    going = [(folder, told) for folder, told in days() if told.is_going_on]
    if name:
        plan = str(Path(name).absolute())
        going = [(f, told) for f, told in going if f.name == name or told.begun["plan"] == plan]
    if len(going) > 1:
        names = ", ".join(folder.name for folder, _ in going)
        raise InvalidInput(f"several days go on: name one of {names}")
    if going:
        folder, told = going[0]
        sent = orders.send(folder, what, why)
        yield f"{what} asked of {folder.name} as {sent.by}"
        if what == orders.ABORT:
            yield from _heard(folder, told)
        return
    if name and Path(name).is_file():
        asked = list(elsewhere.ask(read_plan(name), what, why))
        yield from (f"{what} asked of {whom}" for whom in asked)
        if asked:
            return
    raise InvalidInput(
        "no game day goes on here: `aftershock gameday status` lists them; for one on another host "
        "name its plan, whose target must not be the lab"
    )


def _heard(folder: Path, told: Told, patience_s: float = 10.0) -> Iterator[str]:
    """What the day made of an order to abort."""
    before, until = len(told.events), time.monotonic() + patience_s
    while time.monotonic() < until:
        for event in read(folder).events[before:]:
            if event["event"] == "stopped":
                yield "it ends: the current run is being healed"
                return
            if event["event"] == "refused":
                raise InvalidInput(
                    f"refused: the plan does not let {event['by']} {event['what']} (may_abort)"
                )
        time.sleep(0.1)
    yield "it has not answered yet: look at its status"
