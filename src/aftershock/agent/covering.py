"""A step that covers a directory with a copy of it whose reads wait: who opens a file there after
that gets the copy's, and who has one open keeps the original's.

The copy is read-only, so nothing that is written is lost. All below the mount goes by itself, in
the kernel, with its last user: the device-mapper device is told to as soon as it is in use; loop
devices and files without a name do. What outlives the agent is the mount alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from . import copying, mapper
from .classifier import check_options
from .containers import text
from .copying import Tree
from .errors import AgentError, CannotDo, Invalid, NotUndone, Over
from .mounts import FLAGS, Mount, detached, mounts, on_top, put, take_off
from .openfiles import holders, writers
from .programs import host_program
from .volumes import Volume, find, hidden_by, room

OPTIONS = ("path", "read_ms", "most", "reserve")
_OURS = "aftershock-files-"
_MIB = 1 << 20
_LOOPS = "/dev/loop-control"
_ALONE = ("--noudevsync", "--noudevrules")  # udev would read the device, to learn what is on it
_TOOLS = (("dmsetup", "dmsetup"), ("mkfs.ext4", copying.PACKAGE), ("debugfs", copying.PACKAGE))


def check(options: Mapping[str, Any]) -> Tuple[Volume, Tree]:
    """The directory and what is below it; refuses what can't be covered, or must not be."""
    check_options(options, OPTIONS)
    if os.environ.get("AFTERSHOCK_HOST_ROOT"):
        raise CannotDo("cover: an agent in a pod mounts nothing on its host: reach it by SSH")
    volume = find(options["path"])
    if needed := hidden_by(volume.path):
        raise Invalid(
            f"cover: {volume.path} would hide {needed}: name a directory of the service's"
        )
    _check_place(volume.path)
    tree = copying.survey(volume.path, options["most"])
    _check_room(volume, tree, options["reserve"])
    if who := writers(tree.inodes):
        raise Invalid(
            f"cover: a file in {volume.path} is open for writing by {', '.join(who)}, and the copy "
            "would not have what comes into it: stop that first, or name a directory below"
        )
    _check_tools()
    return volume, tree


def _check_place(path: str) -> None:
    """Refuse a directory with mounts below it, or one that a fault of ours is on."""
    for one in mounts():
        inside, around = one.path.startswith(f"{path}/"), f"{path}/".startswith(f"{one.path}/")
        if (inside or around) and _is_ours(one):
            raise Invalid(f"cover: {one.path} is covered by a fault of ours: heal that first")
        if inside:
            raise Invalid(
                f"cover: {one.path} is mounted below {path}, and would be hidden: name a directory "
                "without others' mounts in it"
            )


def _is_ours(mount: Mount) -> bool:
    return _name(mount).startswith(_OURS)


def _name(mount: Mount) -> str:
    """How device-mapper calls the device of a mount; nothing where it isn't one of these."""
    return text(f"/sys/dev/block/{mount.device}/dm/name").strip()


def _check_room(volume: Volume, tree: Tree, reserve: int) -> None:
    free = room(volume.path)["free_bytes"]
    spare = reserve if volume.needed else free // 10
    if free - tree.room < spare:
        raise Invalid(
            f"cover: a copy of {volume.path} takes {tree.room / _MIB:.4g} MiB, {volume} has "
            f"{free / _MIB:.4g} free, and {spare / _MIB:.4g} of them must stay so: free some"
        )


def _check_tools() -> None:
    for program, package in _TOOLS:
        host_program(program, package)
    if not Path(_LOOPS).exists():
        raise CannotDo("cover: there are no loop devices on this host: modprobe loop")
    try:
        known = mapper.has_target("delay")
    except AgentError as error:
        raise CannotDo(
            f"cover: this host has no device-mapper ({error}): modprobe dm_mod"
        ) from None
    if not known:
        raise CannotDo("cover: this kernel has no dm-delay: `aftershock doctor` tells of it")


