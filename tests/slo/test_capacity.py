"""The second clock: from counts of ready replicas, and from the gaps of the watch, to an RTO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from aftershock.slo.aftermath import READY_REPLICAS, Crossing
from aftershock.slo.capacity import LATE, LOST, REPLICAS_DELAY, REPLICAS_GAP, capacity
from aftershock.slo.timeline import Timeline
from aftershock.slo.verdict import INCONCLUSIVE, RunFacts, decide

EFFECT, HEAL, END = 1000.0, 1020.0, 1040.0
Counts = Sequence[tuple[float, int]]


def measured(
    counts: Counts, gaps: Sequence[tuple[float, float, str]] = (), heal: float | None = HEAL
) -> Crossing:
    """Counts and gaps in seconds after the effect; zone a has all but two of the replicas."""
    timeline = Timeline()
    for at, count in counts:
        timeline.gauge(READY_REPLICAS, "az-a", max(0, count - 2), EFFECT + at)
        timeline.gauge(READY_REPLICAS, "az-b", min(2, count), EFFECT + at)
        timeline.gauge(REPLICAS_DELAY, "", 0.01, EFFECT + at)
    for start, end, kind in gaps:
        timeline.gauge(REPLICAS_GAP, kind, end - start, EFFECT + end)
    return capacity(timeline, EFFECT, heal, END)


LOSS = [(-10, 6), (0.1, 4)]


@pytest.mark.parametrize(
    ("counts", "gaps", "rto", "error"),
    [
        ([*LOSS, (5, 5), (6, 6)], [], 5.995, 0.005),
        ([*LOSS, (6, 6), (8, 5), (9, 6)], [], 8.995, 0.005),
        ([(-10, 6)], [], 0, 0.01),
        # Scaled up meanwhile: as many as before are enough.
        ([*LOSS, (6, 9), (9, 7)], [], 5.995, 0.005),
        # Heard after a stretch without a stream: it came back somewhere in it.
        ([*LOSS, (9, 6)], [(3, 9, LATE)], 6, 3),
        ([*LOSS, (9, 6)], [(3, 9, LOST)], 6, 3),
        # Never seen below, but nobody looked.
        ([(-10, 6)], [(2, 8, LOST)], 4, 4),
    ],
)
def test_when_it_came_back(counts: Counts, gaps: list, rto: float, error: float) -> None:
    found = measured(counts, gaps)
    assert found.rto_s == pytest.approx(rto, abs=1e-3)
    assert found.error_s == pytest.approx(error, abs=1e-3)
    assert found.censored_s is None


@pytest.mark.parametrize(
    ("counts", "gaps", "heal", "censored", "after_heal"),
    [
        (LOSS, [], HEAL, 20, None),
        ([*LOSS, (23, 6)], [], HEAL, 20, 3),
        # Broken again, at the end of what counts.
        ([*LOSS, (23, 6), (40.1, 4), (60, 6)], [], HEAL, 20, 3),
        ([*LOSS, (60, 6)], [], HEAL, 20, None),
        (LOSS, [], None, 40, None),
        # What happened from the gap's beginning until the heal is not known.
        ([*LOSS, (25, 6)], [(12, 25, LATE)], HEAL, 12, 5),
        ([*LOSS, (40, 6)], [(30, 40, LOST)], None, 30, None),
    ],
)
def test_when_it_did_not_come_while_the_fault_held(
    counts: Counts, gaps: list, heal: float | None, censored: float, after_heal: float | None
) -> None:
    found = measured(counts, gaps, heal)
    assert found.rto_s is None
    assert found.censored_s == pytest.approx(censored)
    assert found.after_heal_s == (None if after_heal is None else pytest.approx(after_heal))


def test_nobody_watched() -> None:
    assert measured([]) == Crossing()
    assert measured([(1, 6)]) == Crossing(), "nothing to compare with"
    assert measured([*LOSS, (9, 6)], [(-3, 0.1, LOST)]).rto_s is None


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (Crossing(5.0, 0.01), None),
        (Crossing(5.0, 0.01, gaps=((2.0, 3.0, LOST),)), None),
        (Crossing(5.0, 0.01, gaps=((8.0, 12.0, LATE),)), None),
        (Crossing(5.0, 0.01, gaps=((8.0, 12.0, LOST),)), "capacity_gap"),
        (Crossing(gaps=((-2.0, 1.0, LOST),)), "capacity_gap"),
        (Crossing(9.0, 2.0, gaps=((7.0, 11.0, LATE),)), "capacity_straddles"),
        (Crossing(censored_s=6.0, after_heal_s=2.0), "capacity_unsure"),
        (Crossing(), "capacity_unmeasured"),
        (Crossing(13.0, 2.0), "capacity_missed"),
        (Crossing(censored_s=10.0), "capacity_missed"),
    ],
)
def test_what_an_objective_of_ten_seconds_makes_of_it(found: Crossing, code: str | None) -> None:
    facts: Mapping[str, object] = {"rto_objective_s": 15, "limit_ms": 1000, "capacity": found}
    told = decide(RunFacts(**facts, capacity_objective_s=10.0))  # type: ignore[arg-type]
    codes = {reason.code: reason.word for reason in told.reasons if "capacity" in reason.code}
    assert list(codes) == ([code] if code else [])
    if code and code != "capacity_missed":
        assert codes[code] == INCONCLUSIVE
    silent = decide(RunFacts(**facts))  # type: ignore[arg-type]
    assert not [reason for reason in silent.reasons if "capacity" in reason.code]
