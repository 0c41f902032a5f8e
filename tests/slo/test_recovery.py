"""Recovery over simulated timelines: is it back, since when, and what is said when it is not."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulate import EFFECT, LAB, feed_load, feed_sentinel, outcomes, timeline_with

from aftershock.slo.aftermath import fail_back, losses, time_to_detect, unseen
from aftershock.slo.recovery import (
    BACK,
    ENDED,
    FAILING,
    GIVEN_UP,
    HOLDING,
    WAITING,
    Recovery,
    Terms,
    assess,
)
from aftershock.slo.slots import SLOT_S, Slot
from aftershock.slo.timeline import Timeline

TERMS = Terms(objective_s=15, hold_s=15)


def assessed(
    timeline: Timeline, at: float, terms: Terms = TERMS, until: float = float("inf")
) -> Recovery:
    return assess(timeline, LAB, terms, EFFECT, now=EFFECT + at, until=EFFECT + until)


def test_a_total_outage_of_1870_ms() -> None:
    found = assessed(timeline_with([(0, 1.87, 1)], end=22), 22)
    assert found.state == BACK
    assert found.rto_s == pytest.approx(1.87, abs=0.01)
    assert found.error_s is not None and found.error_s < 0.01
    assert found.decided_by in ("health", "load")
    assert found.per_source["health"]["bad"] == pytest.approx(374, abs=2)
    assert not found.gaps and not found.relapses_s and found.enough_samples


def test_a_third_lost_for_2_s_with_some_background() -> None:
    found = assessed(timeline_with([(0, 2, 1 / 3)], end=22, background=0.002), 22)
    assert found.state == BACK and found.interval_s
    assert found.interval_s[0] - 0.05 <= 2 <= found.interval_s[1] + 0.05
    assert found.error_s is not None and found.error_s < 0.1


def test_nothing_went_bad() -> None:
    found = assessed(timeline_with([], end=22), 22)
    assert (found.state, found.rto_s, found.undisturbed) == (BACK, 0.0, True)
    assert found.error_s == pytest.approx(0.005, abs=0.001)


def test_the_states_while_it_lasts() -> None:
    timeline = timeline_with([(0, 3, 1)], end=30)
    states = {}
    for at in (2, 5.5, 9, 14, 17, 19):
        partial = timeline_with([(0, 3, 1)], end=at)
        states[at] = assessed(partial, at).state
    assert states == {2: WAITING, 5.5: FAILING, 9: HOLDING, 14: HOLDING, 17: HOLDING, 19: BACK}
    assert assessed(timeline, 30).state == BACK


def test_a_relapse_within_the_hold_restarts_it() -> None:
    found = assessed(timeline_with([(0, 1, 1), (9, 10, 1)], end=30), 30)
    assert found.state == BACK
    assert found.rto_s == pytest.approx(10, abs=0.02)
    assert len(found.relapses_s) == 1
    assert found.relapses_s[0] == pytest.approx(9, abs=0.6)


def test_a_failure_long_after_the_hold_is_another_matter() -> None:
    found = assessed(timeline_with([(0, 1, 1), (25, 26, 1)], end=40), 40)
    assert found.rto_s == pytest.approx(1, abs=0.02)
    assert not found.relapses_s


def test_a_fault_that_is_felt_late_is_no_relapse() -> None:
    found = assessed(timeline_with([(8, 9, 1)], end=30), 30)
    assert found.rto_s == pytest.approx(9, abs=0.02)
    assert not found.relapses_s


def test_given_up_after_twice_the_objective_or_30_s() -> None:
    found = assessed(timeline_with([(0, 60, 0.5)], end=31), 31)
    assert (found.state, found.censored_s, found.rto_s) == (GIVEN_UP, 30, None)
    assert found.broken
    later = assessed(timeline_with([(0, 60, 0.5)], end=31), 31, Terms(objective_s=20))
    assert later.state == FAILING


def test_the_heal_ends_the_wait() -> None:
    timeline = timeline_with([(0, 12, 1)], end=30)
    found = assessed(timeline, 30, until=10)
    assert (found.state, found.rto_s) == (ENDED, None)
    assert found.censored_s == pytest.approx(10, abs=0.01)
    held_short = assessed(timeline_with([(0, 1, 1)], end=30), 30, until=10)
    assert held_short.state == ENDED
    assert held_short.rto_s == pytest.approx(1, abs=0.02)


def test_a_hung_engine_behind_healthy_health_is_told_by_the_load() -> None:
    rng, timeline = random.Random(5), Timeline()
    span = (EFFECT - 20, EFFECT + 25)
    health = outcomes(rng, 200, (0, 0), 0, 0, span=span)
    feed_sentinel(timeline, health, span[1])
    hung = (EFFECT, EFFECT + 4)
    feed_load(timeline, outcomes(rng, 60, hung, 1, 0, span=span, poisson=True), span[1])
    found = assessed(timeline, 25)
    assert found.decided_by == "load"
    assert found.rto_s == pytest.approx(4, abs=0.1)


def test_a_source_that_falls_silent_is_a_gap() -> None:
    timeline = timeline_with([(0, 1, 1)], end=6)
    found = assess(timeline, LAB, TERMS, EFFECT, now=EFFECT + 20)
    assert {gap[0] for gap in found.gaps} >= {"health", "load"}
    assert found.state != BACK


def test_latency_that_stays_above_the_level_keeps_it_from_being_back() -> None:
    timeline, rng = Timeline(), random.Random(2)
    calm = outcomes(rng, 60, (0, 0), 0, 0, span=(EFFECT - 20, EFFECT), poisson=True)
    slow = outcomes(rng, 60, (0, 0), 0, 0, span=(EFFECT, EFFECT + 8), poisson=True)
    after = outcomes(rng, 60, (0, 0), 0, 0, span=(EFFECT + 8, EFFECT + 30), poisson=True)
    feed_load(timeline, calm, EFFECT)
    feed_load(timeline, slow, EFFECT + 8, latency_s=1.4)  # answered, and late
    feed_load(timeline, after, EFFECT + 30)
    found = assessed(timeline, 30)
    assert found.state == BACK and found.decided_by == "windows"
    assert found.rto_s == pytest.approx(8, abs=0.6)


@pytest.mark.timeout(400)  # half a second each, or ten times as long on a machine that others use
@settings(max_examples=12, deadline=None)
@given(length=st.floats(0.2, 6), seed=st.integers(0, 50))
@example(length=1.1953125, seed=17)  # the canary asks 4 ms before the end, and 1 s later again
@example(length=5.414024387250584, seed=8)
def test_the_time_measured_follows_the_outage(length: float, seed: int) -> None:
    found = assessed(timeline_with([(0, length, 1)], end=24, seed=seed), 24)
    assert found.state == BACK and found.interval_s and found.rto_s is not None
    assert abs(found.rto_s - length) < 0.12


def gauge(values: list[tuple[float, float]]) -> dict[str, list[tuple[float, float]]]:
    return {"az-a": values}


def test_fail_back_waits_for_the_zone_to_carry_its_share() -> None:
    share = [(at / 2, 1 / 3) for at in range(-20, 0)]
    share += [(at / 2, 0.0) for at in range(0, 26)]
    share += [(at / 2, 1 / 3) for at in range(26, 80)]
    timeline = timeline_with([(0, 1, 1)], end=40, gauges={"zone_share": gauge(share)})
    heal = EFFECT + 10
    found = fail_back(timeline, LAB, TERMS, heal, now=EFFECT + 40, t_effect=EFFECT, zones=["az-a"])
    assert found.state == BACK
    assert found.rto_s == pytest.approx(2.75, abs=0.3)
    assert found.decided_by == "zone_share az-a"
    never = timeline_with([(0, 1, 1)], end=45, gauges={"zone_share": gauge(share[:46])})
    lost = fail_back(never, LAB, TERMS, heal, now=EFFECT + 45, t_effect=EFFECT, zones=["az-a"])
    assert lost.state == GIVEN_UP and "az-a" in lost.broken[-1]
    assert unseen(never, EFFECT, ["az-a", "az-b"]) == ("az-b",)


def test_fail_back_from_an_outage_that_lasted_up_to_the_heal() -> None:
    """What is usual is told by the time before the fault, not by the fault."""
    timeline = timeline_with([(0, 12.4, 0.33)], end=45)
    found = fail_back(timeline, LAB, TERMS, EFFECT + 10, now=EFFECT + 45, t_effect=EFFECT)
    assert found.state == BACK
    assert found.rto_s == pytest.approx(2.4, abs=0.1)


def test_detection_from_the_gateway() -> None:
    up = {"gateway": [(at / 10, 6.0 if at < 11 else 4.0) for at in range(-20, 30)]}
    timeline = timeline_with([], end=2, gauges={"servers_up": up})
    assert time_to_detect(timeline, EFFECT).rto_s == pytest.approx(1.05, abs=0.01)
    timeline.mark("t_detected", EFFECT + 1.02)
    assert time_to_detect(timeline, EFFECT).rto_s == pytest.approx(1.02)
    assert time_to_detect(Timeline(), EFFECT).rto_s is None


def test_what_was_lost() -> None:
    lost = losses(timeline_with([(0, 2, 1)], end=22), EFFECT, EFFECT + 22, LAB.limit_s)
    assert lost.requests_lost == pytest.approx(120, abs=40)
    assert lost.failed_by_kind == {"refused": lost.requests_lost}
    assert lost.requests_total > 1200


@pytest.mark.parametrize(("open_for_s", "counted"), [(0.3, 0), (5.0, 3)])
def test_what_is_open_at_the_end_is_lost_only_if_it_hung(open_for_s: float, counted: int) -> None:
    timeline, end = timeline_with([], end=22), EFFECT + 22
    before = losses(timeline, EFFECT, end, LAB.limit_s)
    slot = Slot()
    slot.counts["scheduled"] = 3
    place = int((end - open_for_s) / SLOT_S)
    timeline.feed({"source": "load", "worker": 0, "decided": end, "slots": {place: slot.wire()}})
    after = losses(timeline, EFFECT, end, LAB.limit_s)
    assert after.requests_lost - before.requests_lost == counted
    assert after.requests_total - before.requests_total == counted
