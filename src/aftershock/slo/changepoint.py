"""When an outage began and ended, and how sure that is: a changepoint posterior over outcomes.

Model: before S and after T requests go bad at the background rate, between them at a rate of the
outage's own. S and T are uniform over time (so also within the gap between two samples). The
outage's rate is unknown and uniform on (0, 1); the background's is Beta with the steady state's
counts on top of Jeffreys' prior. Both rates are integrated out, which leaves the posterior of T.
A fail-over often ends in steps (one server after another leaves rotation): then the last level's
own rate says how soon the next bad request would have come.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import exp, lgamma, log

_NEGLIGIBLE = 14.0  # a candidate e^14 times less likely than the best weighs nothing
_MOST = 100  # candidates kept for one changepoint
_STEP = 3.0  # log of how much likelier a step within the outage must be than none
_RARE = 0.01  # as many bad requests by chance alone, at the steady state's rate


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Decided requests by time: at `times[i]` there were `total[i]`, of them `bad[i]` bad."""

    times: Sequence[float]
    total: Sequence[int]
    bad: Sequence[int]

    def between(self, start: float, end: float) -> Outcomes:
        i, j = bisect_left(self.times, start), bisect_left(self.times, end)
        return Outcomes(self.times[i:j], self.total[i:j], self.bad[i:j])

    @property
    def count(self) -> int:
        return sum(self.total)

    @property
    def bad_count(self) -> int:
        return sum(self.bad)


@dataclass(frozen=True, slots=True)
class Moment:
    """A time with its 95 % interval; `at` is the interval's middle, `error` half its width."""

    at: float
    error: float

    @property
    def low(self) -> float:
        return self.at - self.error

    @property
    def high(self) -> float:
        return self.at + self.error

    @staticmethod
    def spanning(low: float, high: float) -> Moment:
        return Moment((low + high) / 2, (high - low) / 2)


@dataclass(frozen=True, slots=True)
class Outage:
    """When an outage began and when it ended."""

    began: Moment
    ended: Moment


class _Counts:
    """Likelihoods of any run of samples, from cumulated counts and tables of log-gamma."""

    def __init__(self, seen: Outcomes, steady: tuple[int, int]) -> None:
        self.bad = [0, *accumulate(seen.bad)]
        self.good = [0, *accumulate(n - b for n, b in zip(seen.total, seen.bad, strict=True))]
        self.size = len(seen.times)
        total = self.bad[-1] + self.good[-1]
        self.a, self.b = a, b = steady[0] + 0.5, steady[1] - steady[0] + 0.5
        self._factorial = _log_rising(1.0, total + 1)
        self._calm_bad = _log_rising(a, self.bad[-1])
        self._calm_good = _log_rising(b, self.good[-1])
        self._calm_all = _log_rising(a + b, total)

    def hurt(self, i: int, j: int) -> float:
        """Log-likelihood of samples i to j at one unknown rate, any rate being as likely."""
        bad, good = self.bad[j] - self.bad[i], self.good[j] - self.good[i]
        table = self._factorial
        return table[bad] + table[good] - table[bad + good + 1]

    def calm(self, i: int, j: int) -> float:
        """Log-likelihood of all samples but i to j at the background's rate."""
        bad = self.bad[i] + self.bad[-1] - self.bad[j]
        good = self.good[i] + self.good[-1] - self.good[j]
        return self._calm_bad[bad] + self._calm_good[good] - self._calm_all[bad + good]


def _log_rising(start: float, steps: int) -> list[float]:
    """log of start, start·(start+1), … : entry k is lgamma(start + k) - lgamma(start)."""
    return [0.0, *accumulate(log(start + k) for k in range(steps))]


def disturbed(seen: Outcomes, steady: tuple[int, int]) -> bool:
    """Whether there are more bad requests than the steady state (bad, total) explains.

    Where the steady state had none, one is enough; else the count must be one that chance gives in
    1 of 100 cases, or sit together so that an outage explains it better.
    """
    k, n = seen.bad_count, seen.count
    if k == 0:
        return False
    if steady[0] == 0 or _tail(k, n, *steady) < _RARE:
        return True
    counts = _Counts(seen, steady)
    gaps = _gaps(seen.times, seen.times[0], seen.times[-1])
    start = _heaviest(_starts(counts, gaps, _rough(counts)[1]))
    ends = _ends(counts, gaps, start)
    span = log(max(seen.times[-1] - seen.times[0], 1e-9))
    return _log_sum(ends) + log(max(gaps[start], 1e-12)) - 2 * span > counts.calm(0, 0)


