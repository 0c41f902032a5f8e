"""The record of a game day: a folder with every decision, on disk before the next is made.

`decisions.jsonl` is the record itself: what became of each run is read from it, also after a
crash. The runs' own folders stay in the journal, where `aftershock rto` finds them; `runs/` links
to them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aftershock.agent.records import sync_folder
from aftershock.errors import InvalidInput
from aftershock.lock import is_gone, myself
from aftershock.run.folder import GAME_DAYS, RunFolder, journal_root
from aftershock.slo.verdict import FAIL, INCONCLUSIVE, PASS

DECISIONS, PLAN_COPY, REQUESTS, RUNS = "decisions.jsonl", "plan.yaml", "requests", "runs"
SKIPPED = "SKIPPED"
SCHEMA = 1  # of the events; a change of meaning raises it


@dataclass
class RunTold:
    """What the record says of one run. `state`: begun or ended; `verdict` once it ended."""

    key: str
    state: str
    verdict: str = ""
    why: str = ""
    began: str = ""
    child: Mapping[str, Any] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Told:
    """A day as its record tells it so far."""

    events: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, RunTold] = field(default_factory=dict)
    begun: Mapping[str, Any] = field(default_factory=dict)
    ended: Mapping[str, Any] | None = None
    stopped: str = ""
    holder: Mapping[str, Any] = field(default_factory=dict)  # who had the target, so none began
    held: bool = True  # not where another had the target, nor where its date was missed

    @property
    def controller(self) -> Mapping[str, Any]:
        """The process that last held the day."""
        held = [one for one in self.events if one["event"] in ("begun", "resumed")]
        return held[-1]["controller"] if held else {}

    @property
    def is_going_on(self) -> bool:
        """Whether its controller lives, as far as can be known here."""
        return self.ended is None and is_gone(self.controller) is not True

    @property
    def word(self) -> str:
        """The day's verdict: PASS only if every run that was planned passed."""
        words = [run.verdict for run in self.runs.values() if run.state == "ended"]
        if FAIL in words:
            return FAIL
        planned = self.begun.get("runs") or []
        whole = not self.stopped and len(words) == len(planned) and set(words) == {PASS}
        return PASS if whole else INCONCLUSIVE

    def follow(self, event: dict[str, Any]) -> None:
        """Take one event in."""
        self.events.append(event)
        key = event.get("run", "")
        match event["event"]:
            case "begun":
                self.begun = event
            case "run begun":
                self.runs[key] = RunTold(key, "begun", began=event["at"], child=event["child"])
            case "run ended" | "run skipped":
                run = self.runs.setdefault(key, RunTold(key, "ended", began=event["at"]))
                run.state, run.verdict = "ended", event["verdict"]
                run.why, run.detail = event["why"], event.get("detail") or {}
            case "stopped":
                self.stopped = self.stopped or event["why"]
                self.holder = event.get("holder") or {}
                self.held = not self.holder and event.get("held", True)
            case "resumed":
                self.ended = None
            case "ended":
                self.ended = event


class Record:
    """A day's folder, open to be written. Any thread may write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told = read(folder)
        self._lock = threading.Lock()
        # What a crash cut off would spoil the next line, too.
        self._file = (folder / DECISIONS).open("a", encoding="utf-8")
        if self._file.tell() and not (folder / DECISIONS).read_bytes().endswith(b"\n"):
            self._file.write("\n")

    @classmethod
    def create(cls, title: str, plan: Path) -> Record:
        """A new day's folder; `InvalidInput` if it can't be written."""
        made = RunFolder.create(title, journal_root() / GAME_DAYS)
        shutil.copyfile(plan, made.path / PLAN_COPY)
        (made.path / RUNS).mkdir()
        requests = made.path / REQUESTS
        requests.mkdir()
        requests.chmod(0o1777)  # whoever may come here may ask; the file's owner is who asked
        return cls(made.path)

    def note(self, event: str, **detail: Any) -> dict[str, Any]:
        """Write one event, for good."""
        said = {
            "event": event,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **detail,
        }
        with self._lock:
            try:
                self._file.write(json.dumps(said, ensure_ascii=False, default=str) + "\n")
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise InvalidInput(f"the day's record can't be written: {error}") from None
            self.told.follow(said)
        return said

    def begin(self, **detail: Any) -> None:
        """The first event of a day, or of its going on after a crash."""
        event = "resumed" if self.told.begun else "begun"
        self.note(event, schema=SCHEMA, controller=myself("a game day"), **detail)
        sync_folder(self.folder)

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()


def digest_of(plan: Path) -> str:
    """What tells a plan from another version of it."""
    return hashlib.sha256(plan.read_bytes()).hexdigest()[:16]


def read(folder: Path) -> Told:
    """A day from its folder; a line that a crash cut off is no event."""
    told = Told()
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / DECISIONS).read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                told.follow(json.loads(line))
    return told


def unreadable() -> list[str]:
    """Folders of days that `days` leaves out, by name."""
    known = {folder for folder, _ in days()}
    found = (journal_root() / GAME_DAYS).glob("*/")
    return sorted(one.name for one in found if not one.is_symlink() and one not in known)


def days(root: Path | None = None) -> Iterator[tuple[Path, Told]]:
    """Every day in the journal, oldest first; what is half written or of another version is not."""
    for folder in sorted((root or journal_root() / GAME_DAYS).glob("*/")):
        if not folder.is_symlink() and (told := read(folder)).begun.get("schema") == SCHEMA:
            yield folder, told
