"""What many runs of one experiment say together: distribution, trend, claim, regressions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from math import ceil, exp, inf, isfinite, sqrt
from statistics import NormalDist, median
from typing import Any

from aftershock.history.claims import at_least as claimed
from aftershock.history.claims import clean_runs_needed, interval
from aftershock.history.journal import PastRun

FEWEST_FOR_TREND, MOST_FOR_TREND = 8, 1000  # pairs of runs are compared
SURE = 0.05  # a trend or shift that chance alone would show as often is none
# Different in every run, and none of them a reason for anything.
_INCIDENTAL = ("gateway_port", "experiment")


@dataclass(frozen=True, slots=True)
class Claim:
    """What is asked: that `share` of recoveries take `objective_s` at most, with `confidence`.

    `objective_s` None: each run's own objective.
    """

    objective_s: float | None = None
    share: float = 0.95
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class Change:
    """What is otherwise after a regression: `what` is version or variable."""

    what: str
    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Regression:
    """It got worse between two runs; `kind`: missed (the first that missed), slower (a shift)."""

    kind: str
    before: PastRun
    after: PastRun
    text: str
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Assessment:
    """Runs of one experiment on one target. Times are seconds; inf: did not come back in time.

    `decided` are the runs that tell whether they met the objective, `within` those that did.
    `lower`, `upper`: the exact two-sided interval of their share. `claimed_share`: what may be
    claimed, one-sided. `needed`: clean runs still needed; 0: the claim holds; None: out of reach.
    """

    experiment: str
    target: str
    claim: Claim
    runs: tuple[PastRun, ...]
    inconclusive: int
    undecided: int
    decided: int
    within: int
    lower: float
    upper: float
    claimed_share: float
    needed: int | None
    times: tuple[float, ...]
    slope_s: float | None
    trend_chance: float | None
    regressions: tuple[Regression, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether the claim may be made."""
        return self.needed == 0

    @property
    def worst(self) -> PastRun | None:
        """The slowest recovery."""
        timed = [run for run in self.runs if time_of(run) is not None]
        return max(timed, key=lambda run: (time_of(run) or 0.0, run.censored_s or 0), default=None)

    @property
    def median(self) -> float | None:
        return median(self.times) if self.times else None

    def quantile(self, share: float) -> float | None:
        """The time that this share of the runs did not exceed (nearest rank)."""
        ordered = sorted(self.times)
        return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else None


def assess(runs: Iterable[PastRun], claim: Claim) -> list[Assessment]:
    """One assessment for each experiment and target: the lab's times say nothing of another's."""
    groups: dict[tuple[str, str], list[PastRun]] = {}
    for run in runs:
        groups.setdefault((run.experiment, run.target), []).append(run)
    return [_assess(name, target, held, claim) for (name, target), held in sorted(groups.items())]


def time_of(run: PastRun) -> float | None:
    """A run's recovery time; inf: not back while it was waited for; None: not measured.

    INCONCLUSIVE runs have none: their faults, their load or their clocks can't be relied on.
    """
    if run.verdict == "INCONCLUSIVE":
        return None
    if run.rto_s is not None:
        return run.rto_s
    return inf if run.censored_s is not None else None


def _assess(experiment: str, target: str, runs: Sequence[PastRun], claim: Claim) -> Assessment:
    told = [(run, run.within(claim.objective_s or run.objective_s)) for run in runs]
    decided = [good for _, good in told if good is not None]
    inconclusive = sum(run.verdict == "INCONCLUSIVE" for run in runs)
    good, count = sum(decided), len(decided)
    timed = [(run, at) for run in runs if (at := time_of(run)) is not None]
    times, late = [at for _, at in timed], timed[-MOST_FOR_TREND:]
    slope, chance = trend([at for _, at in late])
    lower, upper = interval(good, count, claim.confidence)
    return Assessment(
        experiment,
        target,
        claim,
        tuple(runs),
        inconclusive,
        undecided=len(runs) - inconclusive - count,
        decided=count,
        within=good,
        lower=lower,
        upper=upper,
        claimed_share=claimed(good, count, claim.confidence),
        needed=clean_runs_needed(good, count, claim.share, claim.confidence),
        times=tuple(times),
        slope_s=slope,
        trend_chance=chance,
        regressions=(*_missed(told), *_slower(late)),
    )


def trend(times: Sequence[float]) -> tuple[float | None, float | None]:
    """Seconds a run (Theil and Sen's median of slopes), and how often chance alone shows as much.

    The chance is of Mann and Kendall's test, two-sided, by its normal approximation with the
    correction for ties (Kendall 1975); (None, None) with fewer runs than it is good for.
    """
    count = len(times)
    if count < FEWEST_FOR_TREND:
        return None, None
    score, slopes = 0, []
    for first, second in combinations(range(count), 2):
        rise = 0.0 if times[first] == times[second] else times[second] - times[first]
        score += (rise > 0) - (rise < 0)
        slopes.append(rise / (second - first))
    ties = [times.count(value) for value in set(times)]
    spread = _spread(count) - sum(map(_spread, ties))
    if spread <= 0:
        return 0.0, 1.0
    away = max(0, abs(score) - 1) / sqrt(spread / 18)
    return median(slopes), 2 * (1 - NormalDist().cdf(away))


def _spread(count: int) -> int:
    return count * (count - 1) * (2 * count + 5)


def _missed(told: Sequence[tuple[PastRun, bool | None]]) -> list[Regression]:
    """Each first run that missed after one that didn't; undecided ones between them don't count."""
    decided = [(run, good) for run, good in told if good is not None]
    found = []
    for (before, was_good), (after, is_good) in pairwise(decided):
        if was_good and not is_good:
            text = after.why or "missed its objective"
            found.append(Regression("missed", before, after, text, changes(before, after)))
    return found


def _slower(timed: Sequence[tuple[PastRun, float]]) -> list[Regression]:
    """Where recovery times took a step up, if they did (Pettitt 1979)."""
    times = [at for _, at in timed]
    split = step_up(times)
    if split is None:
        return []
    (before, _), (after, _) = timed[split - 1], timed[split]
    was, now = median(times[:split]), median(times[split:])
    slower = f"{now:.2f} s" if isfinite(now) else "not back in time"
    text = f"the median went from {was:.2f} s in {split} runs to {slower} in {len(times) - split}"
    return [Regression("slower", before, after, text, changes(before, after))]


def step_up(times: Sequence[float]) -> int | None:
    """The index of the first run after a step up, or None where chance would show as much."""
    count = len(times)
    if count < FEWEST_FOR_TREND:
        return None

    # scores[n]: pairs across a split after n runs that rise, less those that fall
    scores = [0]
    for value in times[:-1]:
        scores.append(scores[-1] + sum((one > value) - (one < value) for one in times))
    split = max(range(1, count), key=scores.__getitem__)
    chance = 2 * exp(-6 * scores[split] ** 2 / (count**3 + count**2))
    return split if scores[split] > 0 and chance < SURE else None


def changes(before: PastRun, after: PastRun) -> tuple[Change, ...]:
    """Versions and variables that are not the same in two runs."""
    return (
        *_changes("version", before.versions, after.versions),
        *_changes("variable", before.variables, after.variables),
    )


def _changes(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[Change]:
    if not before or not after:  # one of the two did not write them down
        return
    say: Callable[[Any], str] = lambda value: "absent" if value is None else str(value)  # noqa: E731
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was != now and name not in _INCIDENTAL:
            yield Change(what, name, say(was), say(now))
