"""Which volume a path is on, and whether the host itself writes there."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple

from .errors import Invalid
from .mounts import on_top, unescaped

# What writes here is needed to heal: the journal, the runtime, ourselves.
_HOSTS_OWN = ("/", "/etc", "/run", "/tmp", "/var", "/var/lib", "/var/log", "/var/tmp")

# Beside these: what a host does not go on without, or others' shared memory.
_NEVER_HIDDEN = ("/boot", "/dev", "/dev/shm", "/lib", "/lib64", "/proc", "/root", "/sys")

# Where the programs are that heal, and an image's of a pod.
_PROGRAMS = ("/usr", "/usr/local", "/sbin", "/var/lib/containerd", "/var/lib/containers")


class Volume(NamedTuple):
    """A mounted file system: `device` is major:minor, or nothing where no block device is under it.

    `path` is the directory as this process gets at it. `needed`: what of the host's own is on it.
    """

    path: str
    mount: str
    source: str
    kind: str
    device: str
    needed: str

    def __str__(self) -> str:
        return f"{self.mount} ({self.source}, {self.kind})"


def find(path: str, volume: str = "") -> Volume:
    """The volume that a directory is on; Invalid if that isn't the one that was asked for."""
    here = _here(path)
    if not here.is_dir():
        what = "a file, not a directory" if here.exists() else "not there"
        raise Invalid(f"path {path}: it is {what}: name a directory on the volume")
    found = _volume(path, str(here))
    asked = {volume, os.path.realpath(volume)}
    if volume and not asked & {found.mount, found.source, os.path.realpath(found.source)}:
        raise Invalid(f"path {path} is on {found}, not on {volume}: name a directory there")
    return found


def _here(path: str) -> Path:
    """A host's path as this process sees it: an agent in a pod has the host elsewhere."""
    if not path.startswith("/"):
        raise Invalid(f"path {path!r}: give it whole, from / on")
    root = os.environ.get("AFTERSHOCK_HOST_ROOT", "")
    if not root:
        return Path(os.path.realpath(path))
    real = Path(os.path.normpath(path))
    here = f"{root}{real}"
    # A link would lead into the pod's own image.
    if any(Path(f"{root}{part}").is_symlink() for part in (real, *real.parents) if part.name):
        raise Invalid(f"path {path}: a link is on the way to it: name the directory itself")
    return Path(here)


def _volume(path: str, here: str) -> Volume:
    root = os.environ.get("AFTERSHOCK_HOST_ROOT", "")
    real = here[len(root) :] or "/"
    best = on_top(real, "1" if root else "self")
    if best is None:
        raise Invalid(f"path {path}: no file system is mounted there")
    device = _block_device(best.device, best.source)
    return Volume(here, best.path, best.source, best.kind, device, _needed(here, root))


def _block_device(number: str, source: str) -> str:
    """A file system of several devices, such as btrfs, has a number of its own: its source has."""
    if not number.startswith("0:"):
        return number
    try:
        device = Path(source).stat().st_rdev
    except OSError:
        return ""
    return f"{os.major(device)}:{os.minor(device)}" if device else ""


def _needed(here: str, root: str) -> str:
    """Which of the host's own folders is on the same file system, or nothing."""
    own = {root + path if path != "/" else root or "/": path for path in _HOSTS_OWN}
    if "--state" in sys.argv:
        own[_there(sys.argv[sys.argv.index("--state") + 1])] = "our own records"
    device = Path(here).stat().st_dev
    for place, told in own.items():
        try:
            if Path(place).stat().st_dev == device:
                return told
        except OSError:
            continue
    return ""


def needed_to_heal(volume: Volume) -> str:
    """What is on a volume that must be read to heal it, or that all the host lives on."""
    if volume.needed:
        return volume.needed
    root = os.environ.get("AFTERSHOCK_HOST_ROOT", "")
    programs = [sys.executable, sys.argv[0], *(f"{root}{place}" for place in _PROGRAMS)]
    own = dict.fromkeys(programs, "what heals")
    own.update({f"{root}{place}": "the host's swap" for place in _swaps()})
    device = Path(volume.path).stat().st_dev
    for place, told in own.items():
        with contextlib.suppress(OSError):
            if Path(place).stat().st_dev == device:
                return told
    held = Path(f"/sys/dev/block/{volume.device}/holders")
    above = sorted(one.name for one in held.iterdir()) if held.exists() else []
    return f"another device ({above[0]})" if above else ""


def hidden_by(path: str) -> str:
    """What the host or a heal needs of what a mount over a directory would hide, or nothing.

    A directory in the midst of programs is one that they may need.
    """
    programs = dict.fromkeys(
        (sys.executable, sys.argv[0], sys.base_prefix, *_PROGRAMS), "what heals"
    )
    own = {**dict.fromkeys((*_HOSTS_OWN, *_NEVER_HIDDEN), "what the host needs"), **programs}
    if "--state" in sys.argv:
        own[sys.argv[sys.argv.index("--state") + 1]] = "our own records"
    own.update(dict.fromkeys(_swaps(), "the host's swap"))
    for place, told in own.items():
        names = (place, os.path.realpath(place))
        around = (*programs, "/etc", "/proc")
        if any(_is_within(one, path) for one in names) or (
            place in around and _is_within(path, names[1])
        ):
            return f"{told} ({place})"
    return ""


def _is_within(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _swaps() -> List[str]:
    lines = Path("/proc/swaps").read_text(encoding="utf-8").splitlines()[1:]
    return [unescaped(line.split()[0]) for line in lines]


def _there(folder: str) -> str:
    """The nearest folder that is there by now."""
    return next(str(one) for one in (Path(folder), *Path(folder).parents) if one.exists())


def room(path: str) -> Dict[str, int]:
    """Bytes and inodes of a file system: all, and those that root could still use."""
    found = os.statvfs(path)
    return {
        "bytes": found.f_blocks * found.f_frsize,
        "free_bytes": found.f_bfree * found.f_frsize,
        "inodes": found.f_files,
        "free_inodes": found.f_ffree,
    }
