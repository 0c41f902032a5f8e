"""What a worker itself used while it was behind its schedule, by the kernel's own counters.

Looked at with every report. Sums are of the stretches in which a request was sent later than
allowed, and of the one before each: what delays a request comes before it is sent.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections import defaultdict
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_COUNT_DESCRIPTORS_EVERY = 5  # looks; with thousands of them it takes a millisecond


class OwnUse:
    """`look` returns totals since the start, under the names that `slo.scarcity` knows."""

    def __init__(self, allowed_s: float, every_s: float) -> None:
        """Late is what is sent more than `allowed_s` late; looks come `every_s` at the soonest."""
        self._allowed_s, self._every_s = allowed_s, every_s
        self._late: dict[str, float] = defaultdict(float)
        self._was = _counted()
        self._before: dict[str, float] = {}
        self._looks = self._descriptors = 0

    def look(self, worst_lag_s: float) -> dict[str, float]:
        """Called by the event loop itself, with the worst lag since the last look."""
        now = _counted()
        passed = {name: now[name] - self._was[name] for name in now}
        self._was = now
        used = passed["ran_s"] + passed["queued_s"]
        passed["stood_still_s"] = max(passed["wall_s"] - self._every_s - used, 0.0)
        if worst_lag_s > self._allowed_s:
            for stretch in (self._before, passed):
                for name, value in stretch.items():
                    self._late[name] += value
            passed = {}  # a stretch counts once
        self._before = passed
        if self._looks % _COUNT_DESCRIPTORS_EVERY == 0:
            with contextlib.suppress(OSError):
                found = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
                self._descriptors = max(self._descriptors, found)
        self._looks += 1
        told = {f"late_{name}": round(value, 4) for name, value in self._late.items()}
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return {**told, "descriptors_most": self._descriptors, "descriptors_limit": limit}


def _counted() -> dict[str, float]:
    """Everything so far; what this kernel does not count stays 0."""
    found = {"wall_s": time.monotonic(), "ran_s": time.process_time(), "queued_s": 0.0}
    with contextlib.suppress(OSError, ValueError):
        # Of the first thread, which the event loop runs in: on a processor, and waiting for one.
        ran_s, queued_s = scheduled()
        found |= {"ran_s": ran_s, "queued_s": queued_s}
    return {**found, **_machine(), **_network()}


def scheduled(pid: str = "self") -> tuple[float, float]:
    """Seconds that a process's first thread ran for, and waited for a processor.

    OSError or ValueError where the kernel does not tell.
    """
    ran, queued, _ = map(int, _words(f"/proc/{pid}/schedstat"))
    return ran / 1e9, queued / 1e9


def _machine() -> dict[str, float]:
    """Seconds of all processors together; what a hypervisor took from them is `stolen`."""
    found = {"busy_s": 0.0, "all_s": 0.0, "stolen_s": 0.0}
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = [int(word) / _TICKS for word in _words("/proc/stat")[1:9]]
        idle, stolen = ticks[3] + ticks[4], ticks[7]
        found |= {"busy_s": sum(ticks) - idle, "all_s": sum(ticks), "stolen_s": stolen}
    return found


def _network() -> dict[str, float]:
    """TCP segments of this network namespace, and packets that its devices did not send."""
    found = {"segments": 0.0, "retransmitted": 0.0, "dropped": 0.0}
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/self/net/snmp").read_text(encoding="ascii").splitlines()
        names, values = (line.split()[1:] for line in lines if line.startswith("Tcp:"))
        tcp = dict(zip(names, map(int, values), strict=True))
        found |= {"segments": tcp["OutSegs"], "retransmitted": tcp["RetransSegs"]}
    with contextlib.suppress(OSError, ValueError, IndexError):
        devices = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
        found["dropped"] = sum(int(one.partition(":")[2].split()[11]) for one in devices)
    return found


def _words(path: str) -> list[str]:
    with Path(path).open(encoding="ascii") as file:
        return file.readline().split()
