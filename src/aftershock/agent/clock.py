"""The agent's one clock, and who a process is."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

_PATIENCE_S = 5.0


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


def end_process(process: Mapping[str, Any]) -> bool:
    """End an agent, which heals on SIGTERM or else hangs; whether it was there."""
    was_there = is_there(process)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not is_there(process):
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(process["pid"], number)
        until = time.monotonic() + _PATIENCE_S
        while is_there(process) and time.monotonic() < until:
            time.sleep(0.02)
    return was_there
