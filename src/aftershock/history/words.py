"""What runs say together, as lines for a terminal and as plain data for machines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

from aftershock.errors import InvalidInput
from aftershock.history.assess import FEWEST_FOR_TREND, SURE, Assessment, Regression
from aftershock.history.journal import Journal, PastRun

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
RUN_LINE = "  {:<20} {:>18}  {:>9}  {}"


def seconds(text: str) -> float:
    """`15`, `15s`, `500ms`, `2m`, `1h`, `7d`, `2w` in seconds; `InvalidInput` for anything else."""
    found = _LENGTH.fullmatch(text.strip().lower())
    unit = _UNITS.get(found[2] or "s") if found else None
    if found is None or unit is None or not float(found[1]):
        raise InvalidInput(f"{text!r} is no length of time: give one like 15s, 500ms, 2m or 7d")
    return float(found[1]) * unit


def since(text: str, now: datetime | None = None) -> datetime:
    """`7d` (so long ago), `2026-11-01`, or a full ISO time; UTC unless it says otherwise."""
    try:
        told = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return (now or datetime.now(UTC)) - timedelta(seconds=seconds(text))
        except (InvalidInput, OverflowError):
            raise InvalidInput(
                f"--since {text!r}: give a day like 2026-11-01, a time like 2026-11-01T09:00Z, "
                "or how long ago, like 7d"
            ) from None
    return told if told.tzinfo else told.replace(tzinfo=UTC)


def lines(found: Iterable[Assessment]) -> Iterator[str]:
    """Everything, one experiment after the other."""
    for number, one in enumerate(found):
        if number:
            yield ""
        yield from _lines(one)


def left_out(journal: Journal) -> list[str]:
    """The folders that were not read, each with its reason."""
    return [f"left out {name}: {why}" for name, why in journal.left_out]


def clock(run: PastRun) -> str:
    """When it began, in UTC."""
    return run.started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def measured(run: PastRun) -> str:
    """A run's recovery time with its error."""
    if run.rto_s is not None:
        return f"{run.rto_s:.2f} s ± {run.error_s:.2f}"
    return f"> {run.censored_s:g} s" if run.censored_s is not None else "not measured"


def within(one: Assessment) -> str:
    """The share within the objective, with its interval."""
    percent = f"{100 * one.claim.confidence:.4g} %"
    told = f"{one.within} of {one.decided} runs"
    if one.decided:
        told += f" = {100 * one.within / one.decided:.1f} %"
    told += f" (exact {percent} interval: {100 * one.lower:.1f} to {100 * one.upper:.1f} %)"
    return told


def apart(one: Assessment) -> str:
    """What is not among the decided runs."""
    told = []
    if one.inconclusive:
        told.append(f"{one.inconclusive} INCONCLUSIVE")
    if one.undecided:
        told.append(f"{one.undecided} that can't tell: their error or their end straddles it")
    return ", ".join(told)


def claim(one: Assessment) -> str:
    """Whether it may be claimed, and what it takes."""
    asked = f"{100 * one.claim.share:.4g} % with {100 * one.claim.confidence:.4g} % confidence"
    if one.needed == 0:
        return f"holds: at least {asked} (it is {100 * one.claimed_share:.1f} % by these runs)"
    so_far = f"these runs show {100 * one.claimed_share:.1f} %"
    if one.needed is None:
        return f"not {asked}: more than a million clean runs would be needed; {so_far}"
    runs = "1 more clean run is" if one.needed == 1 else f"{one.needed:,} more clean runs are"
    return f"not yet: {runs} needed to claim {asked}; {so_far}"


def objective(one: Assessment) -> str:
    """What the share is counted against."""
    if one.claim.objective_s is not None:
        return f"{one.claim.objective_s:g} s"
    own = sorted({run.objective_s for run in one.runs})
    return f"{own[0]:g} s" if len(own) == 1 else "its own objective"


def distribution(one: Assessment) -> str:
    """Median, ninth decile and worst."""
    if not one.times or one.worst is None:
        return "no recovery was measured"
    figures = [("least", min(one.times)), ("median", one.median)]
    if len(one.times) >= 10:
        figures.append(("90 % within", one.quantile(0.9)))
    told = ", ".join(f"{name} {span(value)}" for name, value in figures)
    return f"{told}, worst {measured(one.worst)} in {one.worst.name}"


