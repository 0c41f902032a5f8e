"""What netem makes of our words, by its own arithmetic (net/sched/sch_netem.c, get_crandom)."""

import random
import struct
from collections.abc import Iterator
from itertools import pairwise
from statistics import mean, stdev
from typing import Any

import pytest

from aftershock.agent.netem import distribution, encode
from aftershock.agent.rtnl import attributes

CORRELATIONS, TABLE, REORDER, CORRUPT, HEAD_BYTES = 1, 2, 3, 4, 24
MS = 1_000_000


def parts(**options: Any) -> dict[int, bytes]:
    """The attributes, and the head as number 0."""
    _, body = encode({"kind": "netem", **options})
    return {0: body[:HEAD_BYTES], **dict(attributes(body[HEAD_BYTES:]))}


def values(rho: int, seed: int) -> Iterator[int]:
    """netem's generator."""
    chance = random.Random(seed)
    last = chance.getrandbits(32)
    while True:
        value = chance.getrandbits(32)
        if rho:
            value = (value * ((1 << 32) - (rho + 1)) + last * (rho + 1)) >> 32
        last = value
        yield value


def delays(packets: int, seed: int, **options: Any) -> list[float]:
    """How late each packet is, in ms."""
    told = parts(**options)
    rho = struct.unpack("=3I", told[CORRELATIONS])[0]
    table = struct.unpack(f"={len(told[TABLE]) // 2}h", told[TABLE])
    chosen = zip(range(packets), values(rho, seed), strict=False)
    places = [table[value % len(table)] for _, value in chosen]
    return [options["delay_ms"] + options["jitter_ms"] * place / 8192 for place in places]


def follows(some: list[float]) -> float:
    middle = mean(some)
    both = sum((one - middle) * (other - middle) for one, other in pairwise(some))
    return both / sum((one - middle) ** 2 for one in some)


@pytest.mark.parametrize("shape", ["uniform", "normal", "pareto"])
@pytest.mark.parametrize("correlation", [0.25, 0.9])
def test_jitter_follows_as_much_as_it_is_asked_to(shape: str, correlation: float) -> None:
    words = {"delay_ms": 100, "jitter_ms": 20, "distribution": shape}
    runs = [delays(2000, seed, delay_correlation=correlation, **words) for seed in range(16)]
    assert abs(mean(follows(run) for run in runs) - correlation) < 0.08
    if correlation == 0.9:
        assert all(follows(run) > 0.75 for run in runs), "wherever its values began"
    every = [delay for run in runs for delay in run]
    table = [place * 20 / 8192 for place in distribution(shape)]
    assert abs(mean(every) - 100 - mean(table)) < 1
    assert 0.9 < stdev(every) / stdev(table) < 1.1, "the shape is as without a correlation"


def test_without_a_correlation_nothing_is_bent() -> None:
    told = parts(delay_ms=100, jitter_ms=20)
    assert TABLE not in told and told[CORRELATIONS] == b"\0" * 12
    assert parts(delay_ms=1, jitter_ms=1, distribution="normal")[TABLE] == struct.pack(
        "=4096h", *distribution("normal")
    )


@pytest.mark.parametrize(
    ("number", "name"), [(0, "duplicate"), (CORRUPT, "corrupt"), (REORDER, "reorder")]
)
@pytest.mark.parametrize("share", [0.05, 0.25])
@pytest.mark.parametrize("correlation", [0.25, 0.9])
def test_a_share_is_what_it_says_whatever_its_correlation(
    number: int, name: str, share: float, correlation: float
) -> None:
    told = parts(**{name: share, f"{name}_correlation": correlation})
    if name == "duplicate":
        bound, rho = struct.unpack("=6I", told[0])[4], struct.unpack("=3I", told[1])[2]
    else:
        bound, rho = struct.unpack("=2I", told[number])
    chosen = [value <= bound for _, value in zip(range(20_000), values(rho, 3), strict=False)]
    assert abs(mean(chosen) - share) < 0.03
    if correlation == 0.9:
        assert follows([float(one) for one in chosen]) > 0.3
