"""How this host is: processor, memory, swap, pressure and OOM kills, as the kernel counts them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Dict, List

from . import cgroups
from .errors import AgentError

_KINDS = ("cpu", "memory", "io")
_TICK = os.sysconf("SC_CLK_TCK")


def vitals(cgroup: str = "") -> Dict[str, Any]:
    """Everything now. Seconds are totals since boot, sizes are bytes.

    `psi`: for cpu, memory and io, `some` and `full` with avg10, avg60, avg300 (percent) and
    total_s; where the kernel tells none, `psi_why` says why. `cgroup`: that cgroup's own numbers,
    as far as it has such controllers; without one that of a host which is a cgroup itself.
    """
    pressure, why = psi()
    cgroup = cgroup or os.environ.get("AFTERSHOCK_HOST_CGROUP", "")
    return {
        "at": time.monotonic(),
        "cpu": cpu(),
        "memory": memory(),
        "oom_kills": _of_vmstat("oom_kill"),
        "network": network(),
        "psi": pressure,
        "psi_why": why,
        "cgroup": of_cgroup(cgroup) if cgroup else {},
    }


def cpu() -> Dict[str, float]:
    """Seconds that all processors were busy and idle, and how many there are. From /proc/stat."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    numbers = [int(word) / _TICK for word in fields[:8]]
    idle_s = numbers[3] + numbers[4]
    stolen_s = numbers[7]
    busy_s = sum(numbers) - idle_s - stolen_s
    return {"busy_s": busy_s, "idle_s": idle_s, "stolen_s": stolen_s, "cpus": os.cpu_count() or 1}


def network() -> Dict[str, int]:
    """Packets in and out of all devices but lo, and those dropped, since boot. /proc/net/dev."""
    packets = dropped = 0
    for line in Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = [int(word) for word in rest.split()]
        if name.strip() != "lo":
            packets += numbers[1] + numbers[9]
            dropped += numbers[3] + numbers[11]
    return {"packets": packets, "dropped": dropped}


def memory() -> Dict[str, int]:
    """Bytes of memory and swap, from /proc/meminfo."""
    found: Dict[str, int] = {}
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        words = line.split()
        found[words[0].rstrip(":")] = int(words[1]) * 1024
    names = {
        "total": "MemTotal",
        "available": "MemAvailable",
        "cached": "Cached",
        "swap_total": "SwapTotal",
        "swap_free": "SwapFree",
    }
    return {name: found.get(key, 0) for name, key in names.items()}


def psi() -> Any:
    """Pressure of the whole host, and why there is none to be had, or nothing."""
    found: Dict[str, Dict[str, Dict[str, float]]] = {}
    for kind in _KINDS:
        try:
            text = Path("/proc/pressure", kind).read_text(encoding="ascii")
        except FileNotFoundError:
            return {}, "this kernel counts no pressure: it needs Linux 4.20 with CONFIG_PSI"
        except OSError:
            return {}, "pressure is counted but switched off: boot this kernel with psi=1"
        found[kind] = parse_psi(text)
    return found, ""


def parse_psi(text: str) -> Dict[str, Dict[str, float]]:
    """`some avg10=0.00 … total=0` lines; the total becomes seconds."""
    found: Dict[str, Dict[str, float]] = {}
    for line in text.splitlines():
        name, *words = line.split()
        pairs = {key: float(value) for key, value in (word.split("=") for word in words)}
        pairs["total_s"] = pairs.pop("total") / 1e6
        found[name] = pairs
    return found


def of_cgroup(path: str) -> Dict[str, Any]:
    """A cgroup's processor seconds, memory, processes and OOM kills, where they are counted."""
    found: Dict[str, Any] = {}
    wanted = (
        ("cpu_s", "cpuacct", "usage_ns"),
        ("memory_bytes", "memory", "usage"),
        ("memory_limit_bytes", "memory", "limit"),
        ("swap_bytes", "memory", "swap"),
        ("oom_kills", "memory", "oom_kill"),
        ("pids", "pids", "usage"),
        ("pids_limit", "pids", "limit"),
        ("forks_refused", "pids", "max"),
    )
    missing: List[str] = []
    for name, controller, what in wanted:
        try:
            number: float = cgroups.find(controller, path).number(what)
        except (AgentError, OSError) as error:
            missing.append(str(error))
            continue
        found[name] = number / 1e9 if what == "usage_ns" else number
    if (cores := cgroups.cores(path)) is not None:
        found["cpu_limit"] = cores
    if not found:
        raise AgentError(missing[0])
    return found


def _of_vmstat(key: str) -> int:
    for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key} "):
            return int(line.split()[1])
    return 0
