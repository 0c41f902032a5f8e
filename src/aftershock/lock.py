"""One run at a time against a target, on this host: a file that says who holds it.

A holder is a process by its PID, start and boot, so what a crash left is known to be stale at once.
Where its numbers mean nothing (a container of this host) a file tells that it locked for life.
A game day holds a target for all its runs: they are let in by its token, and are written down
beside it, so that a run which outlives its day still holds.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import getpass
import hashlib
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aftershock.agent.clock import boot_id, identity, is_there
from aftershock.errors import AftershockError, InvalidInput
from aftershock.ledger import state_dir

TOKEN = "AFTERSHOCK_LOCK"  # the variable by which a game day lets its own runs in
_POLL_S = 0.05


class Occupied(AftershockError):
    """Another run or game day has the target; nothing was touched. `holder`: as `myself` has it."""

    def __init__(self, said: str, holder: Mapping[str, Any] | None = None) -> None:
        super().__init__(said)
        self.holder: Mapping[str, Any] = dict(holder or {})


def new_token() -> str:
    """What tells one holder from every other."""
    return uuid.uuid4().hex


def myself(what: str) -> dict[str, Any]:
    """Who holds, as plain data. `what` it does, in a few words."""
    return {
        **identity(os.getpid()),
        "pidns": _pid_namespace(),
        "alive": _alive(),
        "host": socket.gethostname(),
        "user": user_name(),
        "what": what,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def user_name() -> str:
    """Who we are to other people: behind sudo, the one who called it."""
    if os.geteuid() == 0 and (called := os.environ.get("SUDO_USER")):
        return called
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def is_gone(holder: Mapping[str, Any]) -> bool | None:
    """Whether a holder's process has ended; None where that can't be known here."""
    try:
        foreign = holder["pidns"] != _pid_namespace() and holder["boot"] == boot_id()
        return _let_go(Path(holder["alive"])) if foreign else not is_there(holder)
    except (KeyError, TypeError):
        return True


@functools.cache
def _alive() -> str:
    """A file that is locked as long as this process lives, whatever ends it."""
    path = state_dir() / "alive" / uuid.uuid4().hex
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fcntl.flock(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
        atexit.register(path.unlink, missing_ok=True)
    return str(path)


def _let_go(path: Path) -> bool | None:
    """Whether nobody locks a file any more; None where we have no such file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    path.unlink(missing_ok=True)
    return True


def told(holder: Mapping[str, Any]) -> str:
    """A holder for people."""
    return (
        f"{holder.get('what', 'something')} (process {holder.get('pid')} on "
        f"{holder.get('host')}, by {holder.get('user')}, since {holder.get('since')})"
    )


def _pid_namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


class HostLock:
    """A target's lock on this host. `stale` is who held it last, if that one crashed."""

    def __init__(self, target: str, what: str, token: str = "") -> None:
        self.path = state_dir() / "locks" / f"{slug(target)}.json"
        self.token = token or new_token()
        self.stale: Mapping[str, Any] | None = None
        self._target, self.me = target, myself(what)

    def acquire(self) -> None:
        """Take it, or stand beside a holder with our token; `Occupied` names who has it."""
        with self._held() as said:
            living = [one for one in said.get("holders", ()) if is_gone(one) is not True]
            if living and said.get("token") != self.token:
                raise Occupied(
                    f"{self._target} is taken by {told(living[0])}: one run at a time, so wait "
                    "for its end, or end it",
                    living[0],
                )
            self.stale = next(iter(said.get("holders", ())), None) if not living else None
            said["token"] = self.token
            said["target"] = self._target
            said["holders"] = [*living, self.me]

    def release(self) -> None:
        """Let go; twice is fine, and so is one that was taken over."""
        if not self.path.exists():
            return
        with self._held() as said:
            said["holders"] = [one for one in said.get("holders", ()) if not self._is_me(one)]

    def _is_me(self, one: Mapping[str, Any]) -> bool:
        return all(one.get(key) == self.me[key] for key in ("pid", "started", "boot", "pidns"))

    @contextlib.contextmanager
    def _held(self) -> Iterator[dict[str, Any]]:
        """The file's content, to be changed, while no other process looks; gone with no holder."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = self._opened()
        except OSError as error:
            raise InvalidInput(
                f"lock {self.path}: {error}: name a writable AFTERSHOCK_STATE"
            ) from error
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            try:
                said = json.load(file)
            except ValueError:  # new, or half written in a crash
                said = {}
            yield said
            file.seek(0)
            file.truncate()
            if said.get("holders"):
                json.dump(said, file)
                file.flush()
                os.fsync(file.fileno())
            else:
                self.path.unlink(missing_ok=True)

    def _opened(self) -> int:
        """The file, locked by us; not one that another has unlinked meanwhile."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(OSError):
                if os.fstat(descriptor).st_ino == self.path.stat().st_ino:
                    return descriptor
            os.close(descriptor)
            time.sleep(_POLL_S)


def slug(target: str) -> str:
    """A target as a file's and a Lease's name."""
    plain = re.sub(r"[^a-z0-9]+", "-", target.lower()).strip("-")[:40]
    return f"{plain}-{hashlib.sha256(target.encode()).hexdigest()[:8]}"


def holders(token: str = "") -> list[dict[str, Any]]:
    """Every living holder on this host, but those with our token; each with its target."""
    found = []
    for path in sorted((state_dir() / "locks").glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(path.read_text(encoding="utf-8"))
            if said.get("token") != token or not token:
                living = [one for one in said["holders"] if is_gone(one) is not True]
                found += [{**one, "target": said.get("target")} for one in living]
    return found
