"""`aftershock journal prune`: old runs go as retention says, and never what is still needed.

Kept whatever retention says: of each experiment and target the last run, what `latest` points at,
runs that did not pass (unless told), and every folder that can't be read: it may be a run that goes
on, one to recover, or no run of ours.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aftershock.errors import InvalidInput
from aftershock.history.journal import Journal, PastRun
from aftershock.slo.verdict import PASS

BULK = ("timeline.jsonl", "journal.json", "logs")
_GOING = ".pruned-"  # renamed first: a prune that is killed leaves no half run to be read


@dataclass(frozen=True, slots=True)
class Retention:
    """What to keep: the newest `last` runs of each experiment and target, and those younger than
    `age_s` seconds; a run goes that neither keeps. `failed`: those that did not pass go, too.
    """

    last: int | None = None
    age_s: float | None = None
    failed: bool = False

    def __post_init__(self) -> None:
        if self.last is None and self.age_s is None:
            raise InvalidInput(
                "say what to keep: --keep-last 20, --keep-for 90d, or both (a run that either "
                "keeps stays)"
            )
        if self.last is not None and self.last < 1:
            raise InvalidInput(f"--keep-last is {self.last}: the last run always stays; give 1")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which runs go, and how many stay, by reason."""

    going: tuple[PastRun, ...]
    kept: Counter[str]


def plan(journal: Journal, retention: Retention, now: datetime | None = None) -> Plan:
    """What would be done; nothing is touched."""
    places: Counter[tuple[str, str]] = Counter()
    going, kept = [], Counter[str]()
    latest = journal.root / "latest"
    newest = latest.resolve() if latest.is_symlink() else None
    for run in reversed(journal.runs):
        place = (run.experiment, run.target)
        places[place] += 1
        why = _why_kept(run, places[place], retention, now or datetime.now(UTC))
        if not why and newest == run.folder.resolve():
            why = "the last run"
        if why:
            kept[why] += 1
        else:
            going.append(run)
    if journal.left_out:
        kept["not readable as a run"] = len(journal.left_out)
    return Plan(tuple(reversed(going)), kept)


def _why_kept(run: PastRun, place: int, retention: Retention, now: datetime) -> str:
    """Why a run stays, the `place`th newest of its experiment; empty: it goes."""
    if place == 1:
        return "the last run"
    if run.verdict != PASS and not retention.failed:
        return "did not pass"
    if retention.last is not None and place <= retention.last:
        return f"among the newest {retention.last}"
    if retention.age_s is not None and now - run.started < timedelta(seconds=retention.age_s):
        return "young enough"
    return ""


def carry_out(
    journal: Journal, going: Sequence[PastRun], thin: bool = False, dry: bool = False
) -> Iterator[str]:
    """Remove the runs, or with `thin` only what is bulky in them; a line each, and the sum."""
    freed = failed = 0
    for run in going:
        parts = [run.folder / name for name in BULK] if thin else [run.folder]
        parts = [part for part in parts if part.exists()]
        size = sum(map(_size, parts))
        if not parts:
            continue
        try:
            if not dry:
                _remove(parts, thin)
        except OSError as error:
            failed += 1
            yield f"{run.name} can't be removed: {error.filename}: {error.strerror}"
            continue
        freed += size
        done = ("would be " if dry else "") + ("thinned" if thin else "removed")
        yield f"{done} {run.name}: {run.verdict}, {size / 1e6:.1f} MB"
    if not dry:
        for rest in journal.root.glob(f"{_GOING}*"):
            shutil.rmtree(rest, ignore_errors=True)
    yield f"{freed / 1e6:.1f} MB {'would be ' if dry else ''}freed"
    if failed:
        raise InvalidInput(f"{failed} of {len(going)} runs can't be removed: run it as their owner")


def _remove(parts: Sequence[Path], thin: bool) -> None:
    for part in parts:
        if thin:
            folder = part.is_dir() and not part.is_symlink()
            shutil.rmtree(part) if folder else part.unlink()
        else:
            shutil.rmtree(part.rename(part.with_name(f"{_GOING}{part.name}")))


def _size(path: Path) -> int:
    """Bytes in it, by the files' own lengths."""
    total = 0
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        with contextlib.suppress(OSError):
            total += one.lstat().st_size if one.is_file() else 0
    return total
