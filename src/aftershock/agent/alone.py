"""One run at a time on this host: what an agent keeps for its controller, as long as it lives.

Two controllers on machines of their own, and no Kubernetes between them, meet here only. The lock
is the kernel's, so whatever ends the agent, nothing stays locked; the file that says whose it was
may stay after a SIGKILL, until the next agent comes. What somebody asks of the holder (that its
game day ends) is left beside it, and goes with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, Dict, Optional

from .errors import AgentError

_TRIES_S = 1.0  # others hold it for themselves only while they write
_POLL_S = 0.01


class Taken(AgentError):
    """Another controller's run has this host."""

    kind = "taken"


class Alone:
    """This host's lock: shared by those with one token, which its file has."""

    def __init__(self, state: str) -> None:
        # Inventories may call a host what they like; its network is what two of them would share.
        self.path = Path(state) / "alone" / f"{Path('/proc/self/ns/net').stat().st_ino}.json"
        self._order = self.path.with_suffix(".order")
        self._file: Optional[int] = None

    def take(self, token: str, holder: str) -> None:
        """Hold this host, or stand beside those with our token; Taken says who has it."""
        until = time.monotonic() + _TRIES_S
        while self._file is None:
            try:
                self._file = self._shared(token, holder)
            except OSError as error:
                raise AgentError(
                    f"{self.path}: {error.strerror}: free some space there, or make it writable"
                ) from error
            if self._file is None:
                if time.monotonic() > until:
                    raise Taken("others are taking this host at the same moment: try again")
                time.sleep(_POLL_S)

    def _shared(self, token: str, holder: str) -> Optional[int]:
        """The file, locked beside others of our token; None: try again."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(str(self.path), os.O_RDWR | os.O_CREAT, 0o600)
        kept = False
        try:
            if _locks(file, fcntl.LOCK_EX):
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps({"token": token, "holder": holder}).encode(), 0)
            # For a moment it is nobody's, so whose it is by now is read again.
            if not (_locks(file, fcntl.LOCK_SH) and self._is(file)):
                return None
            said = _read(file)
            if said.get("token") != token:
                raise Taken(
                    f"taken by {said.get('holder', 'somebody')}: one run at a time on a host, so "
                    "wait for its end, or end it"
                )
            kept = True
            return file
        finally:
            if not kept:
                os.close(file)

    def _is(self, file: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.fstat(file).st_ino == self.path.stat().st_ino
        return False

    def kept(self) -> Optional[str]:
        """Who has this host, for people; None: nobody, or it is not known yet who."""
        with contextlib.suppress(FileNotFoundError):
            file = os.open(str(self.path), os.O_RDWR)
            try:
                if not _locks(file, fcntl.LOCK_EX) and self._is(file):
                    return _read(file).get("holder")
            finally:
                os.close(file)
        return None

    def leave(self, order: str) -> Optional[str]:
        """Ask something of whoever has this host; who that is, or None: it was asked of nobody."""
        if self.kept() is None:
            return None
        draft = self._order.with_suffix(f".{os.getpid()}")
        draft.write_text(order, encoding="utf-8")
        draft.rename(self._order)
        holder = self.kept()
        if holder is None:  # it ended just now
            self._tidy()
        return holder

    def asked(self) -> Optional[str]:
        """What was last asked of us, who have this host."""
        with contextlib.suppress(FileNotFoundError):
            return self._order.read_text(encoding="utf-8") if self._file is not None else None
        return None

    def release(self) -> None:
        """Let go; the last one takes the file away."""
        if self._file is not None:
            file, self._file = self._file, None
            self._away(file)

    def sweep(self) -> None:
        """Take away what a killed agent left."""
        with contextlib.suppress(OSError):
            self._away(os.open(str(self.path), os.O_RDWR))

    def _away(self, file: int) -> None:
        with contextlib.suppress(OSError):
            if _locks(file, fcntl.LOCK_EX) and self._is(file):
                self.path.unlink()
                self._tidy()
        os.close(file)

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):
            self._order.unlink()
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


def _locks(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: int) -> Dict[str, Any]:
    with contextlib.suppress(ValueError):
        said = json.loads(os.pread(file, 65536, 0))
        return said if isinstance(said, dict) else {}
    return {}
