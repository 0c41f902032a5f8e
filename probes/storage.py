"""The volumes of the target's hosts, as a process of ours sees them that breaks nothing.

`where` names zones and nodes, with commas; `all` means every node. `path` is a directory on the
volume that is meant, with `{zone}` and `{node}` for their names. Every probe raises `InvalidInput`
for a path that isn't there, `Unsupported` where a volume can't be measured (memory has no device),
and `HostUnreachable`. None returns None or NaN.
"""

from typing import Any

from aftershock import run as runs
from aftershock.run import storage

__all__ = [
    "device_saturation",
    "device_saturation_percent",
    "free_inodes",
    "free_mib",
    "io_latency",
    "load_time_s",
    "p50_io_latency_ms",
    "p99_io_latency_ms",
]


def io_latency(where: str, path: str, samples: int = 50) -> dict[str, Any]:
    """Node → {read, write} → {p50_ms, p90_ms, p99_ms, max_ms} of single direct 4 KiB requests.

    One after the other with pauses, on a file without a name: 160 KiB/s, well under a hundredth of
    any device's bandwidth. `samples` of each, at 50 a second.
    """
    return storage.latency(runs.current(), where, path, samples)


def p50_io_latency_ms(where: str, path: str, kind: str = "read", samples: int = 50) -> float:
    """The median of `io_latency`'s reads or writes (`kind`), in ms, on the slowest node."""
    return storage.percentile(runs.current(), where, path, kind, "p50_ms", samples)


def p99_io_latency_ms(where: str, path: str, kind: str = "read", samples: int = 100) -> float:
    """The 99th percentile of `io_latency`'s reads or writes, in ms, on the slowest node."""
    return storage.percentile(runs.current(), where, path, kind, "p99_ms", samples)


def device_saturation(where: str, path: str, over_s: float = 1.0) -> dict[str, Any]:
    """Node → what the volume's block device did over a while, from /proc/diskstats.

    {reads_per_s, writes_per_s, read_mib_per_s, write_mib_per_s, wait_ms, busy_share, queue,
    volume}: `wait_ms` is a request's mean, `queue` how many were under way on average, `busy_share`
    the part of the time in which any was. A device that serves many at once isn't full at 1: its
    queue tells.
    """
    return storage.look(runs.current(), where, "device", {"path": path, "over_s": float(over_s)})


def device_saturation_percent(where: str, path: str, over_s: float = 1.0) -> float:
    """The part of the time in which the volume's device was busy, in percent; the busiest node."""
    told = device_saturation(where, path, over_s)
    return 100 * max(float(one["busy_share"]) for one in told.values())


def free_mib(where: str, path: str) -> float:
    """MiB that even root could still write there, on the fullest node."""
    told = storage.look(runs.current(), where, "room", {"path": path})
    return min(float(one["free_bytes"]) for one in told.values()) / 2**20


def free_inodes(where: str, path: str) -> int:
    """How many files could still be made there, on the fullest node."""
    told = storage.look(runs.current(), where, "room", {"path": path})
    return min(int(one["free_inodes"]) for one in told.values())


def load_time_s(where: str, path: str, size_mib: float) -> float:
    """Seconds that reading the first `size_mib` of the file `path` takes, past the page cache.

    In requests of 1 MiB, one after the other, as a loader reads weights. The slowest node's.
    """
    options = {"path": path, "size": int(float(size_mib) * 2**20)}
    told = storage.look(runs.current(), where, "load", options)
    return max(float(one["seconds"]) for one in told.values())
