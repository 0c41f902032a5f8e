"""The matrix as people read it."""

from __future__ import annotations

from collections.abc import Mapping

from cells import CELLS, EVENTS, LEASES_S, STAGES, Cell
from sites import WAYS


def table(took: Mapping[str, float | None]) -> list[str]:
    """A line an event and stage; how long until all was as before, or that it was not (None)."""
    reasons = list(dict.fromkeys(cell.nonsense for cell in CELLS if cell.nonsense))
    lines = [_row("what happened", "when", list(WAYS))]
    for event in EVENTS:
        for stage in STAGES:
            cells = [_cell(Cell(event, stage, way), took, reasons) for way in WAYS]
            lines.append(_row(event if stage == STAGES[0] else "", stage, cells))
    lines += [f"({number}) {why}" for number, why in enumerate(reasons, 1)]
    lines += [
        "Seconds from the event until nine hosts (a partition and a detour, by TCX and by",
        "clsact; a volume that is filled, kept busy and throttled at once; a frozen process; a",
        "cgroup without room for another; a process that is killed again and again, while",
        "processor time and memory are used up, and one that is killed for memory; a GPU that",
        "is filled while another is slow, and a process that uses it is locked)",
        f"looked as before, and the controller had ended if it lived on. Leases: {LEASES_S[0]:g} s",
        "from the arming; a detour's queue has half a second more to run dry.",
    ]
    return lines


def _cell(cell: Cell, took: Mapping[str, float | None], reasons: list[str]) -> str:
    if cell.nonsense:
        return f"– ({reasons.index(cell.nonsense) + 1})"
    if str(cell) not in took:
        return "not run"
    seconds = took[str(cell)]
    return "FAILED" if seconds is None else f"ok {seconds:.2f} s"


def _row(event: str, stage: str, cells: list[str]) -> str:
    return f"{event:<26}{stage:<16}" + "".join(f"{cell:<14}" for cell in cells).rstrip()
