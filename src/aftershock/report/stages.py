"""The lost replicas and what came for them, stage by stage, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

SHOWN = 6
STAGES = ("deleted", "scheduled", "started", "ready")
_SHOWN_AS = ("lost", *STAGES[1:])  # some were only unready for a while
HEADS = ("Replica", "Came for", "Where", *(f"{one.capitalize()}, s" for one in _SHOWN_AS))
_ROW = "  {:<34}" + "{:>10}" * len(STAGES)

Row = Mapping[str, Any]


def lines(rows: Sequence[Row]) -> list[str]:
    """A small table of text: the slowest replicas first, the others counted."""
    if not rows:
        return []
    chosen = slowest(rows)
    table = [_ROW.format("replica, s after the fault", *_SHOWN_AS)]
    for row in chosen[:SHOWN]:
        table.append(_ROW.format(_short(_name(row), 33), *(_moment(row, one) for one in STAGES)))
        if row["waits_for"]:
            table.append(f"    waits: {_short(row['waits_for'], 84)}")
    if more := chosen[SHOWN:]:
        table.append(f"  and {len(more)} more, in verdict.json")
    return table


def slowest(rows: Sequence[Row]) -> list[Row]:
    """Those that never got ready first, then the latest."""
    return sorted(rows, key=lambda row: (row["ready_s"] is not None, -(row["ready_s"] or 0.0)))


def cells(row: Row) -> list[str]:
    """A replica's row, as plain text: what it came for, its place, its stages."""
    came = str(row["pod"] or "nothing came")
    if row.get("same_pod"):  # verdicts of earlier versions have none
        lost = "restarted in place" if row["started_s"] is not None else "the same pod"
    elif row["pod"] and row["pod"] == row["replaces"]:
        lost = "one of the same name"
    else:
        lost = str(row["replaces"] or "nothing: it was added")
    place = f"{row['zone'] or '–'} {row['node']}"
    return [came, lost, place, *(_moment(row, one) for one in STAGES)]


def marked_up(row: Row) -> list[str]:
    """The same as HTML, with what the scheduler said."""
    came, *rest = map(escape, cells(row))
    waits = f"<br><small>{escape(row['waits_for'])}</small>" if row["waits_for"] else ""
    return [f"<b>{came}</b>{waits}", *rest]


def _name(row: Row) -> str:
    pod = str(row["pod"] or f"(none for {row['replaces']})")
    return f"{pod} {row['zone']}" if row["pod"] else pod


def _moment(row: Row, stage: str) -> str:
    value = row[f"{stage}_s"]
    if value is None:
        return "–"
    return f"≤ {value:.2f}" if stage in row["late"] else f"{value:.2f}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
