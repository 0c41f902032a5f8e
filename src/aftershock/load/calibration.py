"""Can this machine send that rate? Asked before anything is touched, of a server of our own.

A process of its own (`python -m aftershock.load.calibration`) sends what the profile asks for over
loopback, and tells the CPU time of one request, the cheapest of several batches: others on the
machine don't make it dearer. All that is left out (TLS, Locust's own books, tokens that a model may
or may not send) would make it dearer still, so what is refused can't be sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from statistics import mean

from aftershock.errors import InvalidInput
from aftershock.load.parent import die_with
from aftershock.load.settings import LoadSettings

_REQUEST_S, _PIECE_S = 200e-6, 20e-6  # of one core, on a slow machine
_FAR_BELOW = 0.2  # of a core a process: not worth a look
FULL = 0.9  # of a core: more of it, and the schedule slips
_BATCH, _CPU_S, _WALL_S = 20, 0.25, 3.0
_PATIENCE_S = 15.0


def check_rate(settings: LoadSettings, peak_rps: float) -> None:
    """`InvalidInput`, with the mend, for a rate that this machine surely can't send."""
    each = peak_rps / settings.processes
    if each * (_REQUEST_S + _pieces(settings) * _PIECE_S) < _FAR_BELOW:
        return
    cost_s = request_cost_s(settings)
    if cost_s is not None:
        judge_rate(peak_rps, settings.processes, cost_s, len(os.sched_getaffinity(0)))


def judge_rate(peak_rps: float, processes: int, cost_s: float, cpus: int) -> None:
    """`InvalidInput` where requests that cost `cost_s` of CPU each need more than there is."""
    needed = ceil(peak_rps * cost_s / FULL)
    if needed <= processes and peak_rps * cost_s <= FULL * cpus:
        return
    said = (
        f"this machine can't send {peak_rps:g} requests/s: one costs {cost_s * 1e3:.3g} ms of CPU, "
        f"which is {peak_rps * cost_s:.1f} cores"
    )
    if needed <= cpus:
        raise InvalidInput(f"{said}, for load_processes={processes}: give it {needed}")
    most = FULL * cpus / cost_s
    raise InvalidInput(
        f"{said}, and it has {cpus}: give at most {most:.0f} requests/s, or load_workers on other "
        "machines (docs/load.md)"
    )


def _pieces(settings: LoadSettings) -> float:
    """Pieces of a stream that an answer surely has, on average over all answers."""
    least = max(settings.min_tokens, 1.0)
    if settings.ignore_eos:
        rng = random.Random(0)
        least = max(least, mean(settings.output_tokens.draw(rng) for _ in range(100)))
    return settings.stream_share * least


def request_cost_s(settings: LoadSettings) -> float | None:
    """CPU seconds of one request; None where it can't be measured."""
    told = replace(settings, url="http://127.0.0.1", headers={}, trace="").to_json()
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(
            [sys.executable, "-m", "aftershock.load.calibration"],
            input=told,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=True,
            start_new_session=True,
            env={**os.environ, "AFTERSHOCK_PARENT": str(os.getpid())},
        )
        return float(done.stdout)
    return None


def _answers(plug: socket.socket, surely_all: bool) -> None:
    """Answers one connection after the other, at once and for ever."""
    whole = json.dumps({"choices": [{"text": "a", "finish_reason": "length"}]}).encode()
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(whole), whole)
    event = b'data: {"choices": [{"text": "a", "finish_reason": null}]}\n\n'
    piece = b"%x\r\n%s\r\n" % (len(event), event)
    last = b"data: " + whole + b"\n\ndata: [DONE]\n\n"
    end = b"%x\r\n%s\r\n0\r\n\r\n" % (len(last), last)
    while True:
        line = plug.accept()[0]
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while asked := line.recv(1 << 16):
            body = _body(line, asked)
            if not body["stream"]:
                line.sendall(plain)
                continue
            line.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            count = body["max_tokens"] if surely_all else body.get("min_tokens", 1)
            for _ in range(count - 1):
                line.sendall(piece)
            line.sendall(end)
        line.close()


def _body(line: socket.socket, asked: bytes) -> dict[str, int]:
    head, _, body = asked.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += line.recv(1 << 16)
    return dict(json.loads(body))


@contextlib.contextmanager
def _server(surely_all: bool) -> Iterator[int]:
    """The port of one, in a process of its own, so that its CPU time is not ours."""
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        plug.listen()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            die_with(parent)
            with contextlib.suppress(OSError):
                _answers(plug, surely_all)
            os._exit(0)
        try:
            yield plug.getsockname()[1]
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _measured_s(settings: LoadSettings) -> float:
    import gevent

    from aftershock.load.answers import Answer
    from aftershock.load.client import Client
    from aftershock.load.prompts import request
    from aftershock.load.recorder import Recorder

    recorder = Recorder(settings.limit_s, settings.metric, 0, time.monotonic, settings.goodput_ms)
    client, rng = Client(settings), random.Random(settings.seed)

    def ask(number: int) -> None:
        call = recorder.due(time.monotonic())
        path, body = request(rng, settings, number)
        recorder.sent(call)
        answer = Answer(streamed=body["stream"], may_repeat=True)
        kind, _ = client.ask(path, body, answer, lambda: recorder.token(call))
        if kind:
            raise OSError(kind)
        recorder.finish(call, answer.output_tokens, body["stream"])

    def batch() -> float:
        began = time.process_time()
        for number in range(_BATCH):
            gevent.spawn(ask, number).get()
            if time.process_time() - began > _CPU_S:
                break
        recorder.report(0, 1, time.monotonic())
        return (time.process_time() - began) / (number + 1)

    ends, latest = time.process_time() + _CPU_S, time.monotonic() + _WALL_S
    found = [batch()]
    while time.process_time() < ends and time.monotonic() < latest:
        found.append(batch())
    return min(found)


def main() -> None:
    """Settings as JSON on standard input; the CPU seconds of a request on standard output."""
    die_with(int(os.environ["AFTERSHOCK_PARENT"]))
    settings = LoadSettings.from_json(sys.stdin.read())
    with _server(settings.ignore_eos) as port:
        from gevent import monkey

        monkey.patch_all()
        print(_measured_s(replace(settings, url=f"http://127.0.0.1:{port}")))


if __name__ == "__main__":
    main()
