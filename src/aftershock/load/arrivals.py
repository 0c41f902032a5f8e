"""When requests are due: seeded arrivals whose rate follows the stages, shared among workers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from math import sqrt

from aftershock.load.settings import Stage


def arrivals(
    stages: Sequence[Stage], pattern: str, seed: int, worker: int = 0, workers: int = 1
) -> Iterator[float]:
    """Seconds from the start at which this worker's requests are due, in order.

    Steps of the expected count (exponential for `poisson`, 1 for `constant`) are turned into time
    by inverting the integral of the rate, so stages may change in any way.
    """
    rng = random.Random(f"{seed}/{worker}")
    due = 0.0 if pattern == "poisson" else worker / workers
    due += rng.expovariate(1.0) if pattern == "poisson" else 0.0
    begin = passed = 0.0
    for stage in stages:
        size = stage.duration_s * (stage.rate + stage.last_rate) / 2 / workers
        while due < passed + size:
            yield begin + _time_of(due - passed, stage, workers)
            due += rng.expovariate(1.0) if pattern == "poisson" else 1.0
        passed += size
        begin += stage.duration_s


def _time_of(count: float, stage: Stage, workers: int) -> float:
    """When within the stage `count` requests were due: rate·t + slope·t²/2 = count."""
    rate = stage.rate / workers
    slope = (stage.last_rate - stage.rate) / stage.duration_s / workers
    if count <= 0:
        return 0.0
    if abs(slope) < 1e-12:
        return count / rate
    return 2 * count / (rate + sqrt(max(rate * rate + 2 * slope * count, 0.0)))
