"""The agent's one clock, and who a process is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, Mapping, Optional


def boottime() -> float:
    """Seconds since boot; unlike the monotonic clock it counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def start_ticks(pid: int) -> Optional[int]:
    """When a process started, in clock ticks since boot; with its id, who it is. None: gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def is_alive(pid: int, started: Optional[int]) -> bool:
    """Whether the very process is still there, not another that was given its number."""
    return started is not None and start_ticks(pid) == started


def boot_id() -> str:
    """What tells this boot from the next."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def identity(pid: int) -> Dict[str, Any]:
    """Who a process is, as plain data."""
    return {"pid": pid, "started": start_ticks(pid), "boot": boot_id()}


def is_there(process: Mapping[str, Any]) -> bool:
    """Whether the process of an `identity` still runs."""
    return bool(process["boot"] == boot_id() and is_alive(process["pid"], process["started"]))
