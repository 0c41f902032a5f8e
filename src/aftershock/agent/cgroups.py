"""Control groups of this host, of either version: where they are, their numbers, who is in them.

A cgroup is named as /proc/PID/cgroup shows it. Under version 1 a process is in one for each
controller, and /proc/PID/cgroup says which.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from .containers import text
from .errors import AgentError, CannotDo

_NEW_CGROUP = 0x02000000
UNLIMITED = 1 << 62
# By controller and what is meant: the file under version 1, and under version 2; a key within.
_FILES: Dict[Tuple[str, str], Tuple[str, str]] = {
    ("memory", "limit"): ("memory.limit_in_bytes", "memory.max"),
    ("memory", "usage"): ("memory.usage_in_bytes", "memory.current"),
    ("memory", "oom_kill"): ("memory.oom_control", "memory.events"),
    ("memory", "high"): ("memory.soft_limit_in_bytes", "memory.high"),
    ("memory", "swap"): ("memory.stat", "memory.swap.current"),
    ("memory", "swap_limit"): ("memory.memsw.limit_in_bytes", "memory.swap.max"),
    ("pids", "limit"): ("pids.max", "pids.max"),
    ("pids", "usage"): ("pids.current", "pids.current"),
    ("pids", "max"): ("pids.events", "pids.events"),
    ("cpuacct", "usage_ns"): ("cpuacct.usage", "cpu.stat"),
}


class Mount(NamedTuple):
    """Where a hierarchy is mounted, and which of its paths is the root there."""

    version: int
    root: str
    place: str


class Cgroup(NamedTuple):
    """A cgroup with a controller."""

    controller: str
    path: str
    folder: Path
    version: int

    def file(self, what: str) -> Path:
        """The file of what is meant, as `_FILES` has it."""
        return self.folder / _FILES[(self.controller, what)][self.version - 1]

    def number(self, what: str) -> int:
        """A number of the cgroup; `UNLIMITED` for no limit."""
        text = self.file(what).read_text(encoding="ascii")
        if what == "usage_ns" and self.version == 2:
            return 1000 * _keyed(text, "usage_usec")
        if what in ("oom_kill", "max") or (what, self.version) == ("swap", 1):
            return _keyed(text, what)
        word = text.strip()
        return UNLIMITED if word == "max" else min(int(word), UNLIMITED)

    def pids(self) -> List[int]:
        """The processes in it, and not below it."""
        return [int(word) for word in (self.folder / "cgroup.procs").read_text().split()]

    def tell(self) -> str:
        """In words."""
        return f"{self.controller} cgroup {self.path}"


def find(controller: str, path: str) -> Cgroup:
    """A cgroup by its path; what isn't there, or has no such controller, is said."""
    mount = hierarchy(controller)
    relative = os.path.relpath(path, mount.root)
    if relative.startswith(".."):
        raise AgentError(
            f"cgroup {path} is outside of {mount.root}, which is all that is seen here"
        )
    found = Cgroup(controller, path, Path(mount.place) / relative, mount.version)
    if not found.folder.is_dir():
        raise AgentError(f"no {found.tell()} here: look at /proc/PID/cgroup of what is meant")
    return found


def of(pid: int, controller: str) -> Cgroup:
    """The cgroup that a process is in, for a controller."""
    mount = hierarchy(controller)
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if (not controllers) if mount.version == 2 else controller in controllers.split(","):
            return find(controller, path)
    raise AgentError(f"process {pid} is in no cgroup with the controller {controller}")


def hierarchy(controller: str) -> Mount:
    """Where a controller is; CannotDo where this kernel, or this place, has none."""
    _go_home()
    first = os.environ.get("AFTERSHOCK_HOST_ROOT", "")
    found: Optional[Mount] = None
    who = "1" if first else "self"
    for line in Path(f"/proc/{who}/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        words, (kind, _, options) = left.split(), right.split(" ", 2)
        mount = Mount(2 if kind == "cgroup2" else 1, words[3], first.rstrip("/") + words[4])
        if _has(kind, options, controller, mount.place):
            found = mount  # the last one lies on top
    if found is None:
        raise CannotDo(
            f"this host has no cgroup controller `{controller}`: mount it, or on version 2 add it "
            "to cgroup.subtree_control"
        )
    return found


def _has(kind: str, options: str, controller: str, place: str) -> bool:
    if not Path(place, "cgroup.procs").exists():  # something else is mounted over it
        return False
    if kind == "cgroup":
        return controller in options.split(",")
    if kind != "cgroup2":
        return False
    try:
        known = Path(place, "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return False
    return controller in known or (controller == "cpuacct" and "cpu" in known)


def cores(path: str) -> Optional[float]:
    """How many processors' worth of time a cgroup may use; None for no limit."""
    try:
        group = find("cpu", path)
        if group.version == 2:
            quota, period = (group.folder / "cpu.max").read_text(encoding="ascii").split()
            return None if quota == "max" else int(quota) / int(period)
        quota, period = (
            (group.folder / name).read_text(encoding="ascii").strip()
            for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        )
    except (AgentError, OSError):
        return None
    return int(quota) / int(period) if int(quota) > 0 else None


def set_number(file: Path, value: int) -> None:
    """Write a limit."""
    none = "-1" if file.name.endswith("_in_bytes") else "max"
    write(str(file), none if value >= UNLIMITED else str(value))


def make(folder: str, version: int, controllers: Sequence[str]) -> None:
    """A cgroup in which controllers can be used; one that is there already is only given them."""
    path = Path(folder)
    path.mkdir(exist_ok=True)
    if version == 2:
        hand_down(str(path.parent), controllers)


def hand_down(folder: str, controllers: Sequence[str]) -> None:
    """Under version 2: let the cgroups below a cgroup use controllers, of those that it has."""
    there = text(f"{folder}/cgroup.controllers").split()
    given = text(f"{folder}/cgroup.subtree_control").split()
    for name in controllers:
        if name in there and name not in given:
            write(f"{folder}/cgroup.subtree_control", f"+{name}")


def enter(folder: str, pid: int) -> None:
    """Move a process; what it starts later is there, too."""
    write(f"{folder}/cgroup.procs", str(pid))


def join(folders: Sequence[str]) -> None:
    """Move this very process into cgroups."""
    for folder in folders:
        enter(folder, os.getpid())


def write(path: str, told: str) -> None:
    """Tell one of a cgroup's files something; what the kernel says against it is said on."""
    try:
        Path(path).write_text(told, encoding="ascii")
    except OSError as error:
        raise AgentError(f"{path}: {told}: {os.strerror(error.errno or errno.EIO)}") from None


def _keyed(text: str, key: str) -> int:
    for line in text.splitlines():
        if line.split()[:1] == [key]:
            return int(line.split()[1])
    return 0


def _go_home() -> None:
    """From a container's own view of cgroups to the host's, or its paths would be relative."""
    if not os.environ.get("AFTERSHOCK_HOST_ROOT"):
        return
    place, own = Path("/proc/1/ns/cgroup"), Path("/proc/self/ns/cgroup")
    if place.exists() and place.stat().st_ino != own.stat().st_ino:
        number = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(number, _NEW_CGROUP):
                code = ctypes.get_errno()
                raise CannotDo(f"seeing the host's cgroups: {os.strerror(code)}")
        finally:
            os.close(number)
