"""Goodput: the share of requests that meet every limit, before, during and after the fault.

What failed, was dropped or was never answered counts among all that was due. After Zhong et al.,
DistServe (OSDI 2024): requests a second that meet TTFT and TPOT together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aftershock.slo.slots import Slot
from aftershock.slo.timeline import Timeline

PHASES = ("before", "during", "after")
_STEADY = "phase:steady"


@dataclass(frozen=True, slots=True)
class Share:
    """Requests of the load that were due in a phase of `seconds`, and those that met the limits."""

    requests: int
    met: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """With the share, None where nothing was due, and the rate that was served so."""
        share = round(self.met / self.requests, 5) if self.requests else None
        rps = round(self.met / self.seconds, 2) if self.seconds > 0 else None
        return {"requests": self.requests, "met": self.met, "share": share, "rps": rps}


def goodput(
    timeline: Timeline,
    limits_ms: Mapping[str, float],
    t_effect: float | None,
    t_healed: float | None,
    end: float,
) -> dict[str, Any]:
    """The limits, and the share in each phase; `during` lasts to the heal, or to the end.

    What was still open at the end, and could still have met them, is left out.
    """
    patience_s = limits_ms.get("e2e_ms", max(limits_ms.values(), default=0.0)) / 1e3
    effect = end if t_effect is None else t_effect
    healed = end if t_healed is None else max(t_healed, effect)
    held = timeline.slots()
    first = max(timeline.marks.get(_STEADY, 0.0), held[0][0] if held else 0.0)
    edges = ((first, effect), (effect, healed), (healed, end))
    found: dict[str, Any] = {"limits": dict(limits_ms)}
    for phase, (start, until) in zip(PHASES, edges, strict=True):
        slots = [(at, slot) for at, slot in held if start <= at < until]
        due = sum(_due(slot, decided=at < end - patience_s) for at, slot in slots)
        met = sum(slot.counts["met"] for _, slot in slots)
        found[phase] = Share(due, met, max(until - start, 0.0)).as_dict()
    return found


def _due(slot: Slot, decided: bool) -> int:
    ended = slot.counts["ok"] + sum(slot.failed.values())
    return max(slot.counts["scheduled"], ended) if decided else ended
