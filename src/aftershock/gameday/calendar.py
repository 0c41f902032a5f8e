"""When a game day is due: cron in a time zone, within windows, not on black-out dates.

At a change of the clocks it goes as with Debian's cron: a line at a fixed hour that the clocks jump
over fires right after it, and one at an hour that comes twice fires once.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from aftershock.errors import InvalidInput

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ON_TIME, CAUGHT_UP, MISSED = "on time", "caught up", "missed"
_FIELD = re.compile(r"[0-9A-Za-z*/,-]+")
_HORIZON = timedelta(days=5 * 366)
_LOOKED_AT = 50_000  # fires of a cron line before we say that none is ever within a window
_LOOKED_BACK = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of some days of the week (0: Monday) in which a day may start and go on."""

    days: frozenset[int]
    begin: time
    end: time

    def holds(self, at: datetime) -> bool:
        """Whether a local time is within; one that passes midnight belongs to its first day."""
        clock = at.time()
        if self.begin < self.end:
            return at.weekday() in self.days and self.begin <= clock < self.end
        if clock >= self.begin:
            return at.weekday() in self.days
        return clock < self.end and (at.weekday() - 1) % 7 in self.days


@dataclass(frozen=True, slots=True)
class Due:
    """A date and what is to become of it; `start` is when the day was drawn to begin."""

    date: datetime
    start: datetime
    kind: str


@dataclass(frozen=True, slots=True)
class Calendar:
    """`late_s`: a day that starts so late is still on time. `catch_up_s`: and so late is caught up
    with; 0: a date that was missed is skipped. `spread_s`: each date starts at a time drawn from
    that long after it."""

    cron: str
    zone: ZoneInfo
    windows: tuple[Window, ...] = ()
    blackout: tuple[tuple[date, date], ...] = ()
    late_s: float = 900.0
    catch_up_s: float = 0.0
    spread_s: float = 0.0

    def closed(self, at: datetime) -> str | None:
        """Why nothing may be done at that moment, or None."""
        local = at.astimezone(self.zone)
        for first, last in self.blackout:
            if first <= local.date() <= last:
                return f"{local.date()} is a black-out date ({first} to {last})"
        if self.windows and not any(window.holds(local) for window in self.windows):
            return f"{local:%a %H:%M} is in no allowed window"
        return None

    def dates(self, after: datetime) -> Iterator[datetime]:
        """The dates after a moment on which a day is held, in the calendar's zone."""
        end = after + _HORIZON
        for fired in islice(self._fires(after), _LOOKED_AT):
            if fired > end:
                return
            if self.closed(fired) is None:
                yield fired

    def _fires(self, after: datetime) -> Iterator[datetime]:
        # A long black-out is jumped over, or a line of every minute would use up what we look at.
        at = after.astimezone(self.zone)
        while True:
            for fired in CronSim(self.cron, at):
                out = [last for first, last in self.blackout if first <= fired.date() <= last]
                if out:
                    night = datetime.combine(max(out), time(23, 59, 59), self.zone)
                    at = max(night, fired)
                    break
                yield fired
            else:
                return

    def start(self, at: datetime, seed: int) -> datetime:
        """When the day of a date begins: drawn by the seed, within the windows if that can be."""
        chance = random.Random(f"{seed}/{at.astimezone(UTC).isoformat()}")
        for _ in range(200 if self.spread_s else 0):
            found = at.astimezone(UTC) + timedelta(seconds=chance.uniform(0, self.spread_s))
            if self.closed(found) is None:
                return found.replace(microsecond=0).astimezone(self.zone)
        return at

    def due(self, now: datetime, since: datetime, seed: int) -> list[Due]:
        """The dates after `since` that have come by `now`, each with what is to become of it.

        The last one may still lie ahead by what was drawn; all before it were missed.
        """
        now = now.astimezone(UTC)
        since = max(since.astimezone(UTC), now - _LOOKED_BACK)
        come: list[datetime] = []
        for at in self.dates(since):
            if at > now:
                break
            come.append(at)
        found = [Due(at, self.start(at, seed), MISSED) for at in come]
        if not found:
            return []
        last = found[-1]
        behind_s = (now - last.start).total_seconds()
        kind = MISSED
        if behind_s <= self.late_s:
            kind = ON_TIME
        elif behind_s <= self.catch_up_s and self.closed(now) is None:
            kind = CAUGHT_UP
        return [*found[:-1], Due(last.date, last.start, kind)]

    def check(self, longest_s: float, now: datetime) -> None:
        """`InvalidInput` if no date ever comes, or the next comes before a day is over."""
        coming = list(islice(self.dates(now), 60))
        if not coming:
            why = " within its windows and outside its black-out dates" if self._bounded() else ""
            raise InvalidInput(f"cron line {self.cron!r} never fires{why}: mend one of them")
        # Of one zone, Python subtracts what clocks show: a change of the clocks would be left out.
        ends = [at.astimezone(UTC) for at in coming]
        gaps = [
            ((b - a).total_seconds(), at)
            for (a, b), at in zip(pairwise(ends), coming, strict=False)
        ]
        shortest_s, where = min(gaps, default=(float("inf"), coming[0]))
        lasts_s = longest_s + self.spread_s
        if shortest_s < lasts_s:
            raise InvalidInput(
                f"days would overlap: after {where:%Y-%m-%d %H:%M} the next date comes in "
                f"{length(shortest_s)}, and a day may last {length(lasts_s)}: set fewer dates, or "
                "shorter pauses, limits or spread"
            )

    def _bounded(self) -> bool:
        return bool(self.windows or self.blackout)


