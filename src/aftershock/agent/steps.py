"""The kinds of steps that an agent can hold, and what undoes each from outside."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Protocol

from .errors import Invalid


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
    """A step from a request; imports wait until they are needed."""
    kind = options.get("kind")
    if kind == "drop":
        from .dropping import Drop

        return Drop(injection, options)
    if kind == "divert":
        from .detour import Divert

        return Divert(injection, options)
    if kind == "reset":
        from .resets import Reset

        return Reset(injection, options)
    if kind == "command":
        from .commands import Command

        return Command(injection, options)
    raise Invalid(f"step kind {kind!r}: drop, divert, reset or command")


def undo(kind: str, intent: Mapping[str, Any]) -> List[str]:
    """Take back what a step recorded, from any process there; the lines left to others."""
    if kind == "reset":
        return []
    if kind == "command":
        from . import commands

        return commands.undo(intent)
    if kind == "divert":
        from . import detour

        return detour.undo(intent)
    from . import dropping

    return dropping.undo(intent)
