"""Mounts as the kernel lists them, and one that is nowhere until it is put somewhere.

What fsmount gives belongs to its descriptor: it is gone with it, unless it was moved to a path.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from typing import List, NamedTuple, Optional, Sequence, Union

from .containers import text
from .errors import AgentError, CannotDo, NotUndone

FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8}  # MOUNT_ATTR_…, by their usual names
_FSOPEN, _FSCONFIG, _FSMOUNT, _MOVE_MOUNT = 430, 431, 432, 429  # on every architecture
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_CLOEXEC = 1
_FROM_DESCRIPTOR = 4  # MOVE_MOUNT_F_EMPTY_PATH
_HERE = -100  # AT_FDCWD
_DETACH, _NO_FOLLOW = 2, 8
_LIBC = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """A line of mountinfo: `device` is major:minor, `below` the number of the mount it is on."""

    number: int
    below: int
    device: str
    path: str
    options: Sequence[str]
    kind: str
    source: str


def mounts(process: str = "self") -> List[Mount]:
    """The mounts that a process sees; none of one that is gone."""
    return [_mount(line.split()) for line in text(f"/proc/{process}/mountinfo").splitlines()]


def _mount(words: List[str]) -> Mount:
    kind, source = words[words.index("-") + 1 :][:2]
    number, below, options = int(words[0]), int(words[1]), words[5].split(",")
    return Mount(number, below, words[2], unescaped(words[4]), options, kind, unescaped(source))


def unescaped(text: str) -> str:
    """A path as it is, out of one of the kernel's lists."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), text)


def on_top(path: str, process: str = "self") -> Optional[Mount]:
    """The mount that a path is on, as a process sees it; of several at one place the last."""
    best: Optional[Mount] = None
    for one in mounts(process):
        inside = f"{path}/".startswith(f"{one.path.rstrip('/')}/")
        if inside and (best is None or len(one.path) >= len(best.path)):
            best = one
    return best


def detached(source: str, kind: str, flags: Sequence[str]) -> int:
    """A file system of a device, mounted read-only nowhere: a descriptor of its topmost folder."""
    made = _call(f"fsopen {kind}", _FSOPEN, kind.encode(), _CLOEXEC)
    try:
        _call("source", _FSCONFIG, made, _SET_STRING, b"source", source.encode(), 0)
        _call("ro", _FSCONFIG, made, _SET_FLAG, b"ro", None, 0)
        _call("mounting", _FSCONFIG, made, _CREATE, None, None, 0)
        bits = sum(bit for flag, bit in FLAGS.items() if flag in ("ro", *flags))
        return _call("fsmount", _FSMOUNT, made, _CLOEXEC, bits)
    except AgentError as error:
        with contextlib.suppress(OSError):  # the kernel's own words, if it has some
            said = os.read(made, 1024).decode(errors="replace").strip()
            raise AgentError(f"{error}: {said}") from None
        raise
    finally:
        os.close(made)


def put(mount: int, path: str) -> None:
    """Let such a mount be at a path, above what is there."""
    _call("move_mount", _MOVE_MOUNT, mount, b"", _HERE, path.encode(), _FROM_DESCRIPTOR)


def _call(what: str, number: int, *words: Union[int, bytes, None]) -> int:
    told = (ctypes.c_long(word) if isinstance(word, int) else word for word in words)
    done: int = _LIBC.syscall(ctypes.c_long(number), *told)
    if done >= 0:
        return done
    code = ctypes.get_errno()
    if code == errno.ENOSYS:
        raise CannotDo(f"{what}: this kernel has no such call: use a host with Linux 5.2 or newer")
    raise AgentError(f"{what}: {os.strerror(code)}")


def take_off(mount: Mount) -> None:
    """Take a mount off its path, whoever has its files open; not what others put on it."""
    if above := [one.path for one in mounts() if one.below == mount.number]:
        raise NotUndone(
            f"{mount.path}: somebody mounted {above[0]} on it since: unmount that first"
        )
    if _LIBC.umount2(mount.path.encode(), _DETACH | _NO_FOLLOW):
        raise NotUndone(f"{mount.path}: {os.strerror(ctypes.get_errno())}")
