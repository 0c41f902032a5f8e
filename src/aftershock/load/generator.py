"""The controller's side: starts the generators and feeds a timeline with what they say."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from math import ceil
from typing import Any

from aftershock.errors import AftershockError
from aftershock.load.child import Child
from aftershock.load.open_calls import OpenCalls
from aftershock.load.own_use import scheduled
from aftershock.load.recorder import TOTALS
from aftershock.load.settings import LoadSettings, SentinelSettings
from aftershock.slo.scarcity import ran_out
from aftershock.slo.slots import LAG, merged, percentile_ms
from aftershock.slo.timeline import LOAD, Timeline

_STARTS_S, _WORKERS_COME_S = 20.0, 120.0
_SPARE_S = 60.0  # Locust's own end, should every other way to stop it fail


@dataclass(frozen=True, slots=True)
class GeneratorStats:
    """How the load generator did, all its `workers` together.

    `not_sent`: due, but too many were in flight, or this machine refused. `ran_out`: see
    `slo.scarcity`. `missing`: what `workers_lost` (gone, and not replaced) were to send meanwhile.
    `clock_error_ms`: how far workers' clocks may be from the master's.

    Latencies are in ms, from the scheduled time unless named `from_sent`. `itl`: between the pieces
    of a stream; `tpot`: per token after the first. `usage_told`: answers whose tokens the server
    counted; of the others each piece counts as one.
    """

    scheduled: int = 0
    sent: int = 0
    ok: int = 0
    failed: int = 0
    cut: int = 0
    in_flight: int = 0
    not_sent: int = 0
    retried: int = 0
    dispatch_lag_p99_ms: float | None = None
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    ttft_from_sent_p99_ms: float | None = None
    e2e_p50_ms: float | None = None
    e2e_p99_ms: float | None = None
    e2e_from_sent_p99_ms: float | None = None
    itl_p50_ms: float | None = None
    itl_p99_ms: float | None = None
    tpot_p50_ms: float | None = None
    tpot_p99_ms: float | None = None
    output_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens_per_s: float | None = None
    usage_told: int = 0
    workers: int = 1
    workers_lost: int = 0
    missing: int = 0
    clock_error_ms: float | None = None
    ran_out: tuple[Mapping[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def stats(timeline: Timeline) -> GeneratorStats:
    """Of everything the load sent into this timeline so far."""
    slots = [slot for _, slot in timeline.slots()]
    last = timeline.last_reports("load")

    def told(name: str) -> int:
        return sum(report.get(name, 0) for report in last)

    @cache
    def whole(kind: str) -> Any:
        texts = [text for slot in slots for text in slot.encoded.get(kind, ())]
        return merged(texts + [report[kind] for report in last if kind in report])

    def at(kind: str, percent: float) -> float | None:
        held = whole(kind)
        return percentile_ms(held, percent) if held.get_total_count() else None

    clocks = [report["clock_error_s"] for report in last if "clock_error_s" in report]
    counted = (
        "missing",
        "not_sent",
        "in_flight",
        "retried",
        "output_tokens",
        "prompt_tokens",
        "usage_told",
    )
    began = min((report["began"] for report in last if report.get("began")), default=0.0)
    lasted = timeline.horizon(LOAD) - began if began else 0.0
    found: dict[str, Any] = {
        name: sum(slot.counts[name] for slot in slots)
        for name in ("scheduled", "sent", "ok", "cut")
    }
    found |= {name: told(name) for name in counted}
    found |= {f"{kind}_p99_ms": at(kind, 99) for kind in ("ttft", "e2e", *TOTALS)}
    found |= {f"{kind}_p50_ms": at(kind, 50) for kind in ("ttft", "e2e", "itl", "tpot")}
    return GeneratorStats(
        **found,
        workers=max((report.get("workers", 1) for report in last), default=1),
        workers_lost=sum(bool(report.get("lost_at")) for report in last),
        clock_error_ms=round(1e3 * max(clocks), 3) if clocks else None,
        failed=sum(sum(slot.failed.values()) for slot in slots),
        output_tokens_per_s=round(found["output_tokens"] / lasted, 1) if lasted > 0 else None,
        dispatch_lag_p99_ms=at(LAG, 99),
        ran_out=tuple(ran_out(last, max((r.get("max_in_flight", 0) for r in last), default=0))),
    )


class _Feeder:
    """What both generators share: a child process whose messages go into the timeline."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._child: Child | None = None
        self._timeline: Timeline | None = None
        self._heard = threading.Event()

    def _begin(
        self, timeline: Timeline, command: list[str], env: Mapping[str, str], fd_variable: str = ""
    ) -> None:
        self._timeline = timeline
        self._child = Child(self._name, self._take)
        self._child.start(command, env, fd_variable)

    def _take(self, message: Mapping[str, Any]) -> None:
        assert self._timeline
        self._timeline.feed(message)
        if message.get("slots") or message.get("sent"):
            self._heard.set()

    def wait_until_sending(self, within_s: float = _STARTS_S) -> None:
        """Return when its first samples are in the timeline; raise when none come."""
        deadline = time.monotonic() + within_s
        while not self._heard.wait(0.05):
            ended = not self.alive()
            if ended or time.monotonic() > deadline:
                last = next(iter(self.said.splitlines()[-1:]), "it said nothing")
                how = "ended before it sent anything" if ended else self._how_silent(within_s)
                raise AftershockError(f"{self._name} {how}: {last}")

    def _how_silent(self, within_s: float) -> str:
        silent = f"sent nothing within {within_s:g} s"
        with contextlib.suppress(OSError, ValueError):
            ran_s, waited_s = scheduled(str(self.pid))
            waited = f"waited {waited_s:.1f} s for a processor"
            silent += f", in which it ran for {ran_s:.1f} s and {waited}"
        return silent

    def alive(self) -> bool:
        return self._child is not None and self._child.alive()

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def said(self) -> str:
        """The last lines that the process wrote to its standard error."""
        return self._child.said if self._child else ""

    def stop(self) -> None:
        if self._child:
            self._child.stop()


