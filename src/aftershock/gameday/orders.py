"""What people ask of a day that goes on, from another terminal: to abort, or to confirm.

A request is a small file in the day's folder. Who asks is who owns that file, which only the kernel
says; root's word for others is taken (sudo).
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aftershock.errors import InvalidInput
from aftershock.gameday.record import REQUESTS
from aftershock.lock import user_name

ABORT, CONFIRM, DECLINE = "abort", "confirm", "decline"


@dataclass(frozen=True, slots=True)
class Order:
    """Who asked for what, when (UTC, ISO), and for what reason."""

    what: str
    by: str
    at: str
    why: str = ""


def send(folder: Path, what: str, why: str = "") -> Order:
    """Ask a day for something; `InvalidInput` where we may not write in its folder."""
    order = Order(what, user_name(), datetime.now(UTC).isoformat(timespec="seconds"), why)
    place = folder / REQUESTS
    draft = place / f".{uuid.uuid4().hex}"
    try:
        draft.write_text(
            json.dumps({"what": what, "by": order.by, "at": order.at, "why": why}), encoding="utf-8"
        )
        draft.chmod(0o644)
        draft.rename(place / f"{what}-{draft.name[1:]}.json")
    except OSError as error:
        raise InvalidInput(f"{place} can't be written: {error.strerror}") from None
    return order


def received(folder: Path, seen: set[str]) -> Iterator[Order]:
    """The requests that are new; `seen` are those that were looked at."""
    for path in sorted((folder / REQUESTS).glob("*.json")):
        if path.name in seen:
            continue
        seen.add(path.name)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, encoding="utf-8") as file:
                found = os.fstat(descriptor)
                said = json.loads(file.read(10_000))
            if found.st_nlink != 1:  # somebody else's request under a new name
                continue
            owner = found.st_uid
            by = str(said["by"]) if owner == 0 else _name(owner)
            yield Order(str(said["what"]), by, str(said["at"]), str(said.get("why") or ""))


def may(who: str, listed: Sequence[str]) -> bool:
    """Whether somebody may do what only those listed may, and whoever runs the day."""
    return who == user_name() or who in listed


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
