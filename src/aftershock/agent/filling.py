"""A step that fills a volume, its space or its inodes, with files that have no name.

A file without a name is gone as soon as nobody has it open. So nothing stays, neither after SIGKILL
of the agent nor after a reboot. The watcher is for an agent that hangs beyond its deadline.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
from pathlib import Path
from typing import Any, Dict, List, Mapping

from . import freezing
from .classifier import check_options
from .clock import identity
from .errors import AgentError, CannotDo, Invalid
from .volumes import Volume, find, room

OPTIONS = ("what", "path", "volume", "free", "reserve")
_MIB = 1 << 20
_CHUNK = 1 << 30
_AT_ONCE = 250  # descriptors a message: the kernel takes 253
_PER_PAIR = 100  # messages that surely fit into a socket's buffer
_INODE_BYTES = 2048  # of kernel memory, roughly, that an open file takes
UNITS = {"space": ("free_bytes", "bytes"), "inodes": ("free_inodes", "inodes")}

undo = freezing.undo  # the agent's end gives everything back


def check(options: Mapping[str, Any]) -> Volume:
    """Refuse what can't be filled, or must not be; nothing is touched."""
    check_options(options, OPTIONS)
    if options["what"] not in UNITS:
        raise Invalid(f"fill: {options['what']!r}: space or inodes")
    volume = find(options["path"], options["volume"])
    free, unit = UNITS[options["what"]]
    there = room(volume.path)
    if not there[unit]:
        raise CannotDo(f"fill: {volume} has no fixed number of {unit}: there is nothing to fill")
    target, reserve = options["free"], options["reserve"]
    if volume.needed and target < reserve:
        raise Invalid(
            f"fill: {volume} also holds {volume.needed}, which the host and the journal need: "
            f"leave at least {_told(reserve, unit)} free, or name a volume of its own"
        )
    if there[free] <= target:
        raise Invalid(
            f"fill: {volume} has only {_told(there[free], unit)} free, and {_told(target, unit)} "
            "were to be left: nothing would happen"
        )
    if unit == "inodes":
        _check_memory(there[free] - target)
    return volume


def _check_memory(count: int) -> None:
    """Refuse to open so many files that the host's memory or file table would feel it."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable")) << 10
    used, _, most = Path("/proc/sys/fs/file-nr").read_text(encoding="ascii").split()
    room_for = min(available // 4 // _INODE_BYTES, (int(most) - int(used)) // 2)
    if count > room_for:
        raise CannotDo(
            f"fill: {count} inodes would have to be held open, and this host has memory and file "
            f"handles for {room_for}: leave more of them free"
        )


def open_nameless(folder: str) -> int:
    """A file without a name, in a folder."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise CannotDo(
                f"{folder}: files without a name (O_TMPFILE) are unknown there, and a named one "
                "could be left behind: name a volume on ext4, xfs, btrfs or tmpfs"
            ) from None
        raise AgentError(f"a file in {folder}: {error.strerror}") from None


class Fill:
    """Keeps a volume filled up to what was to be left."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        self._volume = check(options)
        self.kind = "fill"
        self.outlives, self.rash = True, False
        self.about: Dict[str, Any] = {key: options[key] for key in OPTIONS}
        self._free = UNITS[options["what"]][0]
        self._target, self._reserve = int(options["free"]), int(options["reserve"])
        self._hoard: Any = Space() if options["what"] == "space" else Inodes()
        self._on = False

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside: the end of who has the files open."""
        return {"agent": identity(os.getpid())}

    def attach(self) -> Dict[str, Any]:
        """Everything is tried on a file of no size; nothing is felt."""
        self._hoard.open(self._volume.path)
        return {"owned": [], "undo": self.intent()}

    def fire(self, until: float) -> None:
        """Take what there is."""
        self._on = True
        self._adjust()

    def tick(self) -> None:
        """Take what others gave back; give back what the host needs."""
        if self._on:
            self._adjust()

    def _adjust(self) -> None:
        left = room(self._volume.path)[self._free]
        if left > self._target:
            self._hoard.take(left - self._target)
        elif self._volume.needed and left < self._reserve:
            self._hoard.give(self._reserve - left)

    def shut(self) -> None:
        """Give everything back; twice is fine."""
        self._on = False
        self._hoard.give(self._hoard.held)

    def observe(self) -> Dict[str, Any]:
        """How much is held."""
        return {"kind": self.kind, "counts": {}, "held": self._hoard.held}

    def detach(self) -> List[str]:
        """What has no name is gone with its last descriptor."""
        self.close()
        return []

    def close(self) -> None:
        """Let go of everything."""
        self._hoard.close()


