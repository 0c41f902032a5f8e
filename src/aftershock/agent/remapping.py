"""Steps that make a device-mapper device answer late, or with errors: dm-delay, dm-flakey or
dm-error in the place of its linear parts.

The new table is loaded beside the old one (nothing is felt) and swapped in by one `resume`, live,
under a mounted file system. It outlives the agent: the watcher swaps the old one in.
https://docs.kernel.org/admin-guide/device-mapper/delay.html, …/dm-flakey.html
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple

from .classifier import check_options
from .errors import AgentError, CannotDo, Invalid, NotUndone
from .mapper import devices, dmsetup, has_target, waits_beside
from .volumes import Volume, find, needed_to_heal

DELAY_OPTIONS = ("path", "volume", "read_ms", "write_ms")
FAIL_OPTIONS = ("path", "volume", "operation", "up_s", "down_s")
_OURS = {"delay", "flakey", "error"}
_FEATURES = {"read": "1 error_reads", "write": "1 error_writes", "both": "0"}
_ALIKE = {"flakey": 7, "error": 3}  # so many words of a line are the same on all kernels


class Swap(NamedTuple):
    """A device's table and ours; `locked`: the file system is brought to rest at each swap."""

    volume: Volume
    name: str
    table: str
    ours: str
    locked: bool


def check_delay(options: Mapping[str, Any]) -> Swap:
    """What a delay would swap; refuses what can't be."""
    check_options(options, DELAY_OPTIONS)
    return _swap("delay", "delay", options, True)


def check_fail(options: Mapping[str, Any]) -> Swap:
    """What errors would be swapped in by; refuses what can't be, or could not be healed."""
    check_options(options, FAIL_OPTIONS)
    if options["operation"] not in _FEATURES:
        raise Invalid(f"fail: operation {options['operation']!r}: one of {', '.join(_FEATURES)}")
    if needed := needed_to_heal(find(options["path"], options["volume"])):
        raise Invalid(
            f"fail: {needed} is on the volume of {options['path']}, and nobody could heal it once "
            "that can't be read: name another volume"
        )
    # A file system that gets errors can't be brought to rest, and need not be, to be healed.
    return _swap("fail", _failing(options), options, False)


def _failing(options: Mapping[str, Any]) -> str:
    """The target: dm-error, which all of device-mapper has, where everything fails all the time."""
    return "error" if options["operation"] == "both" and not options["up_s"] else "flakey"


def _swap(kind: str, target: str, options: Mapping[str, Any], locked: bool) -> Swap:
    volume = find(options["path"], options["volume"])
    named = Path(f"/sys/dev/block/{volume.device}/dm/name")
    if not volume.device or not named.exists():
        raise CannotDo(
            f"{kind}: {volume} is on no device-mapper device, such as LVM makes, and nothing else "
            f"can be swapped live: name a volume that is{_INSTEAD.get(kind, '')}"
        )
    name = named.read_text(encoding="utf-8").strip()
    table = dmsetup("table", name)
    for had in {line.split()[2] for line in table.splitlines()} & _OURS:
        raise Invalid(f"{kind}: {volume} has a part of kind {had} already: heal that first")
    if waits_beside(name):
        raise Invalid(f"{kind}: somebody is changing {name}, whose next table waits: let them end")
    ours = "\n".join(swapped(kind, target, volume, line, options) for line in table.splitlines())
    if not has_target(target):
        mend = _INSTEAD.get(target, "")
        raise CannotDo(
            f"{kind}: this kernel has no dm-{target}: `aftershock doctor` tells of it{mend}"
        )
    return Swap(volume, name, table, ours, locked)


_INSTEAD = {
    "delay": ", or keep it busy by fio",
    "flakey": "; without it reads and writes can only fail both, all the time (dm-error)",
}


def swapped(kind: str, target: str, volume: Volume, line: str, options: Mapping[str, Any]) -> str:
    """A linear part of a table as one that waits or fails; any other can't be swapped live."""
    start, length, had, *words = line.split()
    if had != "linear":
        raise CannotDo(
            f"{kind}: {volume}: its device has a part of kind {had}, and only linear ones can be "
            "swapped while they are in use"
        )
    where = " ".join(words)
    if target == "error":
        return f"{start} {length} error"
    if target == "delay":
        told = f"{round(options['read_ms'])} {where} {round(options['write_ms'])}"
    else:
        told = f"{options['up_s']} {options['down_s']} {_FEATURES[options['operation']]}"
    return f"{start} {length} {target} {where} {told}"


