"""What a process that traces and limits nobody sees of some processes."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

from . import chosen
from .clock import start_ticks
from .containers import states_of, text


def look(choices: List[Dict[str, Any]], over_s: float) -> Dict[str, Any]:
    """Their threads' states, and the processor time that they use over a while, in clock ticks.

    `who`: the PID and the start of each. `free_files`: how many numbers are free for files in the
    one that has the fewest; None for no process. `in_memory`, `swapped`: bytes of their own memory.
    """
    pids: Set[int] = set()
    for choice in choices:
        found = chosen.find(choice)
        pids |= set(chosen.with_descendants(found) if choice.get("tree") else found)
    before = {pid: _ticks(pid) for pid in pids}
    time.sleep(over_s)
    states = states_of(sorted(pids))
    used = sum(_ticks(pid) - before[pid] for pid in states)
    free = [count for pid in states if (count := _free_files(pid)) is not None]
    return {
        "processes": len(states),
        "threads": sum(len(text) for text in states.values()),
        "stopped": sum(text.count("t") for text in states.values()),
        "ticks": used,
        "who": [[pid, started] for pid in states if (started := start_ticks(pid)) is not None],
        "free_files": min(free, default=None),
        "in_memory": sum(_own(pid, "RssAnon") for pid in states),
        "swapped": sum(_own(pid, "VmSwap") for pid in states),
    }


def _ticks(pid: int) -> int:
    """Processor time of a process, in clock ticks."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0


def _own(pid: int, key: str) -> int:
    """Bytes that /proc/PID/status has under a name."""
    for line in text(f"/proc/{pid}/status").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    return 0


def _free_files(pid: int) -> Optional[int]:
    """How many numbers below its limit are not taken by an open file."""
    try:
        limit, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        taken = [int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()]
    except (OSError, ValueError):
        return None
    return limit - sum(number < limit for number in taken)
