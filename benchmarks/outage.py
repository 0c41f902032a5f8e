"""How exactly a recovery is timed, and what looking costs, beside other ways to look.

A service of its own goes away by itself at times it notes down: eight times wholly for 1.000 s, ten
times for one request in three. Ours, and a poll every second as Chaos Toolkit's hypotheses do it,
watch the same outages.
"""

import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aftershock.load.generator import Sentinel
from aftershock.load.settings import SentinelSettings
from aftershock.slo.changepoint import Moment, Outcomes, locate
from aftershock.slo.timeline import Timeline
from benchmarks.rows import row
from tests.load.rig import Service

WHOLE, THIRDS = 8, 10
EVERY_S = 2.6  # no multiple of a second, so that the poll meets outages in every phase
LENGTH_S, THIRD_S = 1.0, 0.9
RATE = 200
LOOK_S = 6.0


def rows() -> list[dict[str, Any]]:
    """Errors of the time, honesty of the interval, CPU a sample."""
    return [*_timing(), *_cost()]


def _timing() -> list[dict[str, Any]]:
    first = time.monotonic() + 4.0
    begins = [first + n * EVERY_S for n in range(WHOLE + THIRDS)]
    plan = [
        [at, at + LENGTH_S, 1, "close"] if n < WHOLE else [at, at + THIRD_S, 1 / 3, "reset"]
        for n, at in enumerate(begins)
    ]
    service, timeline = Service(outages=plan, seed=11), Timeline()
    try:
        with _sentinel(service.url, timeline), _poll(service.url) as polled:
            _wait_until(begins[-1] + EVERY_S)
        truths = service.times("opened")
    finally:
        service.stop()
    steady = timeline.outcomes("health", first - 3, first)
    counts = (steady.bad_count, steady.count)
    errors: dict[str, list[float]] = {"ours": [], "poll": []}
    thirds: dict[str, list[bool]] = {"ours": [], "bracket": []}
    for number, (begin, truth) in enumerate(zip(begins, truths, strict=True)):
        seen = timeline.outcomes("health", begin, begin + EVERY_S - 0.1)
        found = locate(seen, counts, begin, begin + EVERY_S - 0.1).ended
        if number < WHOLE:
            errors["ours"].append(abs(found.at - truth) * 1000)
            good = next(at for at, ok in polled if ok and at >= truth)
            errors["poll"].append(abs(good - truth) * 1000)
        else:
            thirds["ours"].append(found.low <= truth <= found.high)
            bracket = _bracket(seen)
            thirds["bracket"].append(bracket.low <= truth <= bracket.high)
    return [
        row("recovery from a 1 s outage, median error", statistics.median(errors["ours"]), "ms",
            "a probe every second", statistics.median(errors["poll"])),
        row("recovery from a 1 s outage, worst error", max(errors["ours"]), "ms",
            "a probe every second", max(errors["poll"])),
        row("a lost third: truth within the interval", 100 * statistics.mean(thirds["ours"]), "%",
            "last bad to first good", 100 * statistics.mean(thirds["bracket"])),
    ]  # fmt: skip


def _bracket(seen: Outcomes) -> Moment:
    """From the last bad sample to the next good one, on the same samples."""
    last = max(n for n, bad in enumerate(seen.bad) if bad)
    after = seen.times[min(last + 1, len(seen.times) - 1)]
    return Moment.spanning(seen.times[last], after)


@contextmanager
def _sentinel(url: str, timeline: Timeline) -> Iterator[Sentinel]:
    sentinel = Sentinel(SentinelSettings(url, rate=RATE, canary_period_s=0))
    sentinel.start(timeline)
    try:
        sentinel.wait_until_sending()
        yield sentinel
    finally:
        sentinel.stop()


@contextmanager
def _poll(url: str) -> Iterator[list[tuple[float, bool]]]:
    """A probe, a second's pause, a probe …: (when it was answered, whether it was good)."""
    seen: list[tuple[float, bool]] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
                    good = answer.status == 200
            except OSError:
                good = False
            seen.append((time.monotonic(), good))
            over.wait(1.0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _cost() -> list[dict[str, Any]]:
    """CPU a sample at the same rate, each with a fresh connection a sample."""
    service = Service()
    try:
        with _sentinel(service.url, Timeline()) as sentinel:
            assert sentinel.pid
            ours = _cpu_per_sample(sentinel.pid)
        with _aiohttp(service.url) as pid:
            peer = _cpu_per_sample(pid)
    finally:
        service.stop()
    return [row(f"CPU of a sample at {RATE}/s", ours, "µs", "aiohttp open loop, uvloop", peer)]


def _cpu_per_sample(pid: int) -> float:
    def spent() -> float:  # ns on a CPU
        return float(Path(f"/proc/{pid}/schedstat").read_text().split()[0])

    time.sleep(1.0)
    before, began = spent(), time.monotonic()
    time.sleep(LOOK_S)
    return (spent() - before) / 1000 / (RATE * (time.monotonic() - began))


_PROBER = """
import asyncio, sys, aiohttp, uvloop
async def main(url, rate):
    jar, link = aiohttp.DummyCookieJar(), aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=link, cookie_jar=jar) as session:
        async def one():
            async with session.get(url) as answer:
                await answer.read()
        loop, tasks = asyncio.get_running_loop(), set()
        due = loop.time()
        while True:
            task = loop.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += 1 / rate
            await asyncio.sleep(max(due - loop.time(), 0))
uvloop.run(main(sys.argv[1], float(sys.argv[2])))
"""


@contextmanager
def _aiohttp(url: str) -> Iterator[int]:
    prober = subprocess.Popen([sys.executable, "-c", _PROBER, f"{url}/health", str(RATE)])
    try:
        time.sleep(1.0)
        yield prober.pid
    finally:
        assert prober.poll() is None, "the peer's prober ended early"
        prober.terminate()
        prober.wait()


def _wait_until(moment: float) -> None:
    threading.Event().wait(max(moment - time.monotonic(), 0))
