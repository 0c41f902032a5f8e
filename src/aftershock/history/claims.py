"""What so many runs allow to claim: exact binomial bounds (Clopper and Pearson 1934), by bisection.

Each bound is where a tail of the binomial distribution has exactly the allowed chance. That tail is
monotone in the probability, so halving an interval finds it to the last digit of a float.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, fsum, inf, lgamma, log, log1p

MOST_RUNS = 1_000_000


def at_most(successes: int, runs: int, chance: float) -> float:
    """The probability of at most so many successes in `runs` runs, each with that chance."""
    if successes < 0:
        return 0.0
    if successes >= runs or chance <= 0:
        return 1.0
    if chance >= 1:
        return 0.0
    yes, no, whole = log(chance), log1p(-chance), lgamma(runs + 1)
    terms = (
        exp(whole - lgamma(k + 1) - lgamma(runs - k + 1) + k * yes + (runs - k) * no)
        for k in range(successes + 1)
    )
    return min(1.0, fsum(terms))


def interval(successes: int, runs: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a share; (0, 1) for no run at all."""
    tail = (1 - confidence) / 2
    return _lower(successes, runs, tail), 1 - _lower(runs - successes, runs, tail)


def at_least(successes: int, runs: int, confidence: float = 0.95) -> float:
    """The share that is reached at least, one-sided: what may be claimed with that confidence."""
    return _lower(successes, runs, 1 - confidence)


def clean_runs_needed(
    successes: int, runs: int, share: float = 0.95, confidence: float = 0.95
) -> int | None:
    """How many more runs, all of them successes, until `share` may be claimed; 0: it may be now.

    59 from nothing for 95 % with 95 % confidence, since 0.95^59 < 0.05. None: more than a million.
    """
    misses = runs - successes

    def enough(more: int) -> bool:
        # With a true share at the bound, so few misses would come this seldom.
        return at_most(misses, runs + more, 1 - share) <= 1 - confidence

    more = 0
    while not enough(more):
        more = 2 * more + 1
        if more > MOST_RUNS:
            return None
    low = more // 2  # the one tried before, which wasn't enough
    while more - low > 1:
        middle = (low + more) // 2
        low, more = (low, middle) if enough(middle) else (middle, more)
    return more


def _lower(successes: int, runs: int, tail: float) -> float:
    """The share below which so many successes or more would have come in fewer than `tail`."""
    if successes <= 0:
        return 0.0
    return _where(lambda chance: at_most(runs - successes, runs, 1 - chance) >= tail)


def _where(holds: Callable[[float], bool]) -> float:
    """The least probability from which on it holds."""
    low, high, width = 0.0, 1.0, inf
    while high - low < width:  # until floats are no finer
        width = high - low
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low
