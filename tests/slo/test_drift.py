"""A trend's interval holds the truth as often as it says: no drift is found where there is none."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from math import exp
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftershock.slo import enduring
from aftershock.slo.drift import (
    DRIFT,
    LEAST_POINTS,
    NONE,
    SETTLED,
    UNSURE,
    Rise,
    Trend,
    trend,
    trends,
)
from aftershock.slo.verdict import FAIL, INCONCLUSIVE, RunFacts, decide

TIMES = 300
EVERY_S = 60.0
Points = list[tuple[float, float]]


def noisy(kind: str, count: int, rng: random.Random, percent_per_h: float = 0.0) -> Points:
    """Around 100: normal, heavy-tailed, with outliers, or each point like the one before."""
    found, left = [], 0.0
    for number in range(count):
        noise = rng.gauss(0, 1)
        if kind == "lognormal":
            noise = rng.lognormvariate(0, 1) - 1.0  # whose median is 0
        elif kind == "outliers" and rng.random() < 0.05:
            noise += 50
        elif kind == "correlated":
            noise = left = 0.5 * left + noise
        at = number * EVERY_S
        found.append((at, 100 + percent_per_h * at / 3600 + noise))
    return found


@pytest.mark.parametrize("kind", ["normal", "lognormal", "outliers", "correlated"])
@pytest.mark.parametrize(("count", "truth"), [(40, 0.0), (60, 0.0), (60, 4.0)])
def test_the_interval_holds_the_truth_in_95_of_100(kind: str, count: int, truth: float) -> None:
    rng = random.Random(f"{kind}{count}{truth}")
    missed = [0, 0]
    for _ in range(TIMES):
        found = trend("p99", noisy(kind, count, rng, truth))
        assert found
        for half, rise in enumerate((found, found.later)):
            missed[half] += not rise.low <= truth * 100 / found.level <= rise.high
    # 5 % are allowed to: three standard deviations of that many tries more.
    assert max(missed) / TIMES <= 0.05 + 3 * (0.05 * 0.95 / TIMES) ** 0.5


def test_many_figures_together_seldom_show_a_drift_that_is_none() -> None:
    rng, alarms = random.Random(5), 0
    for _ in range(60):
        series = {f"server {n}": noisy("correlated", 40, rng) for n in range(12)}
        alarms += any(one.low > 0 or one.high < 0 for one in trends(series))
    assert alarms <= 8  # of 3 that are to be expected


def test_a_leak_is_found_and_what_is_still_is_not() -> None:
    rng = random.Random(3)
    leak, still = (trend("rss", noisy("normal", 120, rng, slope)) for slope in (10.0, 0.0))
    assert leak and still
    assert leak.word(5) == DRIFT and leak.percent_per_h == pytest.approx(9, abs=1.5)
    assert still.word(5) == NONE
    few = trend("rss", noisy("normal", LEAST_POINTS, rng))
    assert few and few.word(0.1) == UNSURE
    assert trend("rss", noisy("normal", LEAST_POINTS - 1, rng)) is None


def rising(by: Callable[[float], float], seed: int) -> Trend:
    """Two hours of it, in percent above a level, with a little noise."""
    rng = random.Random(seed)
    points = [(60.0 * n, 100 + by(n / 120) + rng.gauss(0, 0.05)) for n in range(121)]
    found = trend("rss", points)
    assert found
    return found


@pytest.mark.parametrize("seed", range(5))
def test_what_fills_is_told_from_what_leaks(seed: int) -> None:
    """A cache or an allocator's arenas fill: a server that runs in is none that leaks."""
    fills = rising(lambda share: 20 * (1 - exp(-10 * share)), seed)
    assert fills.high > 3 >= fills.later.high and fills.word(3) == SETTLED
    assert rising(lambda share: 20 * share, seed).word(3) == DRIFT
    late = rising(lambda share: 40 * max(share - 0.7, 0), seed)
    assert late.word(3) == UNSURE, "what begins late may be one"
    slows = rising(lambda share: 20 * share**0.5, seed)
    assert slows.word(3) == DRIFT, "slower than at first, but not slow"
    ends = rising(lambda share: 20 * min(share, 0.45), seed)
    assert ends.word(3) == SETTLED


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.1, 1e9), min_size=LEAST_POINTS, max_size=80),
    st.floats(0.5, 0.999),
    st.floats(0.01, 1000),
)
def test_a_trend_does_not_depend_on_units_or_order(
    values: list[float], confidence: float, unit: float
) -> None:
    points = [(i * EVERY_S, value) for i, value in enumerate(values)]
    found = trend("x", points, confidence)
    scaled = trend("x", [(at, value * unit) for at, value in reversed(points)], confidence)
    assert found and scaled
    assert found.low <= found.percent_per_h <= found.high
    assert scaled.percent_per_h == pytest.approx(found.percent_per_h, rel=1e-6, abs=1e-6)
    assert scaled.low == pytest.approx(found.low, rel=1e-6, abs=1e-6)
    json.dumps(found.as_dict(), allow_nan=False)
    wider = trend("x", points, min(confidence + 0.2, 0.9999))
    assert wider and wider.low <= found.low and found.high <= wider.high


