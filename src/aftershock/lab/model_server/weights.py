"""A file of weights on a volume: read when the server starts, and for KV blocks that come back.

The lab's file is much smaller than a real model's. What is read from the volume is smaller in the
same proportion, so that the two take as long, beside each other, as they do in life.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from pathlib import Path

CHUNK = 1 << 20


class Weights:
    """One file, read past the page cache, as on a host that never saw it."""

    def __init__(self, path: Path, stands_for_bytes: int) -> None:
        self._path = path
        self._scale = path.stat().st_size / stands_for_bytes
        self.read_bytes = 0

    async def load(self) -> None:
        """Read all of it, in one row, as a loader does."""
        await asyncio.to_thread(self._read, self._path.stat().st_size)

    async def page_in(self, kv_bytes: int) -> None:
        """Read what stands for so many bytes of KV cache that were swapped out there."""
        await asyncio.to_thread(self._read, max(1, int(kv_bytes * self._scale)))

    def _read(self, size: int) -> None:
        buffer, number = mmap.mmap(-1, CHUNK), os.open(self._path, os.O_RDONLY | os.O_DIRECT)
        try:
            length, at = os.fstat(number).st_size, 0
            while at < size:
                got = os.preadv(number, [buffer], at % length // CHUNK * CHUNK)
                at += got
                self.read_bytes += got
        finally:
            os.close(number)
