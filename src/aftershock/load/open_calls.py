"""What workers have sent and not yet told the end of: taken back when they go away."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from aftershock.slo.slots import SLOT_S, TICK_S

_TICKS = round(SLOT_S / TICK_S)
_JUDGED = ("good", "slow")


class OpenCalls:
    """Adds up load messages; `taken_back` is what undoes what will never be decided."""

    def __init__(self) -> None:
        self._slots: dict[int, Counter[str]] = defaultdict(Counter)
        self._ticks: dict[int, list[int]] = {}

    @property
    def first(self) -> float | None:
        """The beginning of the first slot that was heard of."""
        return min(self._slots) * SLOT_S if self._slots else None

    def note(self, message: Mapping[str, Any]) -> None:
        """Take in a message of the load (see `Timeline.feed`)."""
        for index, wire in message.get("slots", {}).items():
            known = self._slots[int(index)]
            for name in ("scheduled", "sent", *_JUDGED):
                known[name] += wire.get(name, 0)
            known["failed"] += sum(wire.get("failed", {}).values())
            known["not_sent"] += wire.get("failed", {}).get("not_sent", 0)
        for index, counts in message.get("ticks", {}).items():
            tick = self._ticks.setdefault(int(index), [0, 0])
            tick[0] += counts[0]
            tick[1] += counts[1]

    def forget(self, before: float) -> None:
        """What was scheduled before that moment is decided by now."""
        self._slots = defaultdict(
            Counter, {i: held for i, held in self._slots.items() if i * SLOT_S >= before}
        )
        self._ticks = {i: held for i, held in self._ticks.items() if i * TICK_S >= before}

    def taken_back(self, since: float) -> dict[str, Any]:
        """`slots` and `ticks` that undo what was scheduled since then and is open still."""
        slots: dict[str, Any] = {}
        ticks: dict[str, list[int]] = {}
        for index, counts in self._slots.items():
            ended = counts["good"] + counts["slow"] + counts["failed"]
            still = counts["scheduled"] - ended
            if index * SLOT_S < since or still <= 0:
                continue
            sent = min(still, max(0, counts["sent"] - (ended - counts["not_sent"])))
            slots[str(index)] = {"scheduled": -still, "sent": -sent}
            if not (counts["slow"] or counts["failed"]):  # else it isn't known which were open
                for tick in range(index * _TICKS, (index + 1) * _TICKS):
                    due, good = self._ticks.get(tick, (0, 0))
                    ticks[str(tick)] = [good - due, 0]
        return {"slots": slots, "ticks": ticks}
