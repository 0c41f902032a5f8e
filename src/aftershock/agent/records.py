"""What the agent writes down of each injection, so that it can be told after its death."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Dict

from .errors import Invalid

Record = Dict[str, Any]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


class Records:
    """One file an injection and host; a reader sees the old state or the new one, never half."""

    def __init__(self, state: str, host: str) -> None:
        self._folder = Path(state) / "records"
        self._host = _checked(host, "host")

    def path(self, injection: str) -> Path:
        """Where an injection's record lies."""
        return self._folder / f"{_checked(injection, 'injection')}@{self._host}.json"

    def write(self, record: Record) -> None:
        """Put a record on disk, for good, before returning."""
        path = self.path(record["injection"])
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_suffix(f".{os.getpid()}.new")
        with draft.open("w", encoding="utf-8") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, injection: str) -> Record:
        """An injection's record; Invalid when there is none."""
        path = self.path(injection)
        try:
            record: Record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Invalid(f"no record of injection {injection} on {self._host}") from None
        return record

    def order(self, injection: str, reason: str) -> None:
        """Leave an order to revert for an agent whose channel is lost; it looks on SIGUSR1."""
        self._order(injection).write_text(reason, encoding="utf-8")

    def ordered(self, injection: str) -> str:
        """The order that was left, or nothing."""
        path = self._order(injection)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def _order(self, injection: str) -> Path:
        return self.path(injection).with_suffix(".order")

    def drop(self, injection: str) -> None:
        """Forget an injection that is over."""
        for path in (self.path(injection), self._order(injection)):
            if path.exists():
                path.unlink()


def _checked(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise Invalid(f"{what} name {name!r}: letters, digits, dot, dash and underscore only")
    return name
