"""What is long past, and was quiet, in less memory: a run of hours must not grow without end.

Slots and ticks are added up over 10 s, gauges and good samples of a sentinel are thinned out to one
a 10 s. Sums stay what they were; *when* something was is known to 10 s only.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from math import ceil, floor
from typing import Any

from aftershock.slo.slots import SLOT_S, TICK_S, Slot

BLOCK_S = 10.0
_SLOTS, _TICKS = round(BLOCK_S / SLOT_S), round(BLOCK_S / TICK_S)


def blocks(start: float, end: float) -> range:
    """The whole blocks within [start, end), by number."""
    return range(ceil(start / BLOCK_S - 1e-9), floor(end / BLOCK_S + 1e-9))


def fold_slots(slots: MutableMapping[int, Slot], block: int) -> None:
    """Add a block's slots up in its first one."""
    held = [slots.pop(index) for index in _span(block, _SLOTS) if index in slots]
    if held:
        total = Slot()
        for slot in held:
            total.merge(slot.wire())
        whole = Slot()  # with one histogram of each kind
        whole.merge(total.wire())
        slots[block * _SLOTS] = whole


def fold_ticks(ticks: MutableMapping[int, list[int]], block: int) -> None:
    """Add a block's ticks up in its first one."""
    held = [ticks.pop(index) for index in _span(block, _TICKS) if index in ticks]
    if held:
        ticks[block * _TICKS] = [sum(tick[0] for tick in held), sum(tick[1] for tick in held)]


def _span(block: int, width: int) -> range:
    return range(block * width, (block + 1) * width)


def thinned(rows: Sequence[Any], start: float, end: float, spare: Any = None) -> Iterator[Any]:
    """Rows, which begin with their moment, of which one a block is kept within [start, end).

    `spare(row)`: whether a row is kept all the same.
    """
    last = None
    for row in rows:
        block = floor(row[0] / BLOCK_S) if start <= row[0] < end else None
        if block is None or block != last or (spare and spare(row)):
            yield row
        last = block
