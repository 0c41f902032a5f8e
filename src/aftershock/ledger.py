"""What was intended, armed, fired and reverted: on disk before it happens, in one fixed place.

A file a run, a JSON line an event. A run that ends with nothing open takes its file along; what is
left belongs to runs that didn't end, and is what `recover` works from.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aftershock.agent.clock import identity, is_there
from aftershock.agent.records import sync_folder
from aftershock.errors import InvalidInput, NotReverted

Undo = Callable[[Mapping[str, Any]], str]
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_undos: dict[str, Undo] = {}


def state_dir() -> Path:
    """Where state lies: `AFTERSHOCK_STATE`, /var/lib/aftershock for root, else XDG's directory."""
    if named := os.environ.get("AFTERSHOCK_STATE"):
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/aftershock")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "aftershock"


def undoes(kind: str) -> Callable[[Undo], Undo]:
    """Register what takes back a kind of change; it must be harmless twice, and say what it did."""

    def register(undo: Undo) -> Undo:
        _undos[kind] = undo
        return undo

    return register


def take_back(kind: str, module: str, undo_data: Mapping[str, Any]) -> str:
    """Run a kind's registered undo, importing the module that registers it; its sentence."""
    if kind not in _undos and module.partition(".")[0] == "aftershock":
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    if kind not in _undos:
        raise NotReverted(f"nothing here undoes a {kind!r} ({dict(undo_data)}): undo it by hand")
    return _undos[kind](undo_data)


class Ledger:
    """One run's file. Every line is on disk before the call returns; any thread may write."""

    @classmethod
    def open(cls, run_id: str) -> Ledger:
        """Begin a run's book-keeping, in the name of this process."""
        return cls(run_id)

    def __init__(self, run_id: str) -> None:
        if not _RUN_ID.fullmatch(run_id):
            raise InvalidInput(f"run id {run_id!r}: letters, digits, dot, dash and underscore only")
        self.run_id = run_id
        self.path = state_dir() / "runs" / f"{run_id}.jsonl"
        self._lock = threading.Lock()
        self._entries = itertools.count(1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise InvalidInput(f"ledger: {error}: name a writable AFTERSHOCK_STATE") from error
        try:
            self.note("begun", run=run_id, controller=identity(os.getpid()))
        except InvalidInput:
            self.close()
            raise
        sync_folder(self.path.parent)

    def note(self, event: str, **detail: Any) -> None:
        """Write one line, for good."""
        line = {"event": event, "at": datetime.now(UTC).isoformat(), **detail}
        try:
            with self._lock:
                self._append(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise InvalidInput(f"ledger {self.path}: {error}: free some space there") from error

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)  # half a line would spoil the next one, too
            raise

    def intend_undo(self, kind: str, undo_data: Mapping[str, Any]) -> str:
        """Note a change that has a registered undo, before making it; its entry's name."""
        if kind not in _undos:
            raise InvalidInput(f"no undo is registered for {kind!r}")
        entry = f"{kind}-{next(self._entries)}"
        module = _undos[kind].__module__
        self.note("intended", entry=entry, kind=kind, module=module, undo=dict(undo_data))
        return entry

    def undone(self, entry: str) -> None:
        """The change of an entry is taken back."""
        self.note("undone", entry=entry)

    def close(self) -> None:
        """End the run's book-keeping; the file goes unless something is still open."""
        with contextlib.suppress(OSError):
            os.close(self._file)
        if self.path.exists() and not read(self.path).is_open():
            self.path.unlink()


@dataclass
class Run:
    """What a run's file says is open."""

    run_id: str
    path: Path
    controller: Mapping[str, Any] | None = None
    injections: dict[str, dict[str, Any]] = field(default_factory=dict)
    undos: dict[str, dict[str, Any]] = field(default_factory=dict)

    def is_open(self) -> bool:
        """Whether anything may be left behind."""
        return bool(self.injections or self.undos)

    def is_going_on(self) -> bool:
        """Whether the process that controls the run still lives."""
        return self.controller is not None and is_there(self.controller)

    def follow(self, line: Mapping[str, Any]) -> None:
        """Take one event in."""
        match line["event"]:
            case "begun":
                self.controller = line["controller"]
            case "arming":
                self.injections[line["injection"]] = dict(line)
            case "reverted":
                self.injections.pop(line["injection"], None)
            case "intended":
                self.undos[line["entry"]] = dict(line)
            case "undone":
                self.undos.pop(line["entry"], None)
            case event if line.get("injection") in self.injections:
                self.injections[line["injection"]]["state"] = event


def read(path: Path) -> Run:
    """A run's state from its file; a line that was cut off by a crash is not an event."""
    run = Run(path.stem, path)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            run.follow(json.loads(line))
    return run


def runs() -> Iterator[Run]:
    """Every run that has a file."""
    for path in sorted((state_dir() / "runs").glob("*.jsonl")):
        yield read(path)