def length(seconds: float) -> str:
    """A length of time for people."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def checked_cron(line: str) -> str:
    """A cron line of five fields; `InvalidInput` says which one is wrong."""
    fields = line.split()
    if len(fields) != 5:
        raise InvalidInput(
            f"cron line {line!r} has {len(fields)} fields: give five (minute, hour, day of the "
            "month, month, day of the week)"
        )
    if odd := [one for one in fields if not _FIELD.fullmatch(one) or re.search(r"\dL|L$", one)]:
        raise InvalidInput(
            f"cron line {line!r}: {odd[0]!r} is not what every cron knows: use numbers, names, "
            "*, lists, ranges and steps"
        )
    try:
        CronSim(line, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        if str(error) == "Bad day-of-month" and _has_sound_days(fields[2]):
            raise InvalidInput(
                f"cron line {line!r} never fires: no such month has that day"
            ) from None
        raise InvalidInput(f"cron line {line!r}: {str(error).lower()}: mend that field") from None
    return line


def _has_sound_days(text: str) -> bool:
    try:
        CronSim(f"0 0 {text} 1 *", datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True


def window(text: str) -> Window:
    """`Mon-Fri 09:00-17:00`, `Sat,Sun 22:00-04:00` or `09:00-17:00` (every day)."""
    found = re.fullmatch(
        r"(?:(?P<days>[A-Za-z,\s-]+?)\s+)?(?P<a>\d{1,2}:\d{2})\s*-\s*(?P<b>\d{1,2}:\d{2})",
        text.strip(),
    )
    try:
        if not found:
            raise ValueError
        begin, end = _clock(found["a"]), _clock(found["b"])
        days = _days(found["days"]) if found["days"] else frozenset(range(7))
    except ValueError:
        raise InvalidInput(f"window {text!r}: give one like 'Mon-Fri 09:00-17:00'") from None
    return Window(days, begin, end)


def _clock(text: str) -> time:
    hours, minutes = map(int, text.split(":"))
    return time(23, 59, 59) if (hours, minutes) == (24, 0) else time(hours, minutes)


def _days(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        ends = [DAYS.index(name.strip()[:3].capitalize()) for name in part.split("-")]
        first, last = ends[0], ends[-1]
        found |= {day % 7 for day in range(first, (last if last >= first else last + 7) + 1)}
    return frozenset(found)


def blackout(text: str) -> tuple[date, date]:
    """`2026-12-24`, or `2026-12-20..2027-01-06` with both ends."""
    first, _, last = (part.strip() for part in text.partition(".."))
    try:
        found = date.fromisoformat(first), date.fromisoformat(last or first)
    except ValueError:
        raise InvalidInput(
            f"black-out {text!r}: give a date like 2026-12-24, or 2026-12-20..2027-01-06"
        ) from None
    if found[1] < found[0]:
        raise InvalidInput(f"black-out {text!r} ends before it begins: swap the dates")
    return found


def lines_of(calendar: Calendar, after: datetime, count: int = 5) -> Sequence[str]:
    """The next dates, for people: in the calendar's zone and in UTC."""
    spread = f", start drawn within {length(calendar.spread_s)}" if calendar.spread_s else ""
    return [
        f"{at:%a %Y-%m-%d %H:%M %Z} ({at.astimezone(UTC):%H:%M} UTC){spread}"
        for at in islice(calendar.dates(after), count)
    ]
