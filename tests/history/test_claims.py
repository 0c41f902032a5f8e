"""The exact bounds, against the binomial distribution itself in rational numbers, and tables."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftershock.history.claims import at_least, at_most, clean_runs_needed, interval

CONFIDENCES = st.sampled_from([0.8, 0.9, 0.95, 0.99])
COUNTS = st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def exactly(successes: int, runs: int, chance: float) -> float:
    """P(X ≤ successes) in rational numbers."""
    p = Fraction(chance)
    return float(
        sum(comb(runs, k) * p**k * (1 - p) ** (runs - k) for k in range(successes + 1))
    )  # fmt: skip


@given(COUNTS, st.floats(0.001, 0.999))
@settings(max_examples=40, deadline=None)
def test_the_tail_is_the_binomials(counts: tuple[int, int], chance: float) -> None:
    assert at_most(*counts, chance) == pytest.approx(exactly(*counts, chance), rel=1e-9, abs=1e-300)


@given(COUNTS, CONFIDENCES)
@settings(max_examples=40, deadline=None)
def test_each_bound_leaves_exactly_its_share_of_chance(
    counts: tuple[int, int], confidence: float
) -> None:
    successes, runs = counts
    low, high = interval(successes, runs, confidence)
    tail = (1 - confidence) / 2
    assert 0 <= low <= successes / runs <= high <= 1
    if successes:  # so many or more, if the share were at the lower bound
        assert 1 - exactly(successes - 1, runs, low) == pytest.approx(tail, rel=1e-6)
    if successes < runs:
        assert exactly(successes, runs, high) == pytest.approx(tail, rel=1e-6)
    mirrored = interval(runs - successes, runs, confidence)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)
    assert low <= at_least(successes, runs, confidence)


@given(COUNTS, CONFIDENCES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
@settings(max_examples=40, deadline=None)
def test_as_many_clean_runs_as_are_said_are_enough_and_one_fewer_is_not(
    counts: tuple[int, int], confidence: float, share: float
) -> None:
    successes, runs = counts
    more = clean_runs_needed(successes, runs, share, confidence)
    assert more is not None
    assert at_least(successes + more, runs + more, confidence) >= share - 1e-12
    if more:
        assert at_least(successes + more - 1, runs + more - 1, confidence) < share


@pytest.mark.parametrize(
    ("counts", "expected"),
    [  # R's binom.test
        ((8, 10), (0.443904538, 0.974789284)),
        ((0, 10), (0.0, 0.308497105)),
        ((59, 59), (0.939396, 1.0)),
        ((95, 100), (0.887165, 0.983568)),
    ],
)
def test_known_intervals(counts: tuple[int, int], expected: tuple[float, float]) -> None:
    assert interval(*counts) == pytest.approx(expected, abs=1e-5)


def test_59_from_nothing_and_more_after_a_miss() -> None:
    assert clean_runs_needed(0, 0) == 59
    assert clean_runs_needed(58, 58) == 1
    assert clean_runs_needed(59, 59) == 0
    assert clean_runs_needed(59, 60) == 33  # 93 runs with one miss
    assert clean_runs_needed(0, 0, share=0.9999999) is None
    assert interval(0, 0) == (0.0, 1.0) and at_least(0, 0) == 0.0
    assert at_least(5000, 5000) == pytest.approx(0.05 ** (1 / 5000), rel=1e-9)
