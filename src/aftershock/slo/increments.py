"""The load's reports of a second as few lines, so that its file grows with time and not with load.

Each worker reports five times a second, and each report has a part of some slots. Put together, a
slot is written about twice, however many workers there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aftershock.slo.slots import Slot

_PARTS = ("slots", "ticks", "failures")


def combined(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A message a worker that tells a timeline the same as all of these; the last has the slots."""
    plain: dict[int, dict[str, Any]] = {}
    slots: dict[str, Slot] = {}
    ticks: dict[str, list[int]] = {}
    failures: list[Any] = []
    for message in messages:
        rest = {name: value for name, value in message.items() if name not in _PARTS}
        plain.setdefault(message.get("worker", 0), {}).update(rest)
        for index, wire in message.get("slots", {}).items():
            slots.setdefault(index, Slot()).merge(wire)
        for index, (due, good) in message.get("ticks", {}).items():
            tick = ticks.setdefault(index, [0, 0])
            tick[0] += due
            tick[1] += good
        failures += message.get("failures", ())
    told = list(plain.values())
    if told:
        told[-1]["slots"] = {index: slot.wire() for index, slot in slots.items()}
        told[-1]["ticks"] = ticks
        told[-1]["failures"] = failures
    return told
