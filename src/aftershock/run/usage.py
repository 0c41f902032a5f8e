"""How full a target is while a load step lasts: what its GPUs, engines, hosts and pods tell."""

from __future__ import annotations

import contextlib
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from email.message import Message
from typing import TYPE_CHECKING, Any

from aftershock.errors import AftershockError
from aftershock.load.tls import tls_context
from aftershock.run import hostlooks
from aftershock.slo.objectives import gauge_means

if TYPE_CHECKING:
    from aftershock.run.session import Run

_EVERY_S, _PATIENCE_S = 0.5, 2.0
_SAMPLE = re.compile(r"^(vllm:[a-z_]+)(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.M)
# vLLM's names; the cache's was another one before 0.10.
_WAITING = "vllm:num_requests_waiting"
_CACHE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")


class Usage:
    """Looked at from its making to `stop`; what can't be seen is left out, and never a 0."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._began = 0.0
        self._hosts: Mapping[str, Any] = {}
        self._pages: list[tuple[float, dict[str, float]]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name="usage", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """A step begins to count."""
        self._hosts = self._vitals()
        self._began = time.monotonic()

    def end(self) -> dict[str, float]:
        """How full what was, since `begin`; keys of `slo.cliff.FULL`."""
        now = time.monotonic()
        found: dict[str, float] = {}
        means = gauge_means(self._run.timeline, "gpu_utilisation_percent", self._began, now)
        if means:
            found["gpu_percent"] = max(means.values())
        found |= of_pages([page for at, page in list(self._pages) if at >= self._began])
        found |= of_hosts(self._hosts, self._vitals())
        with contextlib.suppress(AftershockError):
            found["restarts_per_minute"] = self._run.workload.restarts_per_minute(
                "", now - self._began
            )
        return {key: round(value, 2) for key, value in found.items()}

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join(_PATIENCE_S + 1)

    def _vitals(self) -> Mapping[str, Any]:
        nodes = [node for node in self._run.target.inventory.nodes if not node.agentless]
        if not nodes:
            return {}
        with contextlib.suppress(AftershockError), self._run.watcher.paused():
            return hostlooks.look(self._run, ",".join(node.name for node in nodes))
        return {}

    def _read(self) -> None:
        """Engines' metrics, as far as the gateway lets them through: a replica's at a time."""
        read = reader(self._run)
        while not self._stopped.wait(_EVERY_S):
            with contextlib.suppress(OSError, ValueError):
                if page := samples(read()[0]):
                    self._pages.append((time.monotonic(), page))


def reader(run: Run) -> Callable[[], tuple[str, Message]]:
    """What reads the metrics page behind the gateway: its text, and the answer's headers."""
    address = run.target.inventory.gateway_url.rstrip("/") + "/metrics"
    asked = urllib.request.Request(address, headers=run.load.headers)
    context = tls_context(run.settings.verify_tls) if "https:" in address else None
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )

    def read() -> tuple[str, Message]:
        with direct.open(asked, timeout=_PATIENCE_S) as answer:
            return answer.read(1 << 20).decode(errors="replace"), answer.headers

    return read


def samples(text: str) -> dict[str, float]:
    """vLLM's own samples on a page of Prometheus text."""
    return {name: float(value) for name, value in _SAMPLE.findall(text)}


def of_pages(pages: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The fullest of engines' pages that were read."""
    found: dict[str, float] = {}
    for page in pages:
        cache = next((page[name] for name in _CACHE if name in page), None)
        if cache is not None:
            found["kv_cache_percent"] = max(found.get("kv_cache_percent", 0.0), 100 * cache)
        if _WAITING in page:
            found["waiting_requests"] = max(found.get("waiting_requests", 0.0), page[_WAITING])
    return found


def of_hosts(first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, float]:
    """The busiest host's processors, and the worst share of packets that a host dropped."""
    busy, dropped = [], []
    for node in first.keys() & last.keys():
        was, now = first[node]["cpu"], last[node]["cpu"]
        used, idle = (now[key] - was[key] for key in ("busy_s", "idle_s"))
        if used + idle > 0:
            busy.append(100 * used / (used + idle))
        was, now = first[node].get("network"), last[node].get("network")
        if was and now:
            packets, lost = (now[key] - was[key] for key in ("packets", "dropped"))
            dropped.append(100 * lost / max(packets + lost, 1))
    found = {"cpu_percent": max(busy)} if busy else {}
    return {**found, **({"network_drops_percent": max(dropped)} if dropped else {})}
