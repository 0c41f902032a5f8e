"""A service that costs next to nothing: `python -m benchmarks.answering`, on loopback.

Reads its plan as one JSON line: {stall: [from, to]} (monotonic; what is asked meanwhile is answered
at its end), {ttft_s, itl_s, tokens} (of streams). Prints its port, and with the end of its input
what it really did: the medians of its streams' times, in seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import uvloop

_BODY = json.dumps(
    {
        "choices": [{"text": "a", "finish_reason": "stop"}],
        "usage": {"completion_tokens": 1, "prompt_tokens": 1},
    }
).encode()
_PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text)


_PIECE = _chunk(b'data: {"choices": [{"text": "a", "finish_reason": null}]}\n\n')
_LAST = _chunk(b'data: {"choices": [{"text": "a", "finish_reason": "stop"}]}\n\n')
_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class _Line(asyncio.Protocol):
    def __init__(self, plan: Mapping[str, Any], seen: dict[str, list[float]]) -> None:
        self._plan, self._seen = plan, seen
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._out = cast(asyncio.Transport, transport)
        plug = transport.get_extra_info("socket")
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (at := self._rest.find(b"\r\n\r\n")) >= 0:
            head = self._rest[:at].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self._rest) < at + 4 + length:
                return
            body = self._rest[at + 4 : at + 4 + length]
            self._rest = self._rest[at + 4 + length :]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        loop, (start, end) = asyncio.get_running_loop(), self._plan.get("stall", (0, 0))
        if b'"stream": true' in body or b'"stream":true' in body:
            loop.create_task(self._stream())
        elif start <= (now := time.monotonic()) < end:
            loop.call_later(end - now, self._out.write, _PLAIN)
        else:
            self._out.write(_PLAIN)

    async def _stream(self) -> None:
        began = last = due = time.monotonic()
        for number in range(self._plan["tokens"]):
            due += self._plan["itl_s"] if number else self._plan["ttft_s"]
            await asyncio.sleep(due - time.monotonic())
            if self._out.is_closing():
                return
            now = time.monotonic()
            self._seen["itl" if number else "ttft"].append(now - (last if number else began))
            last = now
            final = number == self._plan["tokens"] - 1
            piece = _LAST + _END if final else _PIECE
            self._out.write(piece if number else _HEAD + piece)


async def _serve() -> None:
    plan = json.loads(sys.stdin.readline())
    seen: dict[str, list[float]] = {"ttft": [], "itl": []}
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    server = await loop.create_server(lambda: _Line(plan, seen), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop.add_reader(0, lambda: None if os.read(0, 1024) else over.set())
    await over.wait()
    print(json.dumps({k: statistics.median(held) for k, held in seen.items() if held}), flush=True)
    os._exit(0)


class Answering:
    """The service in a process of its own; `did` is what it tells at its end."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.answering"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.flush()
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.did: dict[str, float] = {}

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self.did = json.loads(self._process.stdout.readline())
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def answering(**plan: Any) -> Iterator[Answering]:
    """One for a while."""
    service = Answering(plan)
    try:
        yield service
    finally:
        service.stop()


if __name__ == "__main__":
    uvloop.run(_serve())