def test_what_moves_in_steps_rose_by_no_more_than_its_range() -> None:
    """A server's memory: points like their neighbours, of which no interval can be told."""
    points = [(i * EVERY_S, 1000.0 + (i > 20) + (i > 70)) for i in range(121)]
    found = trend("rss", points)
    assert found and 0 <= found.low <= found.high < 0.11  # 0.2 % in two hours
    assert found.word(5) == NONE


def test_a_long_series_is_grouped() -> None:
    found = trend("x", noisy("normal", 3000, random.Random(1), 1.0))
    assert found and found.points <= 400 and found.low < 1.0 / found.level * 100 < found.high


def of(word: str, **more: Any) -> dict[str, Any]:
    one = {"at_s": 9.0, "fault": "fail_zone", "zone": "az-b", "rto_s": 2.0, "rto_error_s": 0.1,
           "rto_censored_s": None, "rto_state": "back", "failback_s": 1.0,
           "failback_error_s": 0.1, "failback_censored_s": None,
           "failback_state": "back"}  # fmt: skip
    later = Rise(*((0.5, -1.0, 2.0) if word == "settled" else (7.0, 2.0, 12.0)))
    moved = Trend(7.0, 6.0, 8.0, later, "p99 latency", 60, 1.0, 140.0, 0.95).as_dict()
    return {"lasts_s": 3600.0, "planned": 1, "rounds": [one | more], "word": word,
            "most_drift_percent_per_h": 5.0, "drift": [moved | {"word": word}]}  # fmt: skip


@pytest.mark.parametrize(
    ("soak", "code", "word", "said"),
    [
        (
            of("drift"), "drift", FAIL,
            "p99 latency rises by +7 % an hour (+6 % to +8 %, 95 %), in the later half by +7 % "
            "an hour (+2 % to +12 %), and 5 % are allowed",
        ),
        (of("unsure"), "drift_unsure", INCONCLUSIVE, "soak for longer to tell"),
        (of("none") | {"drift": []}, "drift_unmeasured", INCONCLUSIVE, "soak for longer"),
        (of("none", rto_s=20.0), "rto_missed", FAIL, "fault 1 of the soak (fail_zone az-b): serv"),
        (of("none", rto_s=None, rto_censored_s=30.0), "rto_missed", FAIL, "not back within 30 s"),
        (of("none", rto_s=15.05), "straddles", INCONCLUSIVE, "straddles the objective of 15 s"),
        (of("none", rto_state="holding"), "not_held", INCONCLUSIVE, "until it had held"),
        (of("none", failback_state="holding"), "failback_unmeasured", INCONCLUSIVE, "): the run"),
        (
            of("none", failback_state="given_up", failback_censored_s=60.0),
            "failback_failed", FAIL, "no fail-back within 60 s",
        ),
        (of("none") | {"planned": 3}, "soak_cut_short", INCONCLUSIVE, "after 1 of its 3 faults"),
    ],
)  # fmt: skip
def test_what_a_soak_decides(soak: dict[str, Any], code: str, word: str, said: str) -> None:
    told = {"bit": True, "ordered": True, "clean": True, "fault": "partition"}
    facts = RunFacts(15, 1000, injections=[told], soak=soak)
    (reason,) = [one for one in decide(facts).reasons if one.code == code and said in one.text]
    assert reason.word == word
    for word_of_a_good_one in ("none", "settled"):
        good = of(word_of_a_good_one)
        assert not list(enduring.misbehaved(good)) and not list(enduring.missed(good, 15))
        assert not list(enduring.unmeasured(good, 15))
