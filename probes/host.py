"""How the target's hosts are, as their kernels count it.

`where` names zones and nodes, with commas; `all` means every node. Hosts that are one machine (the
lab's nodes) have the same kernel's numbers. Every probe raises `Unsupported` where the kernel does
not count what is asked, with the mend, and `HostUnreachable` for a host that does not answer. None
returns None or NaN.
"""

from typing import Any

from aftershock import run as runs
from aftershock.run import hostlooks

__all__ = [
    "cgroup_memory_bytes",
    "cpu_busy_percent",
    "host_vitals",
    "memory_available_percent",
    "oom_kills",
    "pressure_percent",
    "swap_used_percent",
]


def pressure_percent(
    where: str = "all", resource: str = "cpu", share: str = "some", window_s: int = 10
) -> float:
    """PSI: percent of time in which work waited for a resource, on the host that waited most.

    `resource`: cpu, memory or io. `share`: `some` (at least one task waited) or `full` (all did).
    `window_s`: 10, 60 or 300, the averages that the kernel keeps. Source: /proc/pressure.
    """
    return hostlooks.pressure(runs.current(), where, resource, share, window_s)


def cpu_busy_percent(where: str = "all", over_s: float = 1.0) -> float:
    """Percent of all processors' time that was used in the next `over_s`, on the busiest host."""
    return hostlooks.busy(runs.current(), where, over_s)


def memory_available_percent(where: str = "all") -> float:
    """MemAvailable in percent of MemTotal, on the host that has the least."""
    return hostlooks.memory_available(runs.current(), where)


def swap_used_percent(where: str = "all") -> float:
    """Percent of the swap that is used, on the host that uses the most; 0 where there is none."""
    return hostlooks.swap_used(runs.current(), where)


def oom_kills(where: str = "all", cgroup: str = "") -> int:
    """How many processes the kernels killed for memory since this probe was first asked in the run.

    So it is 0 the first time: ask it in the steady state. Counted by oom_kill of /proc/vmstat, once
    for each machine, or by the `cgroup` (a path as /proc/PID/cgroup shows it).
    """
    return hostlooks.oom_kills(runs.current(), where, cgroup)


def cgroup_memory_bytes(where: str, cgroup: str) -> int:
    """What a memory cgroup uses, on the host where it uses the most."""
    return hostlooks.cgroup_memory(runs.current(), where, cgroup)


def host_vitals(where: str = "all", cgroup: str = "") -> dict[str, Any]:
    """Node → all of it: cpu (seconds since boot), memory (bytes), oom_kills, psi, cgroup.

    `psi` is resource → some/full → avg10, avg60, avg300 (percent), total_s; empty where the kernel
    has none, and `psi_why` then says why.
    """
    return hostlooks.look(runs.current(), where, cgroup)
