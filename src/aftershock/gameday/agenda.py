"""Which of a plan's dates were held or missed: remembered beside the days' records."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aftershock.gameday.calendar import CAUGHT_UP, MISSED, ON_TIME, Due
from aftershock.gameday.plan import Plan
from aftershock.lock import slug
from aftershock.run.folder import GAME_DAYS, journal_root


@dataclass(frozen=True, slots=True)
class Take:
    """`due` is the date to hold now, if any; `missed` are those that are skipped."""

    due: Due | None
    missed: tuple[datetime, ...]


class Agenda:
    """A plan's dates. A plan that is seen for the first time has missed nothing before."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._path = journal_root() / GAME_DAYS / f".{slug(str(plan.path))}.json"
        self._said: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            self._said = json.loads(self._path.read_text(encoding="utf-8"))

    @property
    def seed(self) -> int:
        """The plan's seed, or one that was drawn once and is kept."""
        if self._plan.seed is not None:
            return self._plan.seed
        if "seed" not in self._said:
            self._said["seed"] = secrets.randbelow(2**32)
            self._write()
        return int(self._said["seed"])

    def seed_of(self, date: datetime | None) -> int:
        """What one day's draws come from: each date draws anew."""
        if date is None:
            return self._plan.seed if self._plan.seed is not None else secrets.randbelow(2**32)
        text = f"{self.seed}/{date.astimezone(UTC).isoformat()}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    def look(self, now: datetime) -> Take:
        """What is due, and what was missed since the last date that was dealt with."""
        calendar = self._plan.calendar
        if calendar is None:
            return Take(None, ())
        if is_new := "since" not in self._said:
            first = now - timedelta(seconds=calendar.late_s + calendar.spread_s)
            self._said["since"] = first.astimezone(UTC).isoformat()
            self._write()
        since = datetime.fromisoformat(self._said["since"])
        found = calendar.due(now, since, self.seed)
        missed = () if is_new else tuple(one.date for one in found if one.kind == MISSED)
        held = next((one for one in found if one.kind in (ON_TIME, CAUGHT_UP)), None)
        return Take(held, missed)

    def dealt_with(self, date: datetime) -> None:
        """A date was held or missed: it does not come again."""
        self._said["since"] = date.astimezone(UTC).isoformat()
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(self._said), encoding="utf-8")
        draft.replace(self._path)
