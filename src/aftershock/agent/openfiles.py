"""Who has files open: of a mount that is to go, or to write to files that are to be copied.

Only what must be is asked of a file itself: that of a dead NFS server never answers.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Set, Tuple

from .chosen import name
from .containers import every_pid, text
from .mounts import Mount, mounts

Inodes = Set[Tuple[int, int]]  # device and number of each
_MOST = 20


def holders(mount: Mount) -> List[str]:
    """What else keeps a mount's device in use: others' mounts of it, and processes."""
    others = [one for one in mounts() if one.device == mount.device and one != mount]
    return [f"mount {one.path}" for one in others] + _told(_users(mount))


def writers(inodes: Inodes) -> List[str]:
    """Processes that have one of some files open for writing, or mapped so."""
    numbers = {number for _, number in inodes}
    return _told(
        pid
        for pid in every_pid()
        if any(_is_written(pid, link, numbers, inodes) for link in _links(pid))
        or any(one in inodes for one in _mapped(pid, to_write=True))
    )


def _told(pids: Iterable[int]) -> List[str]:
    told = [f"process {pid} ({name(pid)})" for pid in pids]
    more = len(told) - _MOST
    return told if more <= 0 else [*told[:_MOST], f"{more} other processes"]


def _users(mount: Mount) -> Iterator[int]:
    """Who has a file of it open or mapped, is in it, or has it where we don't see it."""
    major, minor = (int(part) for part in mount.device.split(":"))
    device, ours = os.makedev(major, minor), _namespace(os.getpid())
    elsewhere: Dict[str, bool] = {ours: False, "": False}
    for pid in every_pid():
        place = _namespace(pid)
        if place not in elsewhere:
            elsewhere[place] = any(one.device == mount.device for one in mounts(str(pid)))
        if pid != os.getpid() and (
            elsewhere[place]
            or any(where == device for where, _ in _mapped(pid))
            or any(_is_on(link, mount.path, device) for link in _links(pid))
        ):
            yield pid


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    except OSError:
        return ""


def _is_on(link: str, path: str, device: int) -> bool:
    with contextlib.suppress(OSError):
        named = Path(link).readlink()
        return f"{named}/".startswith(f"{path}/") and Path(link).stat().st_dev == device
    return False


def _mapped(pid: int, to_write: bool = False) -> Iterator[Tuple[int, int]]:
    """The files that a process has mapped; `to_write`: so that what it writes comes into them."""
    for line in text(f"/proc/{pid}/maps").splitlines():
        _, rights, _, device, number = line.split(None, 5)[:5]
        if number != "0" and (not to_write or (rights[1], rights[3]) == ("w", "s")):
            major, minor = (int(part, 16) for part in device.split(":"))
            yield os.makedev(major, minor), int(number)


def _is_written(pid: int, link: str, numbers: Set[int], inodes: Inodes) -> bool:
    with contextlib.suppress(OSError):
        if not str(Path(link).readlink()).startswith("/"):  # a socket or a pipe, as most are
            return False
    lines = text(f"/proc/{pid}/fdinfo/{link.rpartition('/')[2]}").splitlines()
    about = dict(line.split(":", 1) for line in lines if ":" in line)
    if not int(about.get("flags", "0"), 8) & os.O_ACCMODE:
        return False
    if "ino" in about and int(about["ino"]) not in numbers:  # Linux 5.14 tells it
        return False
    with contextlib.suppress(OSError):
        found = Path(link).stat()
        return (found.st_dev, found.st_ino) in inodes
    return False


def _links(pid: int) -> List[str]:
    """Each of a process' open files, where it is, and what is its root."""
    with contextlib.suppress(OSError):
        files = [str(one) for one in Path(f"/proc/{pid}/fd").iterdir()]
        return [*files, f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
    return []
