"""Slots of 0.1 s: what became of the requests scheduled in them, added up over any workers.

A request counts in the slot of its *scheduled* time. HdrHistograms hold tenths of milliseconds to
two significant digits (1 %), so a slot costs the same at 10 and at 10,000 requests a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hdrh.histogram import HdrHistogram

SLOT_S = 0.1
TICK_S = 0.01  # outcomes (only counts, no histogram) are kept ten times finer
_UNIT_S = 1e-4
_LONGEST = 6_000_000  # 600 s
LAG = "lag"
HISTOGRAMS = ("e2e", "ttft", LAG)
COUNTS = ("scheduled", "sent", "good", "slow", "ok", "cut", "met")


def histogram() -> Any:
    """An empty HdrHistogram of latencies."""
    return HdrHistogram(1, _LONGEST, 2)


def record(into: Any, seconds: float) -> None:
    """Count one latency."""
    into.record_value(min(max(round(seconds / _UNIT_S), 1), _LONGEST))


def percentile_ms(of: Any, percent: float) -> float:
    """A percentile, in ms."""
    return float(of.get_value_at_percentile(percent)) * _UNIT_S * 1e3


def merged(encoded: Iterable[str]) -> Any:
    """One histogram of several encoded ones."""
    total = histogram()
    for text in encoded:
        total.decode_and_add(text)
    return total


class Slot:
    """Counts and histograms of one slot.

    `good`: answered within the limit (so far: a stream that is cut later is taken back); `slow`:
    answered, but late; `ok`: finished soundly; `met`: and within all of goodput's limits; `cut`:
    failed after the first token; `failed`: by kind. What is scheduled and neither good nor slow was
    an error, or is still open.
    """

    __slots__ = ("counts", "encoded", "failed", "live")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.live: dict[str, Any] = {}
        self.encoded: dict[str, list[str]] = {}

    def add_time(self, kind: str, seconds: float) -> None:
        if kind not in self.live:
            self.live[kind] = histogram()
        record(self.live[kind], seconds)

    def wire(self) -> dict[str, Any]:
        """This slot as plain data, for JSON or msgpack: what it counted itself, or was told."""
        times = {kind: h.encode().decode() for kind, h in self.live.items()} or {
            kind: texts[0] if len(texts) == 1 else merged(texts).encode().decode()
            for kind, texts in self.encoded.items()
        }
        failed = {"failed": dict(self.failed)} if self.failed else {}
        return {**{k: v for k, v in self.counts.items() if v}, **failed, **times}

    def merge(self, wire: Mapping[str, Any]) -> None:
        """Add what another recorder, or the same one later, says about this slot."""
        for name in COUNTS:
            self.counts[name] += wire.get(name, 0)
        self.failed.update(wire.get("failed", {}))
        for kind in HISTOGRAMS:
            if kind in wire:
                self.encoded.setdefault(kind, []).append(wire[kind])
