"""The sentinel: probes at fixed times that never wait for replies, `python -m …load.sentinel`.

A process of its own with a fresh connection per sample, closed by RST so that no port lingers. Two
kinds of sample: `health`, a GET that any backend answers at once, at --rate; and `canary`, once a
second a completion of one token, since a hung engine stays healthy. Results go out on stdout as
messages for `Timeline.feed`. It ends at the end of its standard input, after --duration, and with
its parent.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
import resource
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

import uvloop

from aftershock.load.parent import Outlet, die_with
from aftershock.load.tls import tls_context

_REPORT_S = 0.1
_TOO_LATE_S = 0.25  # a sample that we are this late to send says nothing about the service
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
Judge = Callable[[bytes, bool], str | None]
Row = tuple[float, float, float, str]


@dataclass(slots=True)
class Probe:
    """One kind of sample: what is sent, at which rate, and how an answer is judged.

    `judge` gets what came so far and whether the peer closed; it returns "" for good, a kind of
    failure, or None while more is needed.
    """

    name: str
    request: bytes
    period: float
    judge: Judge
    tls: ssl.SSLContext | None = None
    started: float = 0.0
    sent: int = 0
    skipped: int = 0
    open: dict[int, _Sample] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)  # sent, scheduled, done, kind

    @property
    def due(self) -> float:
        """When the next one is to be sent."""
        return self.started + self.sent * self.period


class _Sample:
    """One probe on its way; `finish` is called once, whatever comes first."""

    __slots__ = ("answer", "number", "probe", "scheduled", "sent")

    def __init__(self, probe: Probe, number: int, scheduled: float, sent: float) -> None:
        self.probe, self.number, self.scheduled, self.sent = probe, number, scheduled, sent
        self.answer = b""
        probe.open[number] = self

    def judge(self, *, closed: bool) -> None:
        kind = self.probe.judge(self.answer, closed)
        if kind is not None:
            self.finish(kind)

    def finish(self, kind: str) -> None:
        if self.probe.open.pop(self.number, None) is not None:
            self.probe.rows.append((self.sent, self.scheduled, time.monotonic(), kind))
            self.close()

    def close(self) -> None:
        """Drop the connection."""


class _PlainSample(_Sample):
    """Over a bare socket: a third of the cost of a transport, which counts at 200 a second."""

    __slots__ = ("loop", "plug")

    def connect(self, loop: asyncio.AbstractEventLoop, plug: socket.socket, address: Any) -> None:
        self.loop, self.plug = loop, plug
        self.plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        code = self.plug.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self.finish(_failure(OSError(code, os.strerror(code))))
            return
        loop.add_writer(self.plug, self._writable)

    def _writable(self) -> None:
        self.loop.remove_writer(self.plug)
        try:
            self.plug.send(self.probe.request)
        except OSError as error:
            self.finish(_failure(error))
        else:
            self.loop.add_reader(self.plug, self._readable)

    def _readable(self) -> None:
        try:
            piece = self.plug.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.finish(_failure(error))
            return
        self.answer += piece
        self.judge(closed=not piece)

    def close(self) -> None:
        self.loop.remove_writer(self.plug)
        self.loop.remove_reader(self.plug)
        self.plug.close()


class _TlsSample(_Sample, asyncio.Protocol):
    __slots__ = ("task", "transport")

    def connect(self, loop: asyncio.AbstractEventLoop, url: SplitResult, address: Any) -> None:
        self.transport: asyncio.Transport | None = None
        self.task = loop.create_task(self._connect(loop, url.hostname or "", address))

    async def _connect(self, loop: asyncio.AbstractEventLoop, host: str, address: Any) -> None:
        try:
            await loop.create_connection(
                lambda: self, *address[:2], ssl=self.probe.tls, server_hostname=host
            )
        except (OSError, ssl.SSLError) as error:
            self.finish(_failure(error))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        plug = transport.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.write(self.probe.request)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        self.judge(closed=False)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.finish("reset")
        else:
            self.judge(closed=True)

    def close(self) -> None:
        self.task.cancel()
        if self.transport:
            self.transport.abort()


def _failure(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "tls"
    if isinstance(error, ConnectionRefusedError | BrokenPipeError) or error.errno == errno.ENOTCONN:
        return "refused"
    if isinstance(error, ConnectionResetError):
        return "reset"
    return f"connect_{errno.errorcode.get(error.errno or 0, type(error).__name__)}"


class Sentinel:
    """Sends probes on a fixed schedule, whatever becomes of the earlier ones."""

    def __init__(self, url: SplitResult, probes: list[Probe], timeout: float, out: Outlet) -> None:
        self._url, self._probes, self._timeout, self._out = url, probes, timeout, out
        self._family: int = socket.AF_INET
        self._address: Any = None

    async def run(self, duration: float, until: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        found = await loop.getaddrinfo(self._url.hostname, port, type=socket.SOCK_STREAM)
        self._family, _, _, _, self._address = found[0]
        begin = time.monotonic() + 0.05
        for probe in self._probes:
            probe.started = begin
            self._tick(loop, probe)
        while not until.is_set() and time.monotonic() < begin + duration:
            await asyncio.sleep(_REPORT_S)
            self._report()
        for probe in self._probes:
            probe.period = float("inf")
        self._report()

    def _tick(self, loop: asyncio.AbstractEventLoop, probe: Probe) -> None:
        """Send all that is due, then sleep to the next scheduled time."""
        now = time.monotonic()
        while probe.due <= now:
            scheduled, number = probe.due, probe.sent
            probe.sent += 1
            if now - scheduled > _TOO_LATE_S:
                probe.skipped += 1
            elif self._url.scheme == "https":
                tls = _TlsSample(probe, number, scheduled, time.monotonic())
                tls.connect(loop, self._url, self._address)
            else:
                self._send_plain(loop, probe, number, scheduled)
        if probe.due != float("inf"):
            loop.call_later(max(probe.due - time.monotonic(), 0.0), self._tick, loop, probe)

    def _send_plain(
        self, loop: asyncio.AbstractEventLoop, probe: Probe, number: int, scheduled: float
    ) -> None:
        try:
            plug = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:  # no descriptor is free: our own want, which says nothing of the service
            probe.skipped += 1
            return
        plain = _PlainSample(probe, number, scheduled, time.monotonic())
        plain.connect(loop, plug, self._address)

    def _report(self) -> None:
        now = time.monotonic()
        for probe in self._probes:
            for sample in list(probe.open.values()):
                if now - sample.scheduled > self._timeout:
                    sample.finish("timeout")
            rows, probe.rows = probe.rows, []
            sent, scheduled, done = ([round(m, 5) for m in c] for c in _columns(rows)[:3])
            self._out.write(
                {
                    "source": probe.name,
                    "decided": round(min([now, probe.due, *_scheduled(probe)]), 6),
                    "rate": 1 / probe.period,
                    "skipped": probe.skipped,
                    "sent": sent,
                    "scheduled": scheduled,
                    "done": done,
                    "kind": [self._kind(row) for row in rows],
                }
            )

    def _kind(self, row: Row) -> str:
        """An answer that came after all, but later than the timeout, is one timed out."""
        _, scheduled, done, kind = row
        return kind if kind or done - scheduled <= self._timeout else "timeout"


def _columns(rows: list[Row]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []]


def _scheduled(probe: Probe) -> list[float]:
    return [sample.scheduled for sample in probe.open.values()]


def judge_health(answer: bytes, closed: bool) -> str | None:
    """The status line decides."""
    if len(answer) < 12:
        return "cut" if closed else None
    status = answer[9:12]
    return "" if status.startswith(b"2") else f"http_{status.decode(errors='replace')}"


def judge_completion(answer: bytes, closed: bool) -> str | None:
    """A whole body with a choice in it."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if head and head[9:10] != b"2" and (found or closed):
        return f"http_{head[9:12].decode(errors='replace')}"
    if b'"choices"' in body and body.rstrip().endswith((b"}", b"\r\n0")):
        return ""
    return "cut" if closed else None