class Generator(_Feeder):
    """Locust in processes of its own, open loop, as LoadSettings say."""

    def __init__(self, settings: LoadSettings) -> None:
        super().__init__("the load generator")
        self.settings = settings
        self._open: dict[int, OpenCalls] = {}  # of each of several workers

    def wait_until_sending(self, within_s: float = _STARTS_S) -> None:
        """See `_Feeder`; workers from elsewhere may take longer."""
        super().wait_until_sending(_WORKERS_COME_S if self.settings.workers_at else within_s)

    def _take(self, message: Mapping[str, Any]) -> None:
        """What a worker that has gone had sent and never told the end of is no failure."""
        if self.settings.processes > 1:
            held = self._open.setdefault(message["worker"], OpenCalls())
            if lost_at := message.get("lost_at"):
                message = {**message, **held.taken_back(lost_at - self.settings.limit_s)}
                del self._open[message["worker"]]
            else:
                held.note(message)
                held.forget(message["decided"] - self.settings.timeout_s)
        super()._take(message)

    def start(self, timeline: Timeline) -> None:
        env = {
            "AFTERSHOCK_LOAD": self.settings.to_json(),
            "AFTERSHOCK_PARENT": str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
        }
        self._begin(timeline, self._command(), env, "AFTERSHOCK_LOAD_FD")

    def _command(self) -> list[str]:
        spec = find_spec("aftershock.load.locustfile")
        assert spec and spec.origin
        command = [sys.executable, "-m", "locust", "-f", spec.origin, "--headless"]
        command += ["-u", str(self.settings.processes), "-r", str(self.settings.processes)]
        command += ["-t", f"{ceil(self.settings.duration_s + _SPARE_S)}s"]
        command += ["--exit-code-on-error", "0", "--loglevel", "WARNING"]
        if self.settings.workers_at:
            host, _, port = self.settings.workers_at.rpartition(":")
            command += ["--master", "--expect-workers", str(self.settings.processes)]
            command += ["--master-bind-host", host, "--master-bind-port", port]
        elif self.settings.processes > 1:
            port = str(_free_port())
            command += ["--processes", str(self.settings.processes), "--master-port", port]
            command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port]
        return command

    def stats(self) -> GeneratorStats:
        return stats(self._timeline) if self._timeline else GeneratorStats()


class Sentinel(_Feeder):
    """The prober of `load.sentinel` in a process of its own."""

    def __init__(self, settings: SentinelSettings) -> None:
        super().__init__("the sentinel")
        self.settings = settings

    def start(self, timeline: Timeline) -> None:
        wanted = self.settings
        command = [sys.executable, "-m", "aftershock.load.sentinel", wanted.url, "--watch-stdin"]
        for name, value in (
            ("rate", wanted.rate),
            ("timeout", wanted.timeout_s),
            ("canary-period", wanted.canary_period_s),
            ("health", wanted.health_path),
            ("model", wanted.model),
            ("duration", wanted.duration_s),
            ("parent", os.getpid()),
        ):
            command += [f"--{name}={value}"]
        if not wanted.verify_tls:
            command += ["--no-verify"]
        # Not on the command line, which everybody on this machine can read.
        self._begin(timeline, command, {"AFTERSHOCK_HEADERS": json.dumps(wanted.headers)})


def _free_port() -> int:
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        return int(plug.getsockname()[1])