def _tail(k: int, n: int, bad: int, total: int) -> float:
    """P(at least k of n go bad), the rate being what bad of total leaves open (beta-binomial)."""
    a, b = bad + 0.5, total - bad + 0.5
    whole = lgamma(a) + lgamma(b) - lgamma(a + b)
    below = 0.0
    for i in range(k):
        pick = lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1)
        below += exp(pick + lgamma(a + i) + lgamma(b + n - i) - lgamma(a + b + n) - whole)
    return 1.0 - below


def locate(seen: Outcomes, steady: tuple[int, int], start: float, end: float) -> Outage:
    """Where within [start, end] the outage lies; `seen` holds at least one bad request."""
    counts = _Counts(seen, steady)
    gaps = _gaps(seen.times, start, end)
    first, last = _rough(counts)
    for _ in range(4):  # alternate until both ends agree; two rounds nearly always do
        before = first, last
        first = _heaviest(_starts(counts, gaps, last))
        last = _heaviest(_ends(counts, gaps, first))
        if before == (first, last):
            break
    first, last = _widened(counts, gaps, first, last)
    edges = [start, *seen.times, end]
    begins = _split(counts, first, last, late=True)
    ceases = _split(counts, first, last, late=False)
    heads, tails = _joint(counts, gaps, (first, ceases), (begins, last))
    return Outage(_interval(heads, edges), _interval(tails, edges))


def _rough(counts: _Counts) -> tuple[int, int]:
    """The run of samples that stands out most: the best of a few rates' heaviest runs."""
    calm = counts.a / (counts.a + counts.b)
    rates = [q for q in (0.02, 0.1, 0.33, 0.9) if q > 2 * calm] or [(1 + calm) / 2]
    runs = [_heaviest_run(counts, log(q / calm), log((1 - q) / (1 - calm))) for q in rates]
    return max(runs, key=lambda run: counts.hurt(*run) + counts.calm(*run))


def _heaviest_run(counts: _Counts, per_bad: float, per_good: float) -> tuple[int, int]:
    """Kadane's algorithm: the run with the largest sum of weights."""
    best = value = -1e300
    run, start = (0, counts.size), 0
    for i in range(counts.size):
        if value <= 0:
            value, start = 0.0, i
        value += per_bad * (counts.bad[i + 1] - counts.bad[i])
        value += per_good * (counts.good[i + 1] - counts.good[i])
        if value > best:
            best, run = value, (start, i + 1)
    return run


def _gaps(times: Sequence[float], start: float, end: float) -> list[float]:
    edges = [start, *times, end]
    return [max(b - a, 1e-9) for a, b in pairwise(edges)]


_Weighed = list[tuple[int, float]]


def _starts(counts: _Counts, gaps: list[float], last: int) -> _Weighed:
    return [
        (i, log(gaps[i]) + counts.hurt(i, last) + counts.calm(i, last))
        for i in range(last)
        if counts.bad[last] > counts.bad[i]
    ] or [(0, 0.0)]


def _ends(counts: _Counts, gaps: list[float], first: int) -> _Weighed:
    return [
        (j, log(gaps[j]) + counts.hurt(first, j) + counts.calm(first, j))
        for j in range(first + 1, counts.size + 1)
        if counts.bad[j] > counts.bad[first]
    ] or [(counts.size, 0.0)]


