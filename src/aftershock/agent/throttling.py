"""A step that limits what some processes read from a volume's device and write to it, by cgroup.

Limits are set on the processes' own cgroup where nobody else is in it. Else they are moved into one
of ours, and back again. Both outlive the agent: the watcher has the undo.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Set, Tuple

from . import blkio, cgroups
from .blkio import KEYS, Hierarchy, Limits
from .chosen import first_protected
from .classifier import check_options
from .containers import named, processes_of, text
from .errors import AgentError, CannotDo, Invalid, NotUndone
from .volumes import Volume, find

OPTIONS = ("path", "volume", "cgroup", "containers", "named", *KEYS)
_OURS = "aftershock-throttle-"
_EMPTY_S = 3.0


class Target:
    """The cgroup that is limited; `moved` are the processes that are taken into it, if any."""

    def __init__(self, where: Hierarchy, folder: str, moved: Dict[str, List[int]]) -> None:
        self.where, self.folder, self.moved = where, folder, moved


def check(options: Mapping[str, Any], injection: str = "trial") -> Tuple[Volume, Target]:
    """The volume and who is limited on it; refuses what can't be, and touches nothing."""
    check_options(options, OPTIONS)
    if not any(options[key] for key in KEYS):
        raise Invalid("throttle: no limit: nothing would happen")
    volume = find(options["path"], options["volume"])
    if not volume.device:
        raise CannotDo(f"throttle: {volume} is on no block device: no cgroup limits it")
    where = blkio.hierarchy()
    target = _target(where, options, injection)
    for folder in target.moved or [target.folder]:
        if any(blkio.limits(where, folder, volume.device).values()) and not target.moved:
            raise Invalid(
                f"throttle: {folder} has limits on {volume} already: take these off first"
            )
    return volume, target


def _target(where: Hierarchy, options: Mapping[str, Any], injection: str) -> Target:
    if options["cgroup"]:
        folder = f"{where.top}/{options['cgroup'].strip('/')}"
        if folder.rstrip("/") == where.top:
            raise Invalid("throttle: the topmost cgroup has everybody in it: name another")
        if not Path(folder).is_dir():
            raise Invalid(f"throttle: no cgroup {folder} here")
        _spare(set(_members(folder)), f"cgroup {options['cgroup']}")
        return Target(where, folder, {})
    asked = {f"container {name[:12]}": processes_of(name) for name in options["containers"]}
    asked.update({f"program {name}": named(name) for name in options["named"]})
    for told, found in asked.items():
        if not found:
            raise Invalid(f"throttle: no process of {told} here: has it ended?")
        _spare(set(found), told)
    pids = {pid for found in asked.values() for pid in found}
    if not pids:
        raise Invalid("throttle: neither a cgroup, nor containers, nor programs: name some")
    return _home_of(where, pids, injection)


def _home_of(where: Hierarchy, pids: Set[int], injection: str) -> Target:
    """Their own cgroup if they have one to themselves, else one of ours."""
    homes: Dict[str, List[int]] = {}
    for folder in _folders(where.top):
        if inside := sorted(pids & set(_procs(folder))):
            homes[folder] = inside
    if not homes:
        raise AgentError("throttle: its processes are in no cgroup here: have they ended?")
    if any(Path(folder).name.startswith(_OURS) for folder in homes):
        raise Invalid("throttle: these processes are throttled by us already: heal that first")
    only = next(iter(homes))
    if len(homes) == 1 and only != where.top and set(_members(only)) <= pids:
        return Target(where, only, {})
    if where.version == 2 and set(homes) != {where.top}:  # its limits of memory would be lost
        raise CannotDo(
            f"throttle: others are in {only}, too, and in version 2 a process has one cgroup for "
            "everything: name the cgroup itself, or processes that have one to themselves"
        )
    token = os.urandom(3).hex()  # several agents of one injection may be on this host
    return Target(where, f"{where.top}/{_OURS}{injection}-{token}", homes)


def _spare(pids: Set[int], told: str) -> None:
    """Never the host's first process, ourselves, or who lets people in."""
    if guarded := first_protected(pids - {0}):  # 0: those that can't be seen from here
        raise Invalid(f"throttle: {told} has process {guarded[0]}, {guarded[1]}: name another")


