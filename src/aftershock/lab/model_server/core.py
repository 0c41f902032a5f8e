"""The API's side of the engine's core (`aftershock.lab.engine_core`): its GPU, by a socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import deque
from typing import Any

from aftershock.lab.model_server.device import DeviceError

_OWED_S = 0.05  # GPU time that is told at once
_AHEAD = 4  # so many may be on their way before the engine waits


class EngineCore:
    """Begun at once; `attend` when an event loop is there to hear its answers."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "aftershock.lab.engine_core", str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=theirs.fileno())
        theirs.close()
        self._line = ours
        self._heard = b""
        self._owed_s = 0.0
        self._asked: deque[asyncio.Future[None]] = deque()
        self.stretch = 1.0  # how many times as long kernels take as on a card of their own
        self.failed: asyncio.Future[None] | None = None

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        told = self._ask(do="memory")
        return told["free"], told["total"]

    def allocate(self, size: int) -> None:
        """Hold `size` bytes."""
        self._ask(do="allocate", bytes=size)

    def _ask(self, **what: Any) -> dict[str, Any]:
        self._line.sendall(json.dumps(what).encode() + b"\n")
        while b"\n" not in self._heard:
            if not (more := self._line.recv(4096)):
                raise DeviceError("the engine core ended while it started")
            self._heard += more
        text, _, self._heard = self._heard.partition(b"\n")
        told: dict[str, Any] = json.loads(text)
        if "failed" in told:
            raise DeviceError(told["failed"])
        return told

    def attend(self) -> asyncio.Future[None]:
        """From now on answers come by the loop; what is returned fails when the core has."""
        loop = asyncio.get_running_loop()
        self._line.setblocking(False)
        self.failed = loop.create_future()
        loop.add_reader(self._line, self._hear)
        return self.failed

    def _hear(self) -> None:
        assert self.failed
        try:
            more = self._line.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            asyncio.get_running_loop().remove_reader(self._line)
            self._fail("the engine core died")
            return
        *lines, self._heard = (self._heard + more).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "failed" in told:
                self._fail(f"the engine core failed: {told['failed']}")
            self.stretch = told.get("stretch", self.stretch)
            if not (waiting := self._asked.popleft()).done():
                waiting.set_result(None)

    def _fail(self, why: str) -> None:
        if self.failed and not self.failed.done():
            self.failed.set_exception(DeviceError(why))

    async def ran(self, seconds: float) -> None:
        """Tell of GPU time up to now; return when the core is not far behind."""
        self._owed_s += seconds
        if self._owed_s >= _OWED_S:
            told, self._owed_s = {"do": "ran", "seconds": self._owed_s}, 0.0
            loop = asyncio.get_running_loop()
            self._asked.append(loop.create_future())
            await loop.sock_sendall(self._line, json.dumps(told).encode() + b"\n")
        if len(self._asked) >= _AHEAD:
            await asyncio.shield(self._asked[-_AHEAD])

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
