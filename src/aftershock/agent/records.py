"""What the agent writes down of each injection, so that it can be told after its death."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any, Dict

from .errors import AgentError, Invalid, complain

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
        draft = path.with_suffix(f".{os.getpid()}.new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with draft.open("w", encoding="utf-8") as file:
                json.dump(record, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            sync_folder(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise AgentError(
                f"record: {error.strerror}: free some space in {self._folder}, or make it writable"
            ) from error

    def tell(self, record: Record) -> None:
        """Write a record of what is done already: where that can't be, only say so."""
        try:
            self.write(record)
        except AgentError as error:
            complain(str(error))

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
        path = self._order(injection)
        with contextlib.suppress(FileExistsError):
            # A link's target is kept beside its name: an order finds room on a full disk, too.
            path.symlink_to(reason)

    def ordered(self, injection: str) -> str:
        """The order that was left, or nothing."""
        path = self._order(injection)
        return str(path.readlink()) if path.is_symlink() else ""

    def _order(self, injection: str) -> Path:
        return self.path(injection).with_suffix(".order")

    def drop(self, injection: str) -> None:
        """Forget an injection that is over, and what a killed writer of its record left."""
        drafts = self._folder.glob(f"{self.path(injection).stem}.*.new")
        for path in (self.path(injection), self._order(injection), *drafts):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk, for good: a file's own sync leaves its name out."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _checked(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise Invalid(f"{what} name {name!r}: letters, digits, dot, dash and underscore only")
    return name
