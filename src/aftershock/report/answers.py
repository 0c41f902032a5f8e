"""How many answers were in time, and how good they were, phase by phase: rows of plain text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PHASES = ("before", "during", "after")
GOODPUT = ("Goodput", "Requests due", "Within all limits", "Share", "A second")
QUALITY = (
    *("Golden prompts", "Answers", "Bad", "Known and right"),
    *("How", "By replica", "By family"),
)
WORST = ("Replica", "Wrong", "Prompt", "Answer")


def phases(told: Mapping[str, Any] | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The phases in which something was due, or answered."""
    for phase in PHASES:
        seen = (told or {}).get(phase) or {}
        if seen.get("requests") or seen.get("answers"):
            yield phase, seen


def goodput(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each phase in which something was due."""
    for phase, seen in phases(document.get("goodput")):
        rps = "–" if seen["rps"] is None else f"{seen['rps']:,.1f}"
        yield (
            phase,
            f"{seen['requests']:,}",
            f"{seen['met']:,}",
            f"{100 * seen['share']:.2f} %",
            rps,
        )


def quality(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each phase in which golden prompts were answered."""
    for phase, seen in phases(document.get("quality")):
        parts = (_counts(seen[name]) for name in ("kinds", "by_replica", "by_family"))
        asked = seen.get("questions")  # verdicts of earlier versions have none
        right = f"{seen['right']:,} of {asked:,}" if asked else "–"
        yield (phase, f"{seen['answers']:,}", f"{seen['bad']:,}", right, *parts)


def worst(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Bad answers to read, the first that came."""
    for one in (document.get("quality") or {}).get("worst") or ():
        yield str(one["replica"]), str(one["wrong"]), str(one["prompt"]), str(one["text"])


def _counts(told: Mapping[str, int]) -> str:
    ranked = sorted(told.items(), key=lambda one: -one[1])
    return ", ".join(f"{name} {count:,}" for name, count in ranked) or "–"
