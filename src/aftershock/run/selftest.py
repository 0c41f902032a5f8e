"""Aftershock breaks itself, so that its verdict can be seen to notice."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable

from aftershock.errors import InvalidInput

LONGEST_S = 60.0


def pause_this_process(duration_s: float) -> None:
    """Stop this very process; a child in a session of its own wakes it."""
    seconds, pid = _sensible(duration_s), os.getpid()
    wake = f"kill -STOP {pid}; sleep {seconds}; kill -CONT {pid}"
    subprocess.run(["sh", "-c", wake], start_new_session=True, check=True)


def pause_processes(pids: Iterable[int], duration_s: float) -> int:
    """Stop some processes for a while, whatever happens meanwhile; returns how many."""
    seconds, stopped = _sensible(duration_s), list(pids)
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    return len(stopped)


def _sensible(duration_s: float) -> float:
    if not 0 < duration_s <= LONGEST_S:
        raise InvalidInput(f"duration_s is {duration_s:g}: give up to {LONGEST_S:g} s, above 0")
    return duration_s
