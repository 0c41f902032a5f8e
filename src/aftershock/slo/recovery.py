"""Is the service back, and since when: the recovery time with its measuring error.

Windows decide *whether*: 5 s wide, every 0.5 s, all within the level up to the hold. Single
outcomes decide *when*: the changepoint after which no more requests go bad than in the steady
state, with its 95 % interval, for each source of samples. Pure functions over a timeline; called
again and again while a run lasts, and once at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any

from aftershock.slo.levels import TOLERATED, Levels
from aftershock.slo.moments import Run, gaps, returned
from aftershock.slo.objectives import violations
from aftershock.slo.timeline import Timeline

WAITING, FAILING, HOLDING = "waiting", "failing", "holding"
BACK, GIVEN_UP, ENDED = "back", "given_up", "ended"
_SILENT_S = 2.0  # a source that reports nothing for so long is gone


@dataclass(frozen=True, slots=True)
class Terms:
    """What counts as back. Giving up defaults to twice the objective, at least 30 s."""

    objective_s: float = 15.0
    hold_s: float = 15.0
    window_s: float = 5.0
    step_s: float = 0.5
    give_up_s: float | None = None

    @property
    def patience_s(self) -> float:
        return max(30.0, 2 * self.objective_s) if self.give_up_s is None else self.give_up_s


@dataclass(frozen=True, slots=True)
class Recovery:
    """What is known of a recovery so far; times in seconds after `since` unless named `at`.

    `state`: waiting (nothing decided yet), failing, holding (good, but not for the whole hold),
    back, given_up, or ended (what was to recover under ended first: the fault was healed).
    `rto_s` with `error_s` when holding or back; 0 with the resolution when nothing ever went bad.
    `censored_s`: not within so many seconds. `gaps` are stretches (source, from, to) without
    samples. `per_source`: each source's own recovery time and counts.
    """

    since: float
    state: str
    rto_s: float | None = None
    error_s: float | None = None
    decided_by: str | None = None
    undisturbed: bool = False
    first_bad_s: float | None = None
    first_bad_error_s: float | None = None
    held_s: float = 0.0
    censored_s: float | None = None
    relapses_s: tuple[float, ...] = ()
    gaps: tuple[tuple[str, float, float], ...] = ()
    broken: tuple[str, ...] = ()
    lowest_rps: float | None = None
    enough_samples: bool = True
    per_source: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def final(self) -> bool:
        return self.state in (BACK, GIVEN_UP, ENDED)

    @property
    def back(self) -> bool:
        return self.state == BACK

    @property
    def interval_s(self) -> tuple[float, float] | None:
        if self.rto_s is None or self.error_s is None:
            return None
        return max(self.rto_s - self.error_s, 0.0), self.rto_s + self.error_s

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Case:
    timeline: Timeline
    levels: Levels
    terms: Terms
    since: float
    now: float
    until: float
    level: str
    steady_until: float


def assess(
    timeline: Timeline,
    levels: Levels,
    terms: Terms,
    since: float,
    *,
    now: float,
    until: float = inf,
    level: str = TOLERATED,
    steady_until: float | None = None,
) -> Recovery:
    """How the service stands at `now`, recovering from what began at `since` and ends at `until`.

    What is usual is told by the time before `steady_until`: before `since` unless given, as it must
    be for a heal. Once the generators have stopped, `now` is `timeline.horizon()`.
    """
    steady = since if steady_until is None else steady_until
    case = _Case(timeline, levels, terms, since, now, until, level, steady)
    gone = [s for s in timeline.sources if now - timeline.horizon(s) > _SILENT_S + levels.limit_s]
    alive = [s for s in timeline.sources if s not in gone]
    end = min([until, now, *(timeline.horizon(s) for s in alive or gone)])
    windows = _windows(case, end)
    known: dict[str, Any] = {"gaps": gaps(timeline, since, min(now, until), gone)}
    if not windows:
        return _not_back(case, end, known) if end >= until else Recovery(since, WAITING, **known)
    rates = (timeline.window(at, at + terms.window_s).throughput_rps for at, _ in windows)
    known["lowest_rps"] = round(min(rates), 3)
    for run in _runs(windows, terms):
        if run.again:
            relapse = round((run.block or since) + terms.window_s - terms.step_s - since, 3)
            known["relapses_s"] = (*known.get("relapses_s", ()), relapse)
        last = run.end == windows[-1][0] + terms.window_s
        if not last and run.end - run.start < terms.hold_s:
            continue
        found = {**known, **returned(timeline, run, since, terms.step_s, steady)}
        if found["held_s"] >= terms.hold_s:
            return Recovery(since, BACK, **found)
        if last and end < until:
            return Recovery(since, HOLDING, **found)
        if last:
            return Recovery(since, ENDED, **found, censored_s=round(end - since, 3))
    known["broken"] = tuple(windows[-1][1])
    return _not_back(case, end, known)


def _not_back(case: _Case, end: float, known: Mapping[str, Any]) -> Recovery:
    lasted, patience = end - case.since, case.terms.patience_s
    blind = case.now - case.since > patience + 2 * case.terms.window_s  # nothing more is coming
    if lasted >= patience or blind:
        return Recovery(case.since, GIVEN_UP, censored_s=patience, **known)
    if end >= case.until:
        return Recovery(case.since, ENDED, censored_s=round(lasted, 3), **known)
    return Recovery(case.since, FAILING, **known)


_Judged = list[tuple[float, list[str]]]


def _windows(case: _Case, end: float) -> _Judged:
    """All windows from the effect to `end` that are complete, with what is broken in each."""
    width, step = case.terms.window_s, case.terms.step_s
    count = int((end - case.since - width) / step + 1e-6) + 1 if end - case.since >= width else 0
    starts = [case.since + i * step for i in range(count)]
    return [
        (at, violations(case.timeline, case.levels, case.level, at, at + width)) for at in starts
    ]


def _runs(windows: _Judged, terms: Terms) -> list[Run]:
    """The stretches of good windows, in order."""
    runs: list[Run] = []
    bad = block = None
    good = returned_before = False
    for at, broken in windows:
        if broken:
            if good or bad is None:
                block = at
                returned_before = good and bad is not None
            good, bad = False, at
        elif good:
            runs[-1] = replace(runs[-1], end=at + terms.window_s)
        else:
            good = True
            runs.append(Run(at, at + terms.window_s, bad, block, returned_before))
    return runs