def requests_for(
    url: SplitResult, health: str, model: str, headers: Mapping[str, str] | None = None
) -> tuple[bytes, bytes]:
    """The bytes of a health request and of a canary."""
    base = url.path.rstrip("/")
    tail = f"Host: {url.netloc}\r\nConnection: close\r\n"
    tail += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    body = json.dumps({"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}).encode()
    get = f"GET {base}{health} HTTP/1.1\r\n{tail}\r\n".encode()
    post = f"POST {base}/v1/completions HTTP/1.1\r\n{tail}".encode()
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return get, post + length + body


async def _main(options: argparse.Namespace) -> None:
    url = urlsplit(options.url)
    headers = json.loads(os.environ.pop("AFTERSHOCK_HEADERS", "{}"))
    get, post = requests_for(url, options.health, options.model, headers)
    tls = tls_context(not options.no_verify) if url.scheme == "https" else None
    probes = [Probe("health", get, 1 / options.rate, judge_health, tls)]
    if options.canary_period > 0:
        probes.append(Probe("canary", post, options.canary_period, judge_completion, tls))
    until = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read_stdin() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            until.set()

    if options.watch_stdin:
        loop.add_reader(0, read_stdin)
    out = Outlet(1)
    await Sentinel(url, probes, options.timeout, out).run(options.duration, until)


def main() -> None:
    """`python -m aftershock.load.sentinel URL …`"""
    parser = argparse.ArgumentParser(description="Probes a service at fixed times.")
    parser.add_argument("url")
    parser.add_argument("--health", default="/health")
    parser.add_argument("--model", default="")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--canary-period", type=float, default=1.0)
    parser.add_argument("--timeout", type=float, default=1.0)
    parser.add_argument("--duration", type=float, default=3600.0)
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--no-verify", action="store_true")
    parser.add_argument("--watch-stdin", action="store_true")
    options = parser.parse_args()
    if options.parent:
        die_with(options.parent)
    # A probe that nobody answers is a socket that is open for as long as the timeout.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        uvloop.run(_main(options))
    except socket.gaierror as error:
        sys.exit(f"{options.url}: {error.strerror}; check the url and this machine's DNS")


if __name__ == "__main__":
    main()
