"""`aftershock rto`, `report` and `journal`: which runs are meant, and what is told of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aftershock.errors import InvalidInput, Unsupported
from aftershock.history import words
from aftershock.history.assess import Assessment, Claim, assess
from aftershock.history.journal import Journal, PastRun, read_journal
from aftershock.run.folder import RunFolder, journal_root


@dataclass(frozen=True, slots=True)
class Look:
    """What was asked of a journal, and what was found."""

    journal: Journal
    found: tuple[Assessment, ...]
    required: bool

    @property
    def holds(self) -> bool:
        """Whether what was required may be claimed; True if nothing was."""
        return not self.required or (bool(self.found) and all(one.holds for one in self.found))

    @property
    def left_out(self) -> list[str]:
        """A line for each folder that was not read."""
        return words.left_out(self.journal)

    def lines(self) -> list[str]:
        """For a terminal."""
        return list(words.lines(self.found))

    def as_json(self) -> str:
        """For machines."""
        told = {**words.as_data(self.found, self.journal), "holds": self.holds}
        return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False)

    def write_page(self, name: str) -> str:
        """The history page, under this name or as rto.html in the journal; its path."""
        from aftershock.history.page import history_page

        path = Path(name).absolute() if name else self.journal.root / "rto.html"
        try:
            path.write_text(history_page(self.found, self.journal, path), encoding="utf-8")
        except OSError as error:
            raise InvalidInput(f"{path} can't be written: {error.strerror}") from None
        return str(path)


def look(
    journal: str | None = None,
    experiment: str | None = None,
    target: str | None = None,
    since: str | None = None,
    require: str | None = None,
    share: float = 0.95,
    confidence: float = 0.95,
) -> Look:
    """Read the journal and assess the runs that are meant; `InvalidInput` if there are none."""
    for name, value in (("share", share), ("confidence", confidence)):
        if not 0 < value < 1:
            raise InvalidInput(f"--{name} is {value:g}: give a share between 0 and 1, such as 0.95")
    claim = Claim(words.seconds(require) if require is not None else None, share, confidence)
    begin = words.since(since) if since else None
    read = read_journal(_root(journal))
    runs = _chosen(read.runs, "experiment", experiment)
    runs = _chosen(runs, "target", target)
    runs = [run for run in runs if begin is None or run.started >= begin]
    if not runs:
        when = f" since {since}" if since else ""
        more = ""
        if read.left_out:
            (name, why), count = read.left_out[0], len(read.left_out)
            more = f" ({count} left out, such as {name}: {why})"
        raise InvalidInput(f"no run under {read.root}{when}{more}: nothing can be claimed")
    return Look(read, tuple(assess(runs, claim)), require is not None)


def render_anew(name: str, journal: str | None = None, show: bool = False) -> list[str]:
    """Write every form of a run's report into its folder; the files, and what is missing.

    `show`: open the page in the user's browser. `InvalidInput`: no such run, or no verdict.
    """
    from aftershock.report.forms import FORMS, PICTURES
    from aftershock.report.record import read_record

    folder = _folder(name, journal)
    record = read_record(folder)
    forms: dict[str, str | bytes] = {}
    missing = list(record.missing)
    try:
        for file, form in (FORMS | PICTURES).items():
            try:
                forms[file] = form(record)
            except Unsupported as error:
                missing.append(str(error))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"{folder}: verdict.json is damaged ({what})") from None
    try:
        written = [
            RunFolder(folder).write_bytes(file, said.encode() if isinstance(said, str) else said)
            for file, said in forms.items()
        ]
    except OSError as error:
        raise InvalidInput(f"{folder} can't be written: {error.strerror}") from None
    told = [*map(str, written), *(f"not in it: {line}" for line in missing)]
    if show:
        import webbrowser

        if not webbrowser.open(written[0].as_uri()):
            told.append("no browser could be started here: open the first file yourself")
    return told


def _root(journal: str | None) -> Path:
    return Path(journal).absolute() if journal else journal_root()


def _folder(name: str, journal: str | None) -> Path:
    """A run's folder, by its path or by its name in the journal."""
    inside = _root(journal) / name
    for path in (inside, Path(name).absolute()):
        if path.is_dir():
            return path.resolve()
    raise InvalidInput(f"there is no run {name!r}: neither {inside} nor a folder of that path")


def _chosen(runs: Iterable[PastRun], what: str, name: str | None) -> list[PastRun]:
    """Those of that experiment or target; `InvalidInput` names the ones there are."""
    held = list(runs)
    known = sorted({str(getattr(run, what)) for run in held})
    if name is not None and held and name not in known:
        raise InvalidInput(f"--{what} {name!r}: the journal has {', '.join(known)}")
    return [run for run in held if name is None or getattr(run, what) == name]


def prune(
    journal: str | None, last: int | None, age: str | None, failed: bool, thin: bool, dry: bool
) -> Iterator[str]:
    """Let old runs go as retention says; a line for each, and what stays."""
    from aftershock.history import prune as pruning

    retention = pruning.Retention(last, words.seconds(age) if age else None, failed)
    read = read_journal(_root(journal))
    plan = pruning.plan(read, retention)
    kept = ", ".join(f"{count} {why}" for why, count in sorted(plan.kept.items()))
    yield f"{len(plan.going)} to go, {plan.kept.total()} kept" + (f": {kept}" if kept else "")
    yield from pruning.carry_out(read, plan.going, thin, dry)