class Throttle:
    """Limits on one cgroup, for one device."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        self._volume, self._target = check(options, re.sub(r"\W", "-", injection))
        self.kind = "throttle"
        self.outlives, self.rash = True, False
        self.about: Dict[str, Any] = {key: options[key] for key in OPTIONS}
        self.about["folder"] = self._target.folder
        self._limits: Limits = {key: int(options[key]) for key in KEYS}
        self._none: Limits = dict.fromkeys(KEYS, 0)

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside, known before anything is touched."""
        where, target = self._target.where, self._target
        moved = {folder: list(pids) for folder, pids in target.moved.items()}
        return {
            "version": where.version,
            "top": where.top,
            "folder": target.folder,
            "device": self._volume.device,
            "limits": self._limits,
            "moved": moved,
        }

    def attach(self) -> Dict[str, Any]:
        """Where it takes a cgroup of ours, that is made and entered; nothing is felt."""
        where, target = self._target.where, self._target
        if target.moved:
            cgroups.make(target.folder, where.version, ("io",))
            for pid in (pid for pids in target.moved.values() for pid in pids):
                with contextlib.suppress(AgentError):  # it has ended since
                    cgroups.enter(target.folder, pid)
        return {"owned": [], "undo": self.intent()}

    def fire(self, until: float) -> None:
        """Set the limits."""
        blkio.limit(self._target.where, self._target.folder, self._volume.device, self._limits)

    def tick(self) -> None:
        """Nothing comes due: what the processes start is in their cgroup."""

    def shut(self) -> None:
        """Take the limits off; twice is fine."""
        if Path(self._target.folder).exists():
            with contextlib.suppress(AgentError):  # told when it is looked after
                blkio.limit(
                    self._target.where, self._target.folder, self._volume.device, self._none
                )

    def observe(self) -> Dict[str, Any]:
        """What the kernel says is set, where, and on how many processes."""
        folder = self._target.folder
        there = blkio.limits(self._target.where, folder, self._volume.device)
        seen = {"kind": self.kind, "counts": {}, "folder": folder, "limits": there}
        return {**seen, "processes": len(set(_members(folder)))}

    def detach(self) -> List[str]:
        """No limit is left, and everybody is where they were."""
        return undo(self.intent())

    def close(self) -> None:
        """There is nothing held."""


def undo(intent: Mapping[str, Any]) -> List[str]:
    """Take limits off, and move back who was moved, from any process there; twice is fine."""
    where, folder = Hierarchy(intent["version"], intent["top"]), str(intent["folder"])
    if not Path(folder).exists():
        return []
    there = blkio.limits(where, folder, intent["device"])
    if any(there.values()):
        if there != intent["limits"]:
            return [f"{folder} {there}"]  # somebody set others since: theirs now
        blkio.limit(where, folder, intent["device"], dict.fromkeys(KEYS, 0))
    if any(blkio.limits(where, folder, intent["device"]).values()):
        raise NotUndone(f"throttle: {folder} still has limits")
    if intent["moved"]:
        _move_back(where, folder, intent["moved"])
    return []


def still(intent: Mapping[str, Any]) -> List[str]:
    """The cgroup, if our limits are on it."""
    where, folder = Hierarchy(intent["version"], intent["top"]), str(intent["folder"])
    there = Path(folder).exists() and blkio.limits(where, folder, intent["device"])
    return [f"{folder}'s limits"] if there == intent["limits"] else []


def _move_back(where: Hierarchy, folder: str, moved: Mapping[str, List[int]]) -> None:
    """Each to where it was; what they have started since, to where the first of them was."""
    homes = {pid: home for home, pids in moved.items() for pid in pids}
    spare = next(iter(moved))
    until = time.monotonic() + _EMPTY_S
    while Path(folder).exists():
        for pid in filter(None, _procs(folder)):
            home = homes.get(pid, spare)
            with contextlib.suppress(AgentError):  # it has ended since
                cgroups.enter(home if Path(home).exists() else where.top, pid)
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
        if time.monotonic() > until:
            raise NotUndone(f"throttle: processes stay in {folder}: {_procs(folder)}")


def _folders(top: str) -> Iterator[str]:
    for folder, _, _ in os.walk(top):
        yield folder


def _procs(folder: str) -> List[int]:
    """Those that can't be seen from here are numbered 0."""
    return [int(word) for word in text(f"{folder}/cgroup.procs").split()]


def _members(folder: str) -> List[int]:
    return [pid for one in _folders(folder) for pid in _procs(one)]
