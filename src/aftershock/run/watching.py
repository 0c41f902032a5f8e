"""While a run goes on: gauges into the timeline, and a line a second to the terminal."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

from aftershock.errors import AftershockError, HostUnreachable, Unsupported
from aftershock.run.console import Console, Status
from aftershock.run.replicas import Replicas
from aftershock.run.target import Target
from aftershock.slo.objectives import PRESSED
from aftershock.slo.timeline import Timeline

logger = logging.getLogger("chaostoolkit")

GATEWAY_EVERY_S = 0.2
GPU_EVERY_S = 1.0
GPU_PATIENCE_S = 3.0
LINE_EVERY_S = 1.0
SHOWN_S = 2.0  # the window of the line's figures
SHARE_S, SHARE_REQUESTS = 1.0, 60  # a zone's share is taken over so long, and so many requests


class Watcher:
    """Threads that look at the target. What can't be read is a gap in its series, not an error."""

    def __init__(self, target: Target, timeline: Timeline, console: Console) -> None:
        self.target = target
        self.timeline = timeline
        self.console = console
        self.phase = "lab"
        self.gpu: dict[str, list[dict[str, Any]]] = {}
        self.pressed: Callable[[], Container[str]] = frozenset  # nodes whose GPUs we use up
        self.zones_up: dict[str, float | None] = {}
        self._served: list[tuple[float, dict[str, int]]] = []
        self._stop = threading.Event()
        self._asking = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._replicas: Replicas | None = None

    def start(self) -> None:
        """Begin to look and to print."""
        jobs = [("agents", GPU_EVERY_S, self._read_gpus), ("line", LINE_EVERY_S, self._print)]
        if self.target.lab is not None:
            jobs.append(("gateway", GATEWAY_EVERY_S, self._read_gateway))
        if self.target.cluster is not None:
            self._replicas = Replicas(self.target.cluster, self.target.inventory, self.timeline)
        for name, every_s, job in jobs:
            thread = threading.Thread(
                target=self._repeat, args=(every_s, job), name=f"watch-{name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop looking; returns when nobody asks anything any more."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)
        if self._replicas is not None:
            self._replicas.stop()

    @property
    def replicas(self) -> Replicas:
        """The watch over the service's pods; `Unsupported` on a target without Kubernetes."""
        if self._replicas is None:
            raise Unsupported("no pods are watched: this target has no Kubernetes API")
        return self._replicas

    def replacements(self, since: float) -> list[dict[str, Any]]:
        """What came for the replicas that were lost since then."""
        return self._replicas.replacements(since) if self._replicas else []

    def has_no_gpu(self) -> bool:
        """Whether every node that can be was asked for its GPUs, and none has any."""
        nodes = [node for node in self.target.inventory.nodes if not node.agentless]
        return all(self.gpu.get(node.name) == [] for node in nodes)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the agents alone for a moment, so that a question does not delay a firing."""
        with self._asking:
            yield

    def _repeat(self, every_s: float, job: Any) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            try:
                job()
            except (AftershockError, OSError, ValueError) as error:
                logger.debug("not read: %s", error)
            except Exception:
                logger.debug("a reading failed", exc_info=True)
            due = max(due + every_s, time.monotonic())
            self._stop.wait(due - time.monotonic())

    def _read_gpus(self) -> None:
        pressed = self.pressed()
        for node in self.target.inventory.nodes:
            if self._stop.is_set():
                return
            if node.agentless:
                continue
            # To log in anew takes long where a host is down, and would hold up a heal.
            agents = self.target.agents
            channel = agents.current(node) if node.ssh else agents.fresh(node)
            if channel is None:
                continue
            try:
                with self._asking:
                    cards = channel.ask("gpu", GPU_PATIENCE_S)
            except Unsupported:  # no driver: no GPU that anybody could use
                cards = []
            except HostUnreachable as error:  # its own fault may have cut it off
                logger.debug("not read: %s", error)
                continue
            self.gpu[node.name] = cards
            there, now = [card for card in cards if not card["lost"]], time.monotonic()
            if node.name in pressed:
                self.timeline.gauge(PRESSED, node.name, 1.0, now)
            if busy := _utilisations(there):  # a GPU that is split by MIG doesn't tell it
                self.timeline.gauge("gpu_utilisation_percent", node.name, fmean(busy), now)
            if there:
                used, total = (
                    sum(card[f"memory_{key}_mib"] for card in there) for key in ("used", "total")
                )
                self.timeline.gauge("gpu_memory_used_percent", node.name, 100 * used / total, now)

    def _read_gateway(self) -> None:
        from aftershock.lab.world import gateway_status

        assert self.target.lab is not None
        slots = gateway_status(self.target.lab)
        now = time.monotonic()
        served: dict[str, int] = {}
        for zone in self.target.inventory.zones():
            own = [slot for slot in slots if slot.zone == zone]
            served[zone] = sum(slot.requests_total for slot in own)
            checked = [slot for slot in own if not slot.status.startswith("no check")]
            self.zones_up[zone] = None  # a gateway that doesn't check knows nothing of its servers
            if checked:
                self.zones_up[zone] = sum(slot.up for slot in own) / len(own)
                self.timeline.gauge("servers_up", zone, sum(slot.up for slot in own), now)
        self._served.append((now, served))
        while len(self._served) > 1 and self._is_enough(now, served, *self._served[1]):
            del self._served[0]
        first = self._served[0][1]
        total = sum(served.values()) - sum(first.values())
        if total >= SHARE_REQUESTS:
            for zone, count in served.items():
                share = (count - first[zone]) / total
                self.timeline.gauge("zone_share", zone, share, now)

    @staticmethod
    def _is_enough(now: float, served: dict[str, int], at: float, then: dict[str, int]) -> bool:
        count = sum(served.values()) - sum(then.values())
        return now - at >= SHARE_S and count >= SHARE_REQUESTS

    def _print(self) -> None:
        # The newest requests are still in flight: shown is what is decided, a moment ago.
        end = self.timeline.horizon()
        window = self.timeline.window(end - SHOWN_S, end)
        busy = [one for cards in list(self.gpu.values()) for one in _utilisations(cards)]
        self.console.status(
            Status(
                phase=self.phase,
                throughput_rps=window.throughput_rps,
                p99_ms=window.p99_e2e_ms,
                error_percent=None if window.error_rate is None else 100 * window.error_rate,
                gpu_percent=fmean(busy) if busy else None,
                zones=dict(self.zones_up),
            )
        )


def _utilisations(cards: Iterable[Mapping[str, Any]]) -> list[float]:
    return [one for card in cards if (one := card["utilisation_percent"]) is not None]
