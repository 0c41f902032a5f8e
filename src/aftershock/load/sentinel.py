"""The sentinel: probes at fixed times that never wait for replies, `python -m …load.sentinel`.

A process of its own with a fresh connection per sample, closed by RST so that no port lingers. Two
kinds of sample: `health`, a GET that any backend answers at once, at --rate; and `canary`, once a
second a completion of one token, since a hung engine stays healthy. Results go out on stdout as
messages for `Timeline.feed`. It ends at the end of its standard input, after --duration, and with
its parent.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import resource
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from aftershock.load.parent import Outlet, die_with
from aftershock.load.tls import tls_context

_REPORT_S = 0.1
_TOO_LATE_S = 0.25  # a sample that we are this late to send says nothing about the service
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_T = TypeVar("_T")
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

    __slots__ = ("answer", "number", "plug", "probe", "scheduled", "sent", "steps", "waits_for")

    def __init__(self, probe: Probe, number: int, scheduled: float, plug: socket.socket) -> None:
        self.probe, self.number, self.scheduled, self.plug = probe, number, scheduled, plug
        self.sent = time.monotonic()
        self.answer = b""
        self.waits_for = 0
        probe.open[number] = self

    def begin(self, address: Any, host: str) -> int:
        """As `go_on`."""
        self.steps = self._steps(address, host)
        return self.go_on()

    def go_on(self) -> int:
        """Do what can be done now; the epoll event that is waited for, or 0 at the end."""
        try:
            return next(self.steps)
        except StopIteration as end:
            self.finish(end.value)
        except OSError as error:
            self.finish(_failure(error))
        return 0

    def _steps(self, address: Any, host: str) -> Generator[int, None, str]:
        self.plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        _check(self.plug.connect_ex(address))
        if self.probe.tls:
            yield select.EPOLLOUT
            _check(self.plug.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            self.plug = self.probe.tls.wrap_socket(
                self.plug, do_handshake_on_connect=False, server_hostname=host
            )
            yield from _whole(self.plug.do_handshake, select.EPOLLIN)
        # A peer on this host has accepted already: not to wait for it spares a turn.
        yield from _whole(lambda: self.plug.send(self.probe.request), select.EPOLLOUT)
        yield select.EPOLLIN
        while True:
            piece = yield from _whole(lambda: self.plug.recv(65536), select.EPOLLIN)
            self.answer += piece
            kind = self.probe.judge(self.answer, not piece)
            if kind is not None:
                return kind

    def finish(self, kind: str) -> None:
        if self.probe.open.pop(self.number, None) is not None:
            self.probe.rows.append((self.sent, self.scheduled, time.monotonic(), kind))
            self.plug.close()


def _whole(call: Callable[[], _T], event: int) -> Generator[int, None, _T]:
    """What `call` returns at last; `event` is what a bare socket waits for meanwhile."""
    while True:
        try:
            return call()
        except ssl.SSLWantReadError:
            yield select.EPOLLIN
        except ssl.SSLWantWriteError:
            yield select.EPOLLOUT
        except BlockingIOError:
            yield event


def _check(code: int) -> None:
    if code not in (0, errno.EINPROGRESS):
        raise OSError(code, os.strerror(code))


def _failure(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "tls"
    if isinstance(error, ConnectionRefusedError | BrokenPipeError) or error.errno == errno.ENOTCONN:
        return "refused"
    if isinstance(error, ConnectionResetError):
        return "reset"
    return f"connect_{errno.errorcode.get(error.errno or 0, type(error).__name__)}"


class Sentinel:
    """Sends probes on a fixed schedule, whatever becomes of the earlier ones.

    One thread around one epoll: an event loop for everybody costs more than the samples themselves.
    """

    def __init__(self, url: SplitResult, probes: list[Probe], timeout: float, out: Outlet) -> None:
        self._url, self._probes, self._timeout, self._out = url, probes, timeout, out
        self._family: int = socket.AF_INET
        self._address: Any = None
        self._epoll = select.epoll()
        self._waiting: dict[int, _Sample] = {}

    def run(self, duration: float, *, watch_stdin: bool) -> None:
        """For `duration` seconds, or to the end of standard input where that is watched."""
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        found = socket.getaddrinfo(self._url.hostname, port, type=socket.SOCK_STREAM)
        self._family, _, _, _, self._address = found[0]
        if watch_stdin:
            self._epoll.register(0, select.EPOLLIN)
        now = time.monotonic()
        end, report_at = now + duration, now + _REPORT_S
        for probe in self._probes:
            probe.started = now
        while now < end:
            for probe in self._probes:
                self._send_due(probe, now)
            next_at = min([report_at, *(probe.due for probe in self._probes)])
            if not self._serve(max(next_at - time.monotonic(), 0.0)):
                break
            now = time.monotonic()
            if now >= report_at:
                self._report()
                report_at = now + _REPORT_S
        for probe in self._probes:
            probe.period = float("inf")
        self._report()

    def _serve(self, wait_s: float) -> bool:
        """Let the samples go on that can, within `wait_s`; False if standard input has ended."""
        for number, _ in self._epoll.poll(wait_s):
            sample = self._waiting.get(number)
            if sample is not None:
                self._wait_for(sample, number, sample.go_on())
            elif number == 0 and not os.read(0, 4096):
                return False
        return True

    def _wait_for(self, sample: _Sample, number: int, event: int) -> None:
        if event == sample.waits_for:
            return
        if not event:
            del self._waiting[number]  # its closing took it out of the epoll
        elif sample.waits_for:
            self._epoll.modify(number, event)
        else:
            self._waiting[number] = sample
            self._epoll.register(number, event)
        sample.waits_for = event

    def _send_due(self, probe: Probe, now: float) -> None:
        while probe.due <= now:
            scheduled, number = probe.due, probe.sent
            probe.sent += 1
            if now - scheduled > _TOO_LATE_S:
                probe.skipped += 1
                continue
            try:
                plug = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except (
                OSError
            ):  # no descriptor is free: our own want, which says nothing of the service
                probe.skipped += 1
                continue
            fd = plug.fileno()
            sample = _Sample(probe, number, scheduled, plug)
            self._wait_for(sample, fd, sample.begin(self._address, self._url.hostname or ""))

    def _report(self) -> None:
        now = time.monotonic()
        for probe in self._probes:
            for sample in list(probe.open.values()):
                if now - sample.scheduled > self._timeout:
                    self._waiting.pop(sample.plug.fileno(), None)
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


def _main(options: argparse.Namespace) -> None:
    url = urlsplit(options.url)
    headers = json.loads(os.environ.pop("AFTERSHOCK_HEADERS", "{}"))
    get, post = requests_for(url, options.health, options.model, headers)
    tls = tls_context(not options.no_verify) if url.scheme == "https" else None
    probes = [Probe("health", get, 1 / options.rate, judge_health, tls)]
    if options.canary_period > 0:
        probes.append(Probe("canary", post, options.canary_period, judge_completion, tls))
    sentinel = Sentinel(url, probes, options.timeout, Outlet(1))
    sentinel.run(options.duration, watch_stdin=options.watch_stdin)


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
        _main(options)
    except socket.gaierror as error:
        sys.exit(f"{options.url}: {error.strerror}; check the url and this machine's DNS")


if __name__ == "__main__":
    main()
