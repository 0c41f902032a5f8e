"""The kinds of steps that an agent can hold, and what undoes each from outside."""

from __future__ import annotations

import importlib
from typing import Any, Dict, List, Mapping, Protocol

from .errors import Invalid

# Each kind's module, and the class in it; beside that the module may have `undo` and `still`.
KINDS = {
    "drop": ("dropping", "Drop"),
    "divert": ("detour", "Divert"),
    "reset": ("resets", "Reset"),
    "command": ("commands", "Command"),
    "freeze": ("freezing", "Freeze"),
    "fill": ("filling", "Fill"),
    "press": ("pressing", "Press"),
    "throttle": ("throttling", "Throttle"),
    "delay": ("remapping", "Delay"),
    "fail": ("remapping", "Fail"),
    "cover": ("covering", "Cover"),
    "kill": ("killing", "Kill"),
    "cpu-stress": ("stress", "CpuStress"),
    "memory-pressure": ("stress", "MemoryPressure"),
    "limit": ("limits", "Limit"),
    "oom": ("ooming", "Oom"),
    "swap-out": ("swapping", "SwapOut"),
    "gpu-memory": ("gpusteps", "GpuMemory"),
    "gpu-compute": ("gpusteps", "GpuCompute"),
    "gpu-slow": ("slowing", "GpuSlow"),
    "cuda-fault": ("cudafaults", "CudaFault"),
    "gpu-xid": ("xids", "Xid"),
    "cuda-lock": ("locking", "CudaLock"),
}


class Step(Protocol):
    """One thing done to this host, from prepared to taken back."""

    kind: str
    outlives: bool  # something of it stays when this process dies: a watcher is needed
    rash: bool  # it must be on disk that it fires before it does
    about: Dict[str, Any]  # what the record says of it

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside, known before anything is touched."""

    def attach(self) -> Dict[str, Any]:
        """Prepare everything, nothing is felt; `owned` lines of a fingerprint, and `undo`."""

    def fire(self, until: float) -> None:
        """Let it bite until a time on CLOCK_BOOTTIME."""

    def tick(self) -> None:
        """Called twice a second while it is on: do what came due."""

    def shut(self) -> None:
        """Let it bite no more; twice is fine."""

    def observe(self) -> Dict[str, Any]:
        """What was seen of it so far."""

    def detach(self) -> List[str]:
        """Take off what is attached; the lines that had to be left to others."""

    def close(self) -> None:
        """Give up what is left in memory."""


def make(injection: str, options: Mapping[str, Any]) -> Step:
    """A step from a request."""
    kind = options.get("kind")
    if kind not in KINDS:
        raise Invalid(f"step kind {kind!r}: one of {', '.join(KINDS)}")
    step: Step = getattr(_module(kind), KINDS[kind][1])(injection, options)
    return step


def undo(kind: str, intent: Mapping[str, Any]) -> List[str]:
    """Take back what a step recorded, from any process there; the lines left to others."""
    by = getattr(_module(kind), "undo", None)  # of some, nothing stays when the agent is gone
    left: List[str] = by(intent) if by else []
    return left


def still(kind: str, intent: Mapping[str, Any]) -> List[str]:
    """What is as such a step set it, of the kinds whose things have a name that lasts."""
    by = getattr(_module(kind), "still", None)
    found: List[str] = by(intent) if by else []
    return found


def _module(kind: str) -> Any:
    """Imported when it is needed."""
    return importlib.import_module(f".{KINDS[kind][0]}", __package__)