class Cover:
    """A copy that is made, mounted nowhere, and then put over its original."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        self._volume, self._tree = check(options)
        self.kind = "cover"
        self.outlives, self.rash = True, False
        self.about: Dict[str, Any] = {key: options[key] for key in OPTIONS}
        self.about.update(bytes=self._tree.size, looks=["covers"])
        self._path = self._volume.path
        self._place = Path(self._path).stat()
        self._name = f"{_OURS}{injection}-{self._place.st_ino}"
        self._files: List[int] = []  # what is closed when it is on
        self._lock = -1
        self._copy: Optional[os.stat_result] = None
        self._on = False
        self._reads_before = 0
        self._seen: Dict[str, Any] = {}

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside."""
        return {"name": self._name, "path": self._path}

    def attach(self) -> Dict[str, Any]:
        """The copy is made, and mounted nowhere; nothing is felt."""
        self._claim()
        mount = self._mount()
        copying.check_same(self._path, self._tree, copying.survey(self._path, self.about["most"]))
        here = f"/proc/self/fd/{mount}"
        copying.check_same(self._path, self._tree, copying.survey(here, self.about["most"]))
        self._copy = os.fstat(mount)
        delay = _table(self._name, "delay", f" {self.about['read_ms']}")
        mapper.dmsetup("reload", self._name, "--readonly", table=delay, bound=True)
        return {"owned": [_line(self._path, self._name)], "undo": self.intent()}

    def _claim(self) -> None:
        """Keep others of ours off it: hosts may share a directory, as the nodes of a lab do."""
        self._lock = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AgentError(
                f"cover: {self._path}: another fault of ours is about to cover it: heal that first"
            ) from None

    def _mount(self) -> int:
        """The copy's own mount, by its descriptor: with it all that is below goes."""
        file = self._keep(copying.image(self._path, self._tree))
        device, path = copying.on_loop(file)
        self._keep(device)
        size = os.lseek(device, 0, os.SEEK_END) // 512
        table = f"0 {size} linear {path} 0"
        mapper.dmsetup("create", self._name, "--readonly", *_ALONE, table=table, bound=True)
        over = on_top(self._path)
        flags = [flag for flag in (over.options if over else ()) if flag in FLAGS]
        minor = mapper.dmsetup("info", self._name, "--columns", "--noheadings", "-o", "minor")
        mount = self._keep(detached(f"/dev/dm-{minor}", "ext4", flags))
        _let_go(self._name)
        return mount

    def _keep(self, file: int) -> int:
        self._files.append(file)
        return file

    def fire(self, until: float) -> None:
        """Let reads of the copy wait, and put it over the directory."""
        assert self._copy
        now = Path(self._path).stat()
        if (now.st_dev, now.st_ino) != (self._place.st_dev, self._place.st_ino):
            raise AgentError(f"cover: {self._path} is another directory than at the arming")
        _check_place(self._path)
        mapper.dmsetup("resume", self._name, "--nolockfs", "--noudevrules", bound=True)
        self._reads_before = reads_of(self._copy.st_dev)
        self._on = True
        put(self._files[-1], self._path)
        self._close_files()

    def tick(self) -> None:
        """It must still be there."""
        if self._on and self._copy and Path(self._path).stat().st_dev != self._copy.st_dev:
            raise Over(f"somebody took the copy off {self._path}, or covered it")

    def shut(self) -> None:
        """Take it off; what goes wrong is told when it is looked after."""
        if self._on:
            self._seen = self._look()
            with contextlib.suppress(AgentError):
                self._seen["holders"] = undo(self.intent())
                self._on = False

    def observe(self) -> Dict[str, Any]:
        """How often the copy's device was read since the firing, by anybody; at last who has it."""
        return self._seen or self._look()

    def _look(self) -> Dict[str, Any]:
        reads = reads_of(self._copy.st_dev) - self._reads_before if self._on and self._copy else 0
        return {"kind": self.kind, "counts": {}, "dm": self._name, "reads": reads}

    def detach(self) -> List[str]:
        """It must be off."""
        self._close_files()
        undo(self.intent())
        return []

    def close(self) -> None:
        """Others may cover the directory."""
        self._close_files()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _close_files(self) -> None:
        while self._files:
            os.close(self._files.pop())


def undo(intent: Mapping[str, Any]) -> List[str]:
    """Take a copy off, from any process there; twice is fine. Who has files of it open till then.

    These keep the device, on which nobody waits any more; it goes when they have closed them.
    """
    name, held = intent["name"], []
    try:
        if name in mapper.devices():
            _hurry(name)
    finally:
        for one in mounts():
            if one.path == intent["path"] and _name(one) == name:
                held = holders(one)
                take_off(one)
    _let_go(name)
    return held


def still(intent: Mapping[str, Any]) -> List[str]:
    """The mount, if it is there."""
    there = any(_name(one) == intent["name"] for one in mounts())
    return [f"the copy on {intent['path']}"] if there else []


def cover_lines() -> List[str]:
    """The copies that are mounted here, in a fingerprint's lines."""
    return [_line(one.path, _name(one)) for one in mounts() if _is_ours(one)]


def _line(path: str, name: str) -> str:
    return f"mount {path} {name}"


def reads_of(device: int) -> int:
    """How many reads of a block device were begun since it is there.

    https://docs.kernel.org/block/stat.html
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        words = Path(f"/sys/dev/block/{number}/stat").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(words[0]) + int(words[8])


def _table(name: str, target: str, more: str = "") -> str:
    """A device's table with the same part below as another target."""
    start, length, _, below, offset = mapper.dmsetup("table", name).split()[:5]
    return f"{start} {length} {target} {below} {offset}{more}"


def _hurry(name: str) -> None:
    """Let nobody wait on a device any more, whoever has it open."""
    if mapper.waits_beside(name):
        mapper.dmsetup("clear", name)
    if mapper.dmsetup("table", name).split()[2] != "linear":
        mapper.dmsetup("reload", name, "--readonly", table=_table(name, "linear"))
        mapper.dmsetup("resume", name, "--nolockfs", "--noudevrules")


def _let_go(name: str) -> None:
    """Let a device go with its last user."""
    try:
        mapper.dmsetup("remove", "--deferred", *_ALONE, name)
    except AgentError as error:
        if name in mapper.devices():
            raise NotUndone(str(error)) from None
