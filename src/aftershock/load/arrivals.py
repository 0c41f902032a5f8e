"""When requests are due: seeded arrivals whose rate follows the stages, shared among workers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from math import sqrt
from pathlib import Path
from typing import NamedTuple

from aftershock.load.settings import LoadSettings, Stage
from aftershock.load.trace import rows


class Due(NamedTuple):
    """A request that is due `at` seconds from the start; tokens are 0 where nobody said so."""

    at: float
    prompt_tokens: int = 0
    output_tokens: int = 0


def schedule(settings: LoadSettings, worker: int = 0) -> Iterator[Due]:
    """This worker's requests: by the stages, or as a trace says, over and over again."""
    if settings.trace:
        return islice(_replayed(settings), worker, None, settings.processes)
    times = arrivals(
        settings.stages,
        settings.arrivals,
        settings.seed,
        worker,
        settings.processes,
        settings.burstiness,
    )
    return (Due(at) for at in times)


def _replayed(settings: LoadSettings) -> Iterator[Due]:
    for lap in count():
        begin = lap * settings.trace_length_s
        for at, prompt_tokens, output_tokens in rows(Path(settings.trace)):
            yield Due((begin + at) / settings.trace_speed, prompt_tokens, output_tokens)


def arrivals(
    stages: Sequence[Stage],
    pattern: str,
    seed: int,
    worker: int = 0,
    workers: int = 1,
    burstiness: float = 1.0,
) -> Iterator[float]:
    """Seconds from the start at which this worker's requests are due, in order.

    One seeded schedule of which each worker takes its turn, so it is the same however many there
    are. Steps of the expected count (1 for `constant`, else by chance with a mean of 1) are turned
    into time by inverting the integral of the rate, so stages may change in any way.
    """
    step = _steps(pattern, random.Random(seed), burstiness)
    first = 0.0 if pattern == "constant" else step()
    return islice(_all(stages, first, step), worker, None, workers)


def _steps(pattern: str, rng: random.Random, burstiness: float) -> Callable[[], float]:
    """The next step of the expected count.

    `gamma` has steps of the shape `burstiness`, as vLLM's and SGLang's benchmarks name it: 1 is
    Poisson, less comes in bursts (their coefficient of variation is 1/√burstiness), more is even.
    """
    if pattern == "constant":
        return lambda: 1.0
    if pattern == "gamma":
        return lambda: rng.gammavariate(burstiness, 1 / burstiness)
    return lambda: rng.expovariate(1.0)


def _all(stages: Sequence[Stage], due: float, step: Callable[[], float]) -> Iterator[float]:
    begin = passed = 0.0
    for stage in stages:
        size = stage.duration_s * (stage.rate + stage.last_rate) / 2
        while due < passed + size:
            yield begin + _time_of(due - passed, stage)
            due += step()
        passed += size
        begin += stage.duration_s


def _time_of(count_due: float, stage: Stage) -> float:
    """When within the stage so many requests were due: rate·t + slope·t²/2 = count."""
    slope = (stage.last_rate - stage.rate) / stage.duration_s
    if count_due <= 0:
        return 0.0
    if abs(slope) < 1e-12:
        return count_due / stage.rate
    return 2 * count_due / (stage.rate + sqrt(max(stage.rate**2 + 2 * slope * count_due, 0.0)))
