"""Outages made by other means than ours, of a known length: what is measured is what happened."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from aftershock.load.generator import Generator, Sentinel
from aftershock.load.settings import LoadSettings, SentinelSettings, Stage
from aftershock.slo.changepoint import locate
from aftershock.slo.levels import load_levels
from aftershock.slo.recovery import BACK, Terms, assess
from aftershock.slo.timeline import Timeline

pytestmark = pytest.mark.timed
LAB = load_levels("lab")
QUICK = Terms(objective_s=15, hold_s=2.5, window_s=2.0, step_s=0.25)


def wait_until(moment: float) -> None:
    threading.Event().wait(max(moment - time.monotonic(), 0))


@pytest.mark.parametrize("length", [1.0, 5.0])
def test_a_total_outage_is_timed_within_20_ms(start_service: Any, length: float) -> None:
    begin = time.monotonic() + 3.5
    service = start_service(outages=[[begin, begin + length, 1, "close"]])
    timeline = Timeline()
    sentinel = Sentinel(SentinelSettings(service.url, rate=200))
    sentinel.start(timeline)
    try:
        wait_until(begin + length + 3.0)
        found = assess(timeline, LAB, QUICK, begin, now=time.monotonic())
    finally:
        sentinel.stop()
    gone, returned = service.times("closed")[0], service.times("opened")[0]
    assert returned - gone == pytest.approx(length, abs=0.02)
    assert found.state == BACK, found
    assert found.rto_s == pytest.approx(returned - begin, abs=0.02)
    assert found.error_s is not None and found.error_s < 0.02
    assert found.first_bad_s == pytest.approx(gone - begin, abs=0.02)


def test_a_lost_third_is_within_the_stated_interval_in_8_of_10(start_service: Any) -> None:
    first = time.monotonic() + 4
    plan = [[first + 2.4 * i, first + 2.4 * i + 0.9, 1 / 3, "reset"] for i in range(10)]
    service = start_service(outages=plan, seed=11)
    timeline = Timeline()
    sentinel = Sentinel(SentinelSettings(service.url, rate=200, canary_period_s=0))
    sentinel.start(timeline)
    try:
        wait_until(plan[-1][1] + 2.0)
    finally:
        sentinel.stop()
    steady = timeline.outcomes("health", first - 3, first)
    held, errors = 0, []
    for (start, _, _, _), truth in zip(plan, service.times("opened"), strict=True):
        seen = timeline.outcomes("health", start, start + 2.3)
        ended = locate(seen, (steady.bad_count, steady.count), start, start + 2.3).ended
        held += ended.low <= truth <= ended.high
        errors.append(ended.error)
    assert held >= 8, (held, errors)
    assert sorted(errors)[5] < 0.05


def test_load_and_sentinel_tell_one_outage_together(start_service: Any) -> None:
    begin = time.monotonic() + 6
    service = start_service(outages=[[begin, begin + 1, 1, "close"]])
    timeline = Timeline()
    generator = Generator(LoadSettings(service.url, stages=(Stage(60, 60),)))
    sentinel = Sentinel(SentinelSettings(service.url, rate=200))
    generator.start(timeline)
    sentinel.start(timeline)
    try:
        generator.wait_until_sending()
        wait_until(begin + 4.5)
        found = assess(timeline, LAB, QUICK, begin, now=time.monotonic())
    finally:
        generator.stop()
        sentinel.stop()
    truth = service.times("opened")[0] - begin
    assert found.back, found
    assert set(found.per_source) == {"load", "health", "canary"}
    assert found.rto_s == pytest.approx(truth, abs=0.1)
    assert found.per_source["health"]["rto_s"] == pytest.approx(truth, abs=0.02)
