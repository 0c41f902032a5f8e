"""What the load generator can send from one core, and whether what it tells is true.

Beside wrk and hey (Debian's; rows are left out where they aren't installed) and stock Locust users,
in the same run and against the same service.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aftershock.load.generator import Generator, GeneratorStats, Sentinel
from aftershock.load.lengths import Lengths
from aftershock.load.settings import LoadSettings, SentinelSettings, Stage
from aftershock.run.loading import session_of
from aftershock.slo.timeline import Timeline
from benchmarks.answering import answering
from benchmarks.rows import row
from tests.slo.simulate import recorded

RATE, PROMISED_LAG_MS, OVER_S = 2000.0, 10.0, 10.0
LASTS_S, STALL_S, STALL_AFTER_S, STALL_RPS = 12.0, 2.0, 4.0, 200.0
PROBES_RPS, PROMISED_SHARE = 200, 10.0
TTFT_S, ITL_S, TOKENS, STREAMS = 0.2, 0.02, 100, 60
BODY = json.dumps({"model": "m", "prompt": "2 + 2 =", "max_tokens": 8, "stream": False})
PATH = "/v1/completions"
_P99 = {
    "wrk": re.compile(r"99%\s+([0-9.]+)(us|ms|s)"),
    "hey": re.compile(r"99% in ([0-9.]+) (s)ecs"),
}
_COUNT = {"wrk": re.compile(r"(\d+) requests in"), "hey": re.compile(r"\[200\]\s+(\d+)")}
_IN_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def rows() -> list[dict[str, Any]]:
    """Rates, costs, the sentinel, the stall, the streams, and an hour's file."""
    return [*_full_rate(), *_sentinel(), *_stalled(), *_streams(), *_hour()]


def _ours(
    url: str, rate: float, seconds: float, **told: Any
) -> tuple[Timeline, GeneratorStats, float]:
    """What the generator told, and the CPU seconds that it took for each request."""
    settings = LoadSettings(
        url, stages=(Stage(600, rate),), arrivals="constant", **{"stream_share": 0.0, **told}
    )
    timeline, generator = Timeline(), Generator(settings)
    generator.start(timeline)
    try:
        generator.wait_until_sending()
        assert generator.pid
        began, used = time.monotonic(), _cpu_s(generator.pid)
        sent = generator.stats().sent
        time.sleep(max(began + seconds - time.monotonic(), 0))
        used = _cpu_s(generator.pid) - used
        sent = generator.stats().sent - sent
    finally:
        generator.stop()
    return timeline, generator.stats(), used / max(sent, 1)


def _cpu_s(leader: int) -> float:
    ticks = 0
    for pid in session_of(leader):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _full_rate() -> list[dict[str, Any]]:
    with answering() as service:
        _, told, cost_s = _ours(service.url, RATE, OVER_S)
        peers = {name: run(service.url, 5.0)[1] for name, run in _peers().items()}
    assert told.dispatch_lag_p99_ms is not None
    lag = row(
        f"{RATE:.0f}/s open loop, dispatch lag p99", told.dispatch_lag_p99_ms, "ms",
        "promised", PROMISED_LAG_MS,
    )  # fmt: skip
    sent = row(
        f"{RATE:.0f}/s open loop, sent and answered", 100 * told.ok / told.scheduled, "%",
        "promised", 100.0,
    )  # fmt: skip
    costs = [
        row("CPU of a request sent", cost_s * 1e6, "µs", peer, value * 1e6)
        for peer, value in peers.items()
    ]
    return [lag, sent, *costs]


def _sentinel() -> list[dict[str, Any]]:
    """A fresh connection for each, as its probes have, also with hey's."""
    with answering() as service:
        sentinel = Sentinel(SentinelSettings(service.url, rate=PROBES_RPS, canary_period_s=0))
        sentinel.start(Timeline())
        try:
            sentinel.wait_until_sending()
            assert sentinel.pid
            began, used = time.monotonic(), _cpu_s(sentinel.pid)
            time.sleep(OVER_S)
            share = 100 * (_cpu_s(sentinel.pid) - used) / (time.monotonic() - began)
        finally:
            sentinel.stop()
        peers = {"promised": PROMISED_SHARE}
        if shutil.which("hey"):
            command = ["hey", "-z", f"{OVER_S:.0f}s", "-c", "1", "-q", f"{PROBES_RPS}"]
            _, spent = _timed([*command, "-disable-keepalive", service.url + "/health"])
            peers["hey"] = 100 * spent / OVER_S
    name = f"sentinel at {PROBES_RPS}/s, share of a core"
    return [row(name, share, "%", peer, value) for peer, value in peers.items()]


def _stalled() -> list[dict[str, Any]]:
    """One request in so many meets the stall; the slowest hundredth waits for nearly all of it."""
    truth_ms = 1e3 * (STALL_S - 0.01 * LASTS_S)
    with _stall() as service:
        timeline, _, _ = _ours(service.url, STALL_RPS, LASTS_S + 1)
        slots = timeline.slots()
        told = timeline.window(slots[0][0], slots[0][0] + LASTS_S).p99_e2e_ms
    assert told is not None
    found = {}
    for name, run in _peers().items():
        with _stall() as service:
            found[name] = run(service.url, LASTS_S)[0]
    return [
        row(f"p99 told of a stall of {STALL_S:g} s, error", _off(told, truth_ms), "%", peer,
            _off(value, truth_ms))
        for peer, value in found.items()
    ]  # fmt: skip