def trend(one: Assessment) -> str:
    """Whether recovery gets slower or faster."""
    if one.trend_chance is None or one.slope_s is None:
        return (
            f"unknown: of {FEWEST_FOR_TREND} measured runs it could be told, here {len(one.times)}"
        )
    chance = f"chance alone shows as much in {100 * one.trend_chance:.2g} % of cases"
    if one.trend_chance >= SURE:
        return f"none seen ({chance})"
    way = "slower" if one.slope_s > 0 else "faster"
    return f"{way} by {abs(one.slope_s):.3g} s a run ({chance})"


def span(value: float | None) -> str:
    """Seconds; what never came is told as such."""
    if value is None:
        return "–"
    return f"{value:.2f} s" if isfinite(value) else "not back in time"


def regression(found: Regression) -> list[str]:
    """What got worse between which runs, and what was changed."""
    word = {"missed": "first miss", "slower": "a step up"}[found.kind]
    told = [f"{word} after {found.before.name}: {found.after.name}: {found.text}"]
    for change in found.changes:
        told.append(f"  {change.what} {change.name}: {change.before} → {change.after}")
    if not found.changes:
        known = found.before.variables and found.after.variables
        nothing = "no version or variable is otherwise" if known else "versions are the same"
        told.append(f"  {nothing}" + ("" if known else "; variables were not written down"))
    return told


def _lines(one: Assessment) -> Iterator[str]:
    count = len(one.runs)
    yield f"{one.experiment} on {one.target}: {count} run{'s' * (count != 1)}"
    yield RUN_LINE.format("began (UTC)", "RTO", "objective", "verdict")
    for run in one.runs:
        why = f"  {run.why}" if run.why else ""
        verdict = f"{run.verdict}{why}"
        yield RUN_LINE.format(clock(run), measured(run), f"{run.objective_s:g} s", verdict)
    yield f"  distribution  {distribution(one)}"
    yield f"  trend         {trend(one)}"
    beside = apart(one)
    yield f"  within {objective(one)}: {within(one)}" + (f"; apart: {beside}" if beside else "")
    yield f"  claim         {claim(one)}"
    for found in one.regressions:
        first, *more = regression(found)
        yield f"  regression    {first}"
        yield from (f"                {line}" for line in more)


def as_data(found: Iterable[Assessment], journal: Journal) -> dict[str, Any]:
    """The same for machines; null for a time that did not come."""
    return {
        "schema_version": 1,
        "journal": str(journal.root),
        "experiments": [_experiment(one) for one in found],
        "left_out": [{"folder": name, "why": why} for name, why in journal.left_out],
    }


def _experiment(one: Assessment) -> dict[str, Any]:
    return {
        "experiment": one.experiment,
        "target": one.target,
        "objective_s": one.claim.objective_s,
        "required_share": one.claim.share,
        "confidence": one.claim.confidence,
        "runs": [_run(run, one) for run in one.runs],
        "inconclusive": one.inconclusive,
        "undecided": one.undecided,
        "decided": one.decided,
        "within": one.within,
        "share_interval": [one.lower, one.upper],
        "claimed_share": one.claimed_share,
        "clean_runs_needed": one.needed,
        "claim_holds": one.holds,
        "median_s": _finite(one.median),
        "p90_s": _finite(one.quantile(0.9)),
        "worst": one.worst.name if one.worst else None,
        "trend_s_per_run": _finite(one.slope_s),
        "trend_chance": one.trend_chance,
        "regressions": [
            {
                "kind": each.kind,
                "before": each.before.name,
                "after": each.after.name,
                "text": each.text,
                "changes": [
                    {"what": c.what, "name": c.name, "before": c.before, "after": c.after}
                    for c in each.changes
                ],
            }
            for each in one.regressions
        ],
    }


def _run(run: PastRun, one: Assessment) -> dict[str, Any]:
    return {
        "folder": run.name,
        "started_at": run.started.isoformat(),
        "verdict": run.verdict,
        "reasons": list(run.codes),
        "objective_s": run.objective_s,
        "rto_s": run.rto_s,
        "error_s": run.error_s,
        "censored_s": run.censored_s,
        "within": run.within(one.claim.objective_s or run.objective_s),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
