"""All that a report is made of, from a run that just ended or from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aftershock.errors import InvalidInput
from aftershock.slo.levels import Levels, load_levels, parse_levels
from aftershock.slo.reading import Unreadable, read_verdict
from aftershock.slo.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Record:
    """`document`: verdict.json's content. `zones`: node → its zone. `checks`: checks.json's.

    `missing`: sentences about what the folder no longer tells.
    """

    document: Mapping[str, Any]
    timeline: Timeline
    levels: Levels
    zones: Mapping[str, str] = field(default_factory=dict)
    checks: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[str] = ()


def read_record(folder: Path) -> Record:
    """A run from its folder; `InvalidInput` if it holds no verdict that can be read."""
    try:
        document = read_verdict(folder)
    except Unreadable as error:
        raise InvalidInput(f"{folder}: {error}") from None
    missing: list[str] = []
    return Record(
        document,
        _timeline(folder / "timeline.jsonl", missing),
        _levels(folder, document, missing),
        {str(k): str(v) for k, v in (document["run"].get("zones") or {}).items()},
        _checks(folder / "checks.json", missing),
        tuple(missing),
    )


def _timeline(path: Path, missing: list[str]) -> Timeline:
    try:
        return Timeline.load(path)
    except OSError as error:
        missing.append(f"{path.name} can't be read: {error.strerror}")
    except (InvalidInput, KeyError, TypeError, ValueError, AttributeError) as error:
        why = str(error) if isinstance(error, InvalidInput) else "it is damaged"
        missing.append(f"{path.name} can't be read: {why}")
    return Timeline()


def _levels(folder: Path, document: Mapping[str, Any], missing: list[str]) -> Levels:
    """As written down; of an older run by the name that its experiment gave, if it ships."""
    try:
        if said := document["run"].get("levels"):
            return parse_levels(said, "verdict.json")
        journal = json.loads((folder / "journal.json").read_text(encoding="utf-8"))
        return load_levels(journal["experiment"]["configuration"].get("levels", "lab"))
    except (InvalidInput, OSError, ValueError, KeyError, TypeError, AttributeError):
        missing.append("the run's levels are not written down")
        return Levels("unknown", "e2e", document["rto_objective_s"], {}, {})


def _checks(path: Path, missing: list[str]) -> list[Mapping[str, Any]]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return []  # no probe looked
    except ValueError:
        missing.append(f"{path.name} is damaged")
        return []
    return [one for one in said if isinstance(one, Mapping)] if isinstance(said, list) else []
