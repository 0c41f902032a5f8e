"""What may creep up while a load is held for hours: latencies and memory, where all was quiet."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from aftershock.errors import AftershockError
from aftershock.load.quality import replica_of
from aftershock.run import hostlooks, usage
from aftershock.slo.drift import LEAST_POINTS, Points, trends
from aftershock.slo.enduring import HOST_MEMORY, P50, P99, SERVER_MEMORY, watched
from aftershock.slo.timeline import LOAD

if TYPE_CHECKING:
    from aftershock.run.session import Run

_WARM_UP = 0.1  # of the whole: caches fill
_LEAST_LOOK_S, _PATIENCE_S, _PAGES = 1.0, 2.0, 12
_WHOLE_S = 300.0  # what is younger is kept as it came: recoveries look back
# As Prometheus' client libraries name them, vLLM's among them.
_MEMORY_SAMPLE = re.compile(r"^process_resident_memory_bytes(?:\{[^}]*\})? ([0-9.eE+]+)$", re.M)
_START_SAMPLE = re.compile(r"^process_start_time_seconds(?:\{[^}]*\})? ([0-9.eE+]+)$", re.M)


class Creep:
    """Measures blocks of `block_s` that no fault touched, and folds what is long past."""

    def __init__(self, run: Run, block_s: float) -> None:
        self._run, self._block_s = run, block_s
        self._next = self._fold_from = time.monotonic()
        self._began = self._next
        self._past: deque[float] = deque()  # ends of blocks that are yet to be folded
        self._quiet: list[tuple[float, float]] = []
        self._page = usage.reader(run)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch_memory, name="creep", daemon=True)
        self._thread.start()

    def quiet_again(self) -> None:
        """From now on blocks count, up to the next fault."""
        self._next = self._fold_from = time.monotonic()
        self._past.clear()

    def look(self) -> None:
        """Measure the blocks that are decided by now. Called while all is quiet."""
        timeline = self._run.timeline
        while (end := self._next + self._block_s) <= timeline.horizon(LOAD):
            seen = timeline.window(self._next, end)
            for name, value in ((P50, seen.p50_e2e_ms), (P99, seen.p99_e2e_ms)):
                if value is not None:
                    timeline.gauge(name, "", value, self._next + self._block_s / 2)
            self._quiet.append((self._next, end))
            self._past.append(end)
            self._next = end
        while self._past and self._past[0] < time.monotonic() - _WHOLE_S:
            end = self._past.popleft()
            timeline.fold(self._fold_from, end)
            self._fold_from = end - end % 10.0

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join(_PAGES * _PATIENCE_S + 1)

    def trends(self, confidence: float) -> list[dict[str, Any]]:
        """How each figure moved, those with too few points left out."""
        began = self._began + _WARM_UP * (time.monotonic() - self._began)
        found: dict[str, Points] = {}
        for name, points in watched(self._run.timeline).items():
            kept = [p for p in points if p[0] >= began and self._was_quiet(p[0])]
            if len(kept) >= LEAST_POINTS:
                found[name] = kept
        return [one.as_dict() | {"trend": one} for one in trends(found, confidence)]

    def _was_quiet(self, at: float) -> bool:
        return any(start <= at < end for start, end in self._quiet)

    def _watch_memory(self) -> None:
        every_s = max(self._block_s, _LEAST_LOOK_S)
        while not self._over.wait(every_s):
            with contextlib.suppress(OSError, ValueError):
                self._read_servers()
            if not self._run.target.is_lab:  # whose hosts are this machine
                with contextlib.suppress(AftershockError):
                    self._read_hosts()

    def _read_servers(self) -> None:
        """Servers' own pages, as far as the gateway lets them through: a replica's at a time."""
        seen: dict[str, float] = {}
        for _ in range(min(_PAGES, 2 * self._run.settings.replicas)):
            page, headers = self._page()
            replica = replica_of(headers) or "service"
            memory, start = _MEMORY_SAMPLE.search(page), _START_SAMPLE.search(page)
            if memory:  # a process that was started anew begins anew
                since = f" (up since {float(start[1]):.0f})" if start else ""
                seen[f"{replica}{since}"] = float(memory[1])
        for label, value in seen.items():
            self._run.timeline.gauge(SERVER_MEMORY, label, value)

    def _read_hosts(self) -> None:
        nodes = [node.name for node in self._run.target.inventory.nodes if not node.agentless]
        if not nodes:
            return
        with self._run.watcher.paused():
            found = hostlooks.look(self._run, ",".join(nodes))
        for node, told in found.items():
            used = told["memory"]["total"] - told["memory"]["available"]
            self._run.timeline.gauge(HOST_MEMORY, node, used)
