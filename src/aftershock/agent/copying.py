"""A copy of a directory as a file system of its own, in a file without a name, on a loop device.

The file is gone when nobody has it open, the loop device lets go of it when nobody has that open.
https://man7.org/linux/man-pages/man4/loop.4.html
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import subprocess
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

from .errors import AgentError, CannotDo, Invalid
from .filling import open_nameless
from .programs import ends_with_us, host_program

PACKAGE = "e2fsprogs"
_BLOCK = 4096
_MIB = 1 << 20
_INODE_BYTES = 256
_SPARE_INODES = 64
_SPARE_BYTES = 8 * _MIB
_MOST_ENTRIES = 100_000
_COPY_S = 20.0  # the controller waits for 30 s until all is armed
_CONFIGURE, _GET_FREE = 0x4C0A, 0x4C82
_READ_ONLY, _GOES_BY_ITSELF = 1, 4
_TRIES = 8  # somebody else may take the same loop device

About = Tuple[int, int, int, int, int, int]


class Tree(NamedTuple):
    """All below a directory: bytes of its files, what each entry is, and who they are."""

    size: int
    entries: Dict[str, About]
    inodes: Set[Tuple[int, int]]

    @property
    def room(self) -> int:
        """Bytes that a copy takes, as a file system."""
        each = 2 * _BLOCK + _INODE_BYTES  # half a block is lost in each file, and a few have two
        return self.size + self.size // 50 + len(self.entries) * each + _SPARE_BYTES


def survey(top: str, most: int) -> Tree:
    """What is below a directory; Invalid where that is more than `most` bytes."""
    root = Path(top).stat()
    size, entries, inodes = 0, {"": _about(root)}, {(root.st_dev, root.st_ino)}
    for path, found in _below(top):
        entries[path] = _about(found)
        if stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) not in inodes:
            size += found.st_size
        inodes.add((found.st_dev, found.st_ino))
        if size > most or len(entries) > _MOST_ENTRIES:
            raise Invalid(
                f"cover: {top} has more than {most / _MIB:g} MiB, or {_MOST_ENTRIES} files, and "
                "all would be copied: name a directory below it, or raise most_mib"
            )
    return Tree(size, entries, inodes)


def _below(top: str) -> Iterator[Tuple[str, os.stat_result]]:
    waiting = [""]
    while waiting:
        at = waiting.pop()
        with os.scandir(f"{top}{at}") as found:
            for entry in found:
                path = f"{at}/{entry.name}"
                yield path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)


def _about(found: os.stat_result) -> About:
    """What a copy must have as the original has it; a folder's size and times are its own."""
    is_file = stat.S_ISREG(found.st_mode)
    size, changed = (found.st_size, int(found.st_mtime)) if is_file else (0, 0)
    return (found.st_mode, found.st_uid, found.st_gid, size, changed, found.st_rdev)


def check_same(path: str, tree: Tree, copy: Tree) -> None:
    """AgentError that names what a copy has not as the original has it."""
    for entry in sorted(tree.entries.keys() | copy.entries.keys()):
        if tree.entries.get(entry) != copy.entries.get(entry):
            raise AgentError(
                f"cover: {path}{entry} is not in the copy as it is there: it was changed meanwhile "
                "(try again), or mkfs.ext4 can't copy such a thing (a socket, say)"
            )


def image(folder: str, tree: Tree) -> int:
    """A file without a name beside the directory, with an ext4 in it that has all of that."""
    file = open_nameless(folder)
    try:
        os.posix_fallocate(file, 0, tree.room)
        _make(file, folder, tree)
        _finish(file, folder, tree)
    except OSError as error:
        os.close(file)
        raise AgentError(f"cover: a copy of {folder}: {error.strerror}") from None
    except BaseException:
        os.close(file)
        raise
    return file


def _make(file: int, folder: str, tree: Tree) -> None:
    words = ["-q", "-F", "-O", "^has_journal,^resize_inode", "-E", "nodiscard,lazy_itable_init=1"]
    words += ["-m", "0", "-b", str(_BLOCK), "-I", str(_INODE_BYTES)]
    words += ["-N", str(len(tree.entries) + _SPARE_INODES), "-d", folder]
    _run(file, "mkfs.ext4", [*words, f"/proc/self/fd/{file}", str(tree.room // _BLOCK)])


def _finish(file: int, folder: str, tree: Tree) -> None:
    """The topmost directory as it is there: mkfs.ext4 makes one of root's, with a lost+found."""
    mode, uid, gid = tree.entries[""][:3]
    orders = [f"sif <2> mode 0{mode:o}", f"sif <2> uid {uid}", f"sif <2> gid {gid}"]
    if "/lost+found" not in tree.entries:
        orders.append("rmdir lost+found")
    _run(file, "debugfs", ["-w", "-f", "-", f"/proc/self/fd/{file}"], "\n".join(orders) + "\n")


def _run(file: int, program: str, words: List[str], told: str = "") -> None:
    try:
        done = subprocess.run(
            [*ends_with_us(), *host_program(program, PACKAGE), *words],
            input=told,
            capture_output=True,
            text=True,
            errors="replace",
            pass_fds=(file,),
            timeout=_COPY_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AgentError(
            f"cover: to copy it takes longer than {_COPY_S:g} s: name a smaller directory, or "
            "one with fewer files"
        ) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise AgentError(f"cover: {program}: {said[-1]}")


def on_loop(file: int) -> Tuple[int, str]:
    """A read-only loop device on a file, open, and its path; the last who closes it frees it."""
    with contextlib.closing(os.fdopen(_open("/dev/loop-control"), "rb")) as control:
        for _ in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            device = _open(path)
            try:
                fcntl.ioctl(device, _CONFIGURE, _configuration(file))
                return device, path
            except OSError as error:
                os.close(device)
                if error.errno in (errno.EINVAL, errno.ENOTTY):
                    raise CannotDo(
                        "cover: loop devices that go by themselves take Linux 5.8 or newer"
                    ) from None
                if error.errno != errno.EBUSY:
                    raise AgentError(f"cover: {path}: {error.strerror}") from None
    raise AgentError("cover: no loop device is free: detach one that nobody uses (losetup -a)")


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CannotDo(f"cover: {path}: {error.strerror}: modprobe loop") from None


def _configuration(file: int) -> bytes:
    """A struct loop_config; of its loop_info64 only the flags are told."""
    info = struct.pack(
        "=5Q4I160s2Q", 0, 0, 0, 0, 0, 0, 0, 0, _READ_ONLY | _GOES_BY_ITSELF, b"", 0, 0
    )
    return struct.pack("=2I", file, 0) + info + bytes(64)
