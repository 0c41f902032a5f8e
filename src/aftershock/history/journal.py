"""The runs of a journal, from their verdicts; what can't be read is told, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aftershock.errors import InvalidInput
from aftershock.run.folder import GAME_DAYS
from aftershock.slo.reading import Unreadable, read_verdict
from aftershock.slo.verdict import INCONCLUSIVE, PASS


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run as its verdict tells it. Times are seconds; `started` is UTC."""

    folder: Path
    experiment: str
    target: str
    started: datetime
    verdict: str
    codes: tuple[str, ...]
    objective_s: float
    rto_s: float | None
    error_s: float
    censored_s: float | None
    state: str | None
    versions: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    def within(self, objective_s: float) -> bool | None:
        """Whether service was back within so many seconds; None: this run can't tell.

        True needs the whole interval within and a verdict without any reason but the time. An
        INCONCLUSIVE run tells nothing. A run that failed otherwise is no success, however fast.
        """
        if self.verdict == INCONCLUSIVE:
            return None
        if set(self.codes) - {"rto_missed"}:
            return False
        if self.rto_s is None:
            waited = self.censored_s or 0.0
            return False if waited >= objective_s else None
        if self.rto_s - self.error_s > objective_s:
            return False
        held = self.verdict == PASS or self.state == "back"
        return True if held and self.rto_s + self.error_s <= objective_s else None


@dataclass(frozen=True, slots=True)
class Journal:
    """All runs, oldest first, and (folder, why) of those that are left out."""

    root: Path
    runs: tuple[PastRun, ...]
    left_out: tuple[tuple[str, str], ...]


def read_journal(root: Path) -> Journal:
    """Read every run's folder; `InvalidInput` if there is no journal."""
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError as error:
        raise InvalidInput(
            f"no journal under {root} ({error.strerror}): give --journal, set AFTERSHOCK_JOURNAL, "
            "or go where the runs were made"
        ) from None
    runs, left_out = [], []
    for folder in folders:
        if folder.name.startswith(".") or folder.name == GAME_DAYS:
            continue
        try:
            runs.append(read_run(folder))
        except Unreadable as error:
            left_out.append((folder.name, str(error)))
    runs.sort(key=lambda run: (run.started, run.name))
    return Journal(root, tuple(runs), tuple(left_out))


def read_run(folder: Path) -> PastRun:
    """One run; `Unreadable` says why not."""
    said = read_verdict(folder)
    run = said["run"]
    reasons = [one for one in said["reasons"] if isinstance(one, Mapping)]
    variables = run.get("variables")
    return PastRun(
        folder=folder,
        experiment=str(run.get("experiment") or folder.name),
        target=said["target"],
        started=_started(folder, run),
        verdict=said["verdict"],
        codes=tuple(str(reason.get("code")) for reason in reasons),
        objective_s=float(said["rto_objective_s"]),
        rto_s=said["service_rto_s"],
        error_s=float(said["service_rto_error_s"] or 0.0),
        censored_s=said["service_rto_censored_s"],
        state=said["service_state"],
        versions={str(k): str(v) for k, v in said["versions"].items()},
        variables=dict(variables) if isinstance(variables, Mapping) else {},
        why=str(reasons[0].get("text", "")) if reasons else "",
    )


def _started(folder: Path, run: Mapping[str, Any]) -> datetime:
    try:
        told = datetime.fromisoformat(str(run.get("started_at")))
        return told if told.tzinfo else told.replace(tzinfo=UTC)
    except ValueError:  # a folder that somebody renamed
        written = (folder / "verdict.json").stat().st_mtime
        return datetime.fromtimestamp(written, UTC)