class Space:
    """One file without a name, grown and shrunk."""

    def __init__(self) -> None:
        self.held = 0
        self._file = -1
        self._folder = ""

    def open(self, folder: str) -> None:
        """Make it, and see that its size can be reserved without writing."""
        self._file, self._folder = open_nameless(folder), folder
        try:
            _reserve(self._file, 0, 1)
            os.ftruncate(self._file, 0)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise AgentError(f"fill: {folder}: {error.strerror}") from None
            raise CannotDo(f"fill: {folder}: no space is reserved unwritten there") from None

    def take(self, size: int) -> None:
        """Grow by as much, or by what there is."""
        chunk = min(size, _CHUNK)
        while size > 0 and chunk >= 4096:
            try:
                _reserve(self._file, self.held, min(size, chunk))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise AgentError(f"fill: {self._folder}: {error.strerror}") from None
                chunk //= 2
                continue
            grown = min(size, chunk)
            self.held, size = self.held + grown, size - grown

    def give(self, size: int) -> None:
        """Shrink."""
        if self._file >= 0:
            self.held = max(0, self.held - size)
            os.ftruncate(self._file, self.held)

    def close(self) -> None:
        """Give it all back."""
        self.held = 0
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _reserve(file: int, start: int, size: int) -> None:
    """As posix_fallocate, which would write where the file system can't reserve."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = (ctypes.c_int(file), ctypes.c_int(0), ctypes.c_int64(start), ctypes.c_int64(size))
    if libc.fallocate64(*words):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Inodes:
    """Files without a name, on their way in socket pairs of ours: there they need no descriptor."""

    def __init__(self) -> None:
        self.held = 0
        self._folder = ""
        self._pairs: List["tuple[socket.socket, socket.socket]"] = []
        self._in_pair: List[int] = []  # how many messages are in each pair

    def open(self, folder: str) -> None:
        """See that there are such files here."""
        self._folder = folder
        os.close(open_nameless(folder))

    def take(self, count: int) -> None:
        """Make as many, or as many as there can be."""
        while count > 0:
            made = self._make(min(count, _AT_ONCE))
            if not made:
                return
            if not self._pairs or self._in_pair[-1] >= _PER_PAIR:
                self._pairs.append(socket.socketpair())
                self._in_pair.append(0)
            try:
                socket.send_fds(self._pairs[-1][0], [b"x"], made)
            finally:
                for file in made:
                    os.close(file)
            self._in_pair[-1] += 1
            self.held, count = self.held + len(made), count - len(made)

    def _make(self, count: int) -> List[int]:
        made: List[int] = []
        try:
            for _ in range(count):
                made.append(os.open(self._folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                for file in made:
                    os.close(file)
                raise AgentError(f"fill: {self._folder}: {error.strerror}") from None
        return made

    def give(self, count: int) -> None:
        """Let as many go, and up to a message's worth more."""
        while count > 0 and self._pairs:
            if not self._in_pair[-1]:
                self._drop_pair()
                continue
            _, files, _, _ = socket.recv_fds(self._pairs[-1][1], 1, _AT_ONCE)
            for file in files:
                os.close(file)
            self._in_pair[-1] -= 1
            self.held, count = self.held - len(files), count - len(files)

    def _drop_pair(self) -> None:
        self._in_pair.pop()
        for end in self._pairs.pop():
            with contextlib.suppress(OSError):
                end.close()

    def close(self) -> None:
        """Let all go: with its socket goes what is on its way."""
        while self._pairs:
            self._drop_pair()
        self.held = 0


def _told(amount: float, unit: str) -> str:
    return f"{amount / _MIB:.4g} MiB" if unit == "bytes" else f"{amount:g} inodes"
