"""A generator ends with its controller, however that ends, and never blocks on a paused one."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
from collections import deque
from collections.abc import Mapping
from typing import Any

_PR_SET_PDEATHSIG = 1
_F_SETPIPE_SZ = 1031
_MOST_HELD = 50_000  # messages kept for a controller that does not read


def die_with(parent: int) -> None:
    """Be killed when `parent`, which must be our parent, is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before we asked
        os._exit(1)


class Outlet:
    """JSON lines into a pipe; what a stopped reader leaves unread is held in memory."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._held: deque[bytes] = deque()
        os.set_blocking(fd, False)
        with contextlib.suppress(OSError):  # above the user's share of pipe memory: it stays small
            fcntl.fcntl(fd, _F_SETPIPE_SZ, 1 << 20)

    def write(self, message: Mapping[str, Any]) -> None:
        if len(self._held) < _MOST_HELD:
            self._held.append(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        self.flush()

    def flush(self) -> bool:
        """Write what fits now; whether nothing is left."""
        while self._held:
            try:
                written = os.write(self._fd, self._held[0])
            except BlockingIOError:
                return False
            if written < len(self._held[0]):
                self._held[0] = self._held[0][written:]
            else:
                self._held.popleft()
        return True
