"""How long a process waits that opens a file now: what `agent storage opened` tells."""

from __future__ import annotations

import mmap
import os
import random
import stat
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from .covering import reads_of
from .errors import CannotDo, Invalid
from .volumes import find

_BLOCK = 4096
_LEAST = 3


def opened(path: str, count: int = 9, longest_s: float = 2.0) -> Dict[str, Any]:
    """How long single direct reads of 4 KiB take, in ms, of the largest file below a directory.

    `own`: how many reads of its device were this process'; of those between its opening the file
    and its first read's end all are taken for its own.
    """
    if not (_LEAST <= count <= 1000 and 0 < longest_s <= 30):
        raise Invalid(f"opened: count {_LEAST} to 1000, longest_s to 30")
    folder = find(path).path
    device = Path(folder).stat().st_dev
    before = reads_of(device)
    name, blocks = _largest(folder)
    file = _open(name)
    try:
        times: List[float] = []
        buffer = mmap.mmap(-1, _BLOCK)
        os.preadv(file, [buffer], 0)  # where the file's blocks are is known after it
        own = reads_of(device) - before
        began = time.monotonic()
        while len(times) < _LEAST or (len(times) < count and time.monotonic() - began < longest_s):
            at = random.randrange(blocks) * _BLOCK
            start = time.perf_counter()
            os.preadv(file, [buffer], at)
            times.append((time.perf_counter() - start) * 1000)
    finally:
        os.close(file)
    return {"read_ms": times, "own": own + len(times), "file": name}


def _largest(folder: str) -> Tuple[str, int]:
    """A directory's largest file, and its whole blocks."""
    found: Optional[Tuple[int, str]] = None
    for top, _, names in os.walk(folder):
        for name in names:
            path = f"{top}/{name}"
            told = os.lstat(path)
            if stat.S_ISREG(told.st_mode):
                found = max(found or (0, ""), (told.st_size, path))
    if not found or found[0] < _BLOCK:
        raise CannotDo(
            f"{folder}: no file below it has {_BLOCK} bytes, so no read could be timed: name a "
            "directory with one"
        )
    return found[1], found[0] // _BLOCK


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_NOATIME | os.O_CLOEXEC)
    except OSError:
        raise CannotDo(
            f"{path}: its file system has no direct I/O, so nothing shows how fast its device is: "
            "name a directory on a block device"
        ) from None
