"""Aftershock breaks itself, so that its verdict can be seen to notice."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from aftershock.errors import InvalidInput
from aftershock.run import wording

if TYPE_CHECKING:
    from aftershock.run.session import Run

LONGEST_S = 60.0


def pause_this_process(run: Run, duration_s: Any) -> float:
    """Stop this very process; a child in a session of its own wakes it. Returns for how long."""
    seconds, pid = _sensible(duration_s), os.getpid()
    run.breaking.foretell(f"this controller itself, stopped for {seconds:g} s")
    wake = f"kill -STOP {pid}; sleep {seconds}; kill -CONT {pid}"
    subprocess.run(["sh", "-c", wake], start_new_session=True, check=True)
    return seconds


def pause_generator(run: Run, duration_s: Any) -> tuple[float, int]:
    """Stop the load's processes, whatever happens meanwhile; returns for how long, and how many."""
    seconds = _sensible(duration_s)
    run.breaking.foretell(f"the load generator, stopped for {seconds:g} s")
    stopped = run.load.generator_pids()
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    return seconds, len(stopped)


def _sensible(duration_s: Any) -> float:
    seconds = wording.number("duration_s", duration_s)
    if not 0 < seconds <= LONGEST_S:
        raise InvalidInput(f"duration_s is {seconds:g}: give up to {LONGEST_S:g} s, above 0")
    return seconds
