"""Break Aftershock itself, to see that its verdict notices. For experiments/say-no/."""

from typing import Any

from aftershock import run as runs
from aftershock.run import selftest

__all__ = ["pause_controller", "pause_generator"]


def pause_controller(duration_s: float) -> dict[str, Any]:
    """Stop this very process for some seconds, as a laptop's lid does. Agents then heal."""
    return {"paused_s": selftest.pause_this_process(runs.current(), duration_s)}


def pause_generator(duration_s: float) -> dict[str, Any]:
    """Stop the load generator for some seconds, so that it falls behind its schedule."""
    paused_s, processes = selftest.pause_generator(runs.current(), duration_s)
    return {"paused_s": paused_s, "processes": processes}
