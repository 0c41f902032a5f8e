"""Limits on what a cgroup reads from a device and writes to it, by version 1 (blkio) or 2 (io).

https://docs.kernel.org/admin-guide/cgroup-v1/blkio-controller.html and cgroup-v2.html (io.max).
"""

from __future__ import annotations

import contextlib
from typing import Dict, NamedTuple

from . import cgroups
from .containers import text
from .errors import CannotDo

Limits = Dict[str, int]  # 0: none
KEYS = ("rbps", "wbps", "riops", "wiops")
_V1 = {
    "rbps": "blkio.throttle.read_bps_device",
    "wbps": "blkio.throttle.write_bps_device",
    "riops": "blkio.throttle.read_iops_device",
    "wiops": "blkio.throttle.write_iops_device",
}


class Hierarchy(NamedTuple):
    """Where limits of I/O are set: the version, and the folder of the topmost cgroup."""

    version: int
    top: str


def hierarchy() -> Hierarchy:
    """This host's; CannotDo where the kernel limits no I/O."""
    for controller in ("blkio", "io"):  # as versions 1 and 2 name it
        with contextlib.suppress(CannotDo):
            found = cgroups.hierarchy(controller)
            return Hierarchy(found.version, found.place)
    raise CannotDo("no cgroup here limits I/O: mount one with blkio (v1) or io (v2)")


def limits(where: Hierarchy, folder: str, device: str) -> Limits:
    """What is set on a cgroup for a device (major:minor)."""
    if where.version == 1:
        return {key: _line(f"{folder}/{_V1[key]}", device) for key in KEYS}
    for line in text(f"{folder}/io.max").splitlines():
        number, *pairs = line.split()
        if number == device:
            told = dict(pair.split("=") for pair in pairs)
            return {key: 0 if told[key] == "max" else int(told[key]) for key in KEYS}
    return dict.fromkeys(KEYS, 0)


def limit(where: Hierarchy, folder: str, device: str, wanted: Limits) -> None:
    """Set all four; 0 takes a limit off."""
    if where.version == 1:
        for key in KEYS:
            cgroups.write(f"{folder}/{_V1[key]}", f"{device} {wanted[key]}")
        return
    told = " ".join(f"{key}={wanted[key] or 'max'}" for key in KEYS)
    cgroups.write(f"{folder}/io.max", f"{device} {told}")


def _line(path: str, device: str) -> int:
    for line in text(path).splitlines():
        words = line.split()
        if words and words[0] == device:
            return int(words[1])
    return 0
