"""A second load beside the first: both count, and what was withdrawn with it is no failure."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from aftershock import run as runs
from aftershock.errors import InvalidFault
from aftershock.load.generator import stats
from aftershock.run.surge import Beside, step_load
from aftershock.slo.slots import SLOT_S, TICK_S
from aftershock.slo.timeline import LOAD, Timeline


def message(at: float, scheduled: int, good: int, **more: Any) -> dict[str, Any]:
    slot = {"scheduled": scheduled, "sent": scheduled, "good": good, "failed": {}, **more}
    ticks = {str(round(at / TICK_S)): [scheduled, good]}
    return {
        "source": LOAD, "worker": 0, "workers": 1, "decided": at + SLOT_S, "in_flight": 0,
        "slots": {str(int(at / SLOT_S)): slot}, "ticks": ticks, "failures": [],
    }  # fmt: skip


def test_both_loads_count_and_the_withdrawn_does_not() -> None:
    timeline = Timeline()
    beside = Beside(timeline)
    now = int(time.monotonic() * 10) / 10 + 0.05
    early, late = now - 5, now - 0.5
    for at in (early, late):
        timeline.feed(message(at, 10, 10))
    beside.feed(message(early, 20, 17, failed={"reset": 2}))  # one hangs: too late by the end
    beside.feed(message(late, 20, 16))  # four are in flight when it ends
    assert beside.first is not None and abs(beside.first - early) <= SLOT_S
    assert timeline.horizon(LOAD) < now
    seen = timeline.window(late - 0.2, late + 0.2)
    assert (seen.requests, seen.good, seen.errors) == (30, 26, 4)  # while they are open
    beside.end(limit_s=1.0)
    timeline.feed(message(now + 1, 1, 1))
    assert timeline.horizon(LOAD) > now, "the one that ended holds nothing up"
    seen = timeline.window(late - 0.2, late + 0.2)
    assert (seen.requests, seen.good, seen.errors) == (26, 26, 0)
    assert timeline.outcomes(LOAD, late - 0.2, late + 0.2).bad_count == 0
    seen = timeline.window(early - 0.2, early + 0.2)
    assert (seen.requests, seen.errors) == (30, 3), "what failed or hung stays"
    assert timeline.outcomes(LOAD, early - 0.2, early + 0.2).bad_count == 3
    assert stats(timeline).in_flight == 0


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"add_rps": "many"}, "add_rps is 'many': give a number"),
        ({"add_rps": -3}, "load step of -3 requests/s for 120 s: both must be above 0"),
        ({"add_rps": 3, "lease_s": 0}, "load step of 3 requests/s for 0 s: both must be above 0"),
    ],
)
def test_nonsense_is_refused_before_anything_is_sent(told: dict[str, Any], sentence: str) -> None:
    runs.enter(SimpleNamespace(timeline=Timeline()))  # type: ignore[arg-type]
    try:
        with pytest.raises(InvalidFault) as refused:
            step_load(**told)
    finally:
        runs.leave()
    assert sentence in str(refused.value)