def _stall() -> Any:
    begin = time.monotonic() + STALL_AFTER_S
    return answering(stall=[begin, begin + STALL_S])


def _off(told: float, truth: float) -> float:
    """Percent; never 0, since rows are divided by one another."""
    return max(100 * abs(told - truth) / truth, 0.01)


def _streams() -> list[dict[str, Any]]:
    """Medians, against what the service really did."""
    lasts_s = TTFT_S + (TOKENS - 1) * ITL_S
    plan = {"ttft_s": TTFT_S, "itl_s": ITL_S, "tokens": TOKENS}
    with answering(**plan) as service:
        _, told, _ = _ours(
            service.url, STREAMS / lasts_s, 12, stream_share=1.0, usage=False,
            output_tokens=Lengths("fixed", low=TOKENS),
        )  # fmt: skip
    did = service.did
    with answering(**plan) as service:
        stock = _stock_locust(service.url, 10.0, streamed=True)[0]
    assert told.ttft_p50_ms is not None and told.itl_p50_ms is not None
    return [
        row(f"TTFT of {STREAMS} streams, error", _off(told.ttft_p50_ms, did["ttft"] * 1e3), "%",
            "Locust FastHttpUser", _off(stock, service.did["ttft"] * 1e3)),
        row(f"ITL of {STREAMS} streams, error", _off(told.itl_p50_ms, did["itl"] * 1e3), "%",
            "promised", 5.0),
    ]  # fmt: skip


def _hour() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "timeline"
        recorded(Timeline(path), 1000, 3600)
        size = path.stat().st_size / 2**20
    return [row("an hour at 1000/s, its timeline", size, "MiB", "promised", 50.0)]


Peer = Callable[[str, float], tuple[float, float]]  # url, seconds → p99 in ms, CPU s a request


def _peers() -> dict[str, Peer]:
    found: dict[str, Peer] = {"Locust FastHttpUser": _stock_locust}
    found["Locust HttpUser"] = lambda url, lasts_s: _stock_locust(url, lasts_s, user="HttpUser")
    return found | {name: run for name, run in _TOOLS.items() if shutil.which(name)}


def _wrk(url: str, lasts_s: float) -> tuple[float, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method = 'POST'\nwrk.body = '{BODY}'\n")
        script.flush()
        command = ["wrk", "-t1", "-c64", f"-d{lasts_s:.0f}s", "--timeout", "10s", "--latency"]
        return _tool("wrk", [*command, "-s", script.name, url + PATH])


def _hey(url: str, lasts_s: float) -> tuple[float, float]:
    command = ["hey", "-z", f"{lasts_s:.0f}s", "-c", "64", "-m", "POST", "-d", BODY]
    return _tool("hey", [*command, url + PATH])


def _tool(name: str, command: list[str]) -> tuple[float, float]:
    told, used = _timed(command)
    p99, count = _P99[name].search(told), _COUNT[name].search(told)
    assert p99 and count, told
    return float(p99[1]) * _IN_MS[p99[2]], used / int(count[1])


_TOOLS: dict[str, Peer] = {"wrk": _wrk, "hey": _hey}

_LOCUSTFILE = """
import time
from locust import FastHttpUser, HttpUser, constant_throughput, task

class Stock({user}):
    wait_time = constant_throughput(4)
    connection_timeout = network_timeout = 10
    @task
    def ask(self):
        body = {{"model": "m", "prompt": "1", "max_tokens": 8, "stream": {streamed}}}
        if not {streamed}:
            self.client.post("{path}", json=body)
            return
        began = time.monotonic()
        first = None
        for line in self.client.iter_lines("{path}", method="POST", json=body):
            if line and first is None:
                first = time.monotonic() - began
        told = {{"response_time": first * 1000, "response_length": 0, "exception": None}}
        self.environment.events.request.fire(request_type="TTFT", name="", context={{}}, **told)
"""


def _stock_locust(
    url: str, lasts_s: float, user: str = "FastHttpUser", streamed: bool = False
) -> tuple[float, float]:
    """As its documentation shows it: users who wait for their answers; their p99 (or p50, of the
    time to first token).
    """
    users = STREAMS if streamed else round(STALL_RPS / 4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "locustfile.py"
        path.write_text(_LOCUSTFILE.format(user=user, streamed=streamed, path=PATH))
        command = [sys.executable, "-m", "locust", "-f", str(path), "--headless", "--json"]
        command += ["-u", str(users), "-r", str(users), "-t", f"{lasts_s:.0f}s", "-H", url]
        told, used = _timed([*command, "--exit-code-on-error", "0"])
    wanted = "TTFT" if streamed else "POST"
    (stats,) = [s for s in json.loads(told[told.index("[") :]) if s["method"] == wanted]
    times = sorted((float(ms), count) for ms, count in stats["response_times"].items())
    total = sum(count for _, count in times)
    left = total * (0.5 if streamed else 0.99)
    for ms, count in times:
        left -= count
        if left <= 0:
            return ms, used / total
    raise AssertionError("no requests")


def _timed(command: list[str]) -> tuple[str, float]:
    """What a command printed, and the CPU seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, used


if __name__ == "__main__":
    for line in rows():
        print({key: line[key] for key in ("name", "value", "unit", "peer", "peer_value")})