def _widened(counts: _Counts, gaps: list[float], first: int, last: int) -> tuple[int, int]:
    """The outage with milder levels before and after, where the background can't explain them."""
    span = log(sum(gaps))
    for _ in range(4):
        plain = counts.calm(first, last) + span + _STEP
        later = [
            (j, log(gaps[j]) + counts.hurt(last, j) + counts.calm(first, j))
            for j in range(last + 1, counts.size + 1)
            if counts.bad[j] > counts.bad[last]
        ]
        earlier = [
            (i, log(gaps[i]) + counts.hurt(i, first) + counts.calm(i, last))
            for i in range(first)
            if counts.bad[first] > counts.bad[i]
        ]
        grown = (
            _heaviest(earlier) if earlier and _log_sum(earlier) > plain else first,
            _heaviest(later) if later and _log_sum(later) > plain else last,
        )
        if grown == (first, last):
            break
        first, last = grown
    return first, last


def _log_sum(weighed: _Weighed) -> float:
    best = max(weight for _, weight in weighed)
    return best + log(sum(exp(weight - best) for _, weight in weighed))


def _split(counts: _Counts, first: int, last: int, *, late: bool) -> int:
    """Where the outage's last level began (`late`), or its first one ended.

    A step is believed when it is 20 times likelier than none; levels are peeled off until none is.
    """
    while last - first > 3:
        inner = range(first + 1, last)
        i = max(inner, key=lambda m: counts.hurt(first, m) + counts.hurt(m, last))
        gain = counts.hurt(first, i) + counts.hurt(i, last) - counts.hurt(first, last)
        if gain - log(len(inner)) < _STEP:
            break
        first, last = (i, last) if late else (first, i)
    return first if late else last


def _keep(weighed: _Weighed) -> list[int]:
    floor = max(weight for _, weight in weighed) - _NEGLIGIBLE
    likely = sorted((pair for pair in weighed if pair[1] > floor), key=lambda pair: -pair[1])
    return sorted(index for index, _ in likely[:_MOST])


def _heaviest(weighed: _Weighed) -> int:
    return max(weighed, key=lambda pair: pair[1])[0]


def _joint(
    counts: _Counts, gaps: list[float], head: tuple[int, int], tail: tuple[int, int]
) -> tuple[dict[int, float], dict[int, float]]:
    """The posterior of both ends: weight per gap, each summed over where the other end may be.

    `head` and `tail` are the outage's first and last level; without steps they are the same.
    """
    if head[1] > tail[0]:
        return _ends_of_one_level(counts, gaps, head[0], tail[1])
    starts = [
        (i, log(gaps[i]) + counts.hurt(i, head[1]) + counts.calm(i, tail[1]))
        for i in range(head[1])
    ]
    ends = [
        (j, log(gaps[j]) + counts.hurt(tail[0], j) + counts.calm(head[0], j))
        for j in range(tail[0] + 1, counts.size + 1)
    ]
    return _weights(starts), _weights(ends)


def _ends_of_one_level(
    counts: _Counts, gaps: list[float], first: int, last: int
) -> tuple[dict[int, float], dict[int, float]]:
    starts, ends = _keep(_starts(counts, gaps, last)), _keep(_ends(counts, gaps, first))
    pairs = {
        (i, j): log(gaps[i]) + log(gaps[j]) + counts.hurt(i, j) + counts.calm(i, j)
        for i in starts
        for j in ends
        if i < j
    }
    best = max(pairs.values())
    heads: dict[int, float] = {}
    tails: dict[int, float] = {}
    for (i, j), weight in pairs.items():
        share = exp(weight - best)
        heads[i] = heads.get(i, 0.0) + share
        tails[j] = tails.get(j, 0.0) + share
    return heads, tails


def _weights(weighed: _Weighed) -> dict[int, float]:
    best = max(weight for _, weight in weighed)
    return {i: exp(weight - best) for i, weight in weighed if weight > best - _NEGLIGIBLE}


def _interval(weights: dict[int, float], edges: Sequence[float]) -> Moment:
    """The equal-tailed 95 % interval of a density that is even within each gap."""
    order = sorted(weights)
    total = sum(weights.values())

    def quantile(share: float) -> float:
        left = share * total
        for index in order:
            if left <= weights[index]:
                return _within(edges[index], edges[index + 1], left / weights[index])
            left -= weights[index]
        return edges[order[-1] + 1]

    return Moment.spanning(quantile(0.025), quantile(0.975))


def _within(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
