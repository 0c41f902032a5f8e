"""Others' limits, set for a while: each is written down before it is set, and put back after.

A number is plain data: `file` (a cgroup's limit), `files_of` (a process' RLIMIT_NOFILE, the soft
one) or `adj_of` (its oom_score_adj), with `was`, `set`, and who the process is. One that somebody
else has changed meanwhile is theirs, and is left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Set

from . import cgroups
from .clock import boot_id, start_ticks
from .errors import AgentError, NotUndone

Number = Mapping[str, Any]
# Set by another injection of this agent: what it was before is known to that one only.
_claimed: Set[str] = set()


def of_cgroup(group: cgroups.Cgroup, what: str, value: int) -> Dict[str, Any]:
    """A cgroup's limit, to be set to a value; the kernel rounds memory to pages."""
    page = resource.getpagesize()
    value = value // page * page if group.controller == "memory" else value
    return {"file": str(group.file(what)), "was": group.number(what), "set": value}


def of_process(kind: str, pid: int, value: int) -> Dict[str, Any]:
    """A process' `files_of` or `adj_of`, to be set to a value."""
    number = {kind: pid, "started": start_ticks(pid), "boot": boot_id(), "set": value}
    return {**number, "was": _read(number)}


def restore(numbers: Sequence[Number]) -> List[str]:
    """Put back what is still as we set it, the last first; the lines that are left to others."""
    left, failed = [], []
    for number in reversed(list(numbers)):
        try:
            now = _read(number)
            if now == number["set"]:
                _write(number, number["was"])
            elif now != number["was"]:
                left.append(f"{tell(number)} is {now} by now: left to whoever set it")
        except _Gone:
            continue
        except (AgentError, OSError) as error:
            failed.append(f"{tell(number)}: {error}")
    if failed:
        raise NotUndone("; ".join(failed))
    return left


def still_set(numbers: Sequence[Number]) -> List[Number]:
    """Those that are as we set them."""
    found = []
    for number in numbers:
        try:
            if _read(number) == number["set"] != number["was"]:
                found.append(number)
        except _Gone:
            continue
    return found


def tell(number: Number) -> str:
    """Which number it is."""
    if "file" in number:
        return str(number["file"])
    if "files_of" in number:
        return f"open files of process {number['files_of']}"
    return f"oom_score_adj of process {number['adj_of']}"


class Borrowed:
    """One step's numbers: claimed, set, put back, let go. Each twice is fine."""

    def __init__(self) -> None:
        self.numbers: List[Dict[str, Any]] = []
        self._claimed: Set[str] = set()
        self.on = False

    def claim(self, numbers: Sequence[Dict[str, Any]]) -> None:
        """Keep them for this step; refused where another has one of them."""
        told = {tell(number) for number in numbers}
        if taken := sorted(told & _claimed):
            raise AgentError(f"{taken[0]} is set by another injection: heal that first")
        self.numbers, self._claimed = list(numbers), told
        _claimed.update(told)

    def put(self) -> None:
        """Set them, in order."""
        self.on = True
        for number in self.numbers:
            _write(number, number["set"])

    def restore(self) -> List[str]:
        """Put them back if they were set; the lines that are left to others, or NotUndone."""
        if not self.on:
            return []
        left = restore(self.numbers)
        self.on = False
        return left

    def shut(self) -> bool:
        """The same without a word, which comes when it is looked after; whether it went well."""
        with contextlib.suppress(AgentError):
            self.restore()
        return not self.on

    def release(self) -> None:
        """Let others have them."""
        _claimed.difference_update(self._claimed)
        self._claimed = set()


class _Gone(Exception):
    """Cgroup or process are no more, and the number with them."""


def _read(number: Number) -> int:
    try:
        if "file" in number:
            text = Path(number["file"]).read_text(encoding="ascii").strip()
            return cgroups.UNLIMITED if text == "max" else min(int(text), cgroups.UNLIMITED)
        if "files_of" in number:
            _require(number["files_of"], number)
            return _finite(resource.prlimit(number["files_of"], resource.RLIMIT_NOFILE)[0])
        _require(number["adj_of"], number)
        return int(_adj(number["adj_of"]).read_text(encoding="ascii"))
    except (FileNotFoundError, ProcessLookupError):
        raise _Gone from None
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ESRCH):  # a cgroup or process that goes just now
            raise _Gone from None
        raise


def _write(number: Number, value: int) -> None:
    if "file" in number:
        cgroups.set_number(Path(number["file"]), value)
    elif "files_of" in number:
        pid = number["files_of"]
        _require(pid, number)
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (value, hard))
    else:
        _require(number["adj_of"], number)
        _adj(number["adj_of"]).write_text(str(value), encoding="ascii")


def _require(pid: int, number: Number) -> None:
    if (start_ticks(pid), boot_id()) != (number["started"], number["boot"]):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def _adj(pid: int) -> Path:
    return Path(f"/proc/{pid}/oom_score_adj")


def _finite(value: int) -> int:
    return cgroups.UNLIMITED if value == resource.RLIM_INFINITY else value