class Remap:
    """A device with another table for a while."""

    def __init__(self, kind: str, swap: Swap, about: Mapping[str, Any]) -> None:
        self._swap = swap
        self.kind = kind
        self.outlives, self.rash = True, False
        self.about: Dict[str, Any] = {**about, "dm": swap.name}
        self._on = False
        self._lock = -1

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside."""
        one = self._swap
        return {"name": one.name, "table": one.table, "ours": one.ours, "locked": one.locked}

    def attach(self) -> Dict[str, Any]:
        """Our table waits beside the other; nothing is felt."""
        self._claim()
        dmsetup("reload", self._swap.name, table=self._swap.ours, bound=True)
        return {"owned": [], "undo": self.intent()}

    def _claim(self) -> None:
        """Keep other agents off the device: hosts may share it, as the nodes of a lab's zone do."""
        number = Path(f"/sys/dev/block/{self._swap.volume.device}").resolve()
        root = os.environ.get("AFTERSHOCK_HOST_ROOT", "")
        self._lock = os.open(f"{root}/dev/{number.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AgentError(
                f"{self.kind}: {self._swap.volume}: another agent has its device already: name one "
                "of the hosts that share it, or heal the other fault first"
            ) from None

    def fire(self, until: float) -> None:
        """Swap it in."""
        self._on = True
        dmsetup("resume", self._swap.name, bound=True)

    def tick(self) -> None:
        """Nothing comes due."""

    def shut(self) -> None:
        """Swap the old one in; what goes wrong is told when it is looked after."""
        if self._on:
            try:
                undo(self.intent())
                self._on = False
            except AgentError:
                pass

    def observe(self) -> Dict[str, Any]:
        """What table is in use."""
        seen = {"kind": self.kind, "counts": {}, "dm": self._swap.name}
        return {**seen, "table": dmsetup("table", self._swap.name)}

    def detach(self) -> List[str]:
        """The old table must be in use, and none beside it."""
        return undo(self.intent())

    def close(self) -> None:
        """Others may have the device."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1


class Delay(Remap):
    """A device whose reads and writes wait."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        about = {key: options[key] for key in DELAY_OPTIONS}
        super().__init__("delay", check_delay(options), about)


class Fail(Remap):
    """A device whose reads or writes end with an error, always or for `down_s` of each period."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        about = {key: options[key] for key in FAIL_OPTIONS}
        super().__init__("fail", check_fail(options), about)

    def attach(self) -> Dict[str, Any]:
        """Our table waits; a kernel that can't fail reads alone says so only now."""
        try:
            return super().attach()
        except AgentError as error:
            if self.about["operation"] != "read":
                raise
            raise CannotDo(
                "fail: this kernel's dm-flakey can't fail reads alone (error_reads: Linux 6.6 has "
                f"it, 6.1 has not): use a host with a newer one ({error})"
            ) from None


def undo(intent: Mapping[str, Any]) -> List[str]:
    """Swap the old table in, from any process there; twice is fine."""
    name = intent["name"]
    if name not in devices():
        return []  # after a reboot a device has its own table
    now = dmsetup("table", name)
    if waits_beside(name):
        dmsetup("clear", name)
    if _parts(now) == _parts(intent["ours"]):
        dmsetup("reload", name, table=intent["table"])
        dmsetup("resume", name, *([] if intent.get("locked", True) else ["--nolockfs"]))
        if dmsetup("table", name) != intent["table"]:
            raise NotUndone(f"{name} did not take its old table")
        return []
    return [] if now == intent["table"] else [f"{name} {now}"]  # somebody's own by now


def still(intent: Mapping[str, Any]) -> List[str]:
    """The device, if our table is in use."""
    name = intent["name"]
    ours = name in devices() and _parts(dmsetup("table", name)) == _parts(intent["ours"])
    return [f"{name}'s table"] if ours else []


def _parts(table: str) -> List[List[str]]:
    """A table to compare: each kernel tells dm-flakey's features, and dm-error, in its own way."""
    lines = [line.split() for line in table.splitlines()]
    return [words[: _ALIKE.get(words[2], len(words))] for words in lines]
