"""Goodput: every limit at once, with failures and drops in the denominator, phase by phase."""

from __future__ import annotations

from math import inf

import pytest

from aftershock.errors import InvalidInput
from aftershock.load.recorder import Call, Recorder
from aftershock.report import answers
from aftershock.report.sentences import goodput as sentence
from aftershock.slo.goodput import goodput
from aftershock.slo.levels import load_levels, parse_levels
from aftershock.slo.objectives import within
from aftershock.slo.timeline import Timeline

LIMITS = {"ttft_ms": 200.0, "tpot_ms": 50.0, "e2e_ms": 1000.0}


class Service:
    """Answers when it is told to, on a clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.recorder = Recorder(1.0, "e2e", 10, lambda: self.now, LIMITS)
        self.timeline = Timeline()
        self.timeline.mark("phase:steady", 99.0)

    def due(self, at: float) -> Call:
        self.now = at
        call = self.recorder.due(at)
        self.recorder.sent(call)
        return call

    def answer(self, at: float, ttft: float, tpot: float, tokens: int, streamed: bool) -> None:
        call = self.due(at)
        for i in range(tokens if streamed else 1):
            self.now = at + ttft + i * tpot
            self.recorder.token(call)
        self.now = at + ttft + (tokens - 1) * tpot
        self.recorder.finish(call, tokens, streamed)

    def told(self) -> Timeline:
        self.timeline.feed(self.recorder.report(0, 1, inf))
        return self.timeline


def test_every_limit_counts_and_so_does_what_failed_or_was_dropped() -> None:
    service = Service()
    service.answer(100.0, 0.1, 0.04, 10, True)  # meets all
    service.answer(100.1, 0.3, 0.04, 10, True)  # its first token is late
    service.answer(100.2, 0.1, 0.06, 10, True)  # its tokens are slow
    service.answer(100.3, 0.1, 0.049, 30, True)  # its end is late
    service.answer(100.4, 0.1, 0.04, 10, False)  # unstreamed: the end alone counts
    service.recorder.fail(service.due(100.5), "reset")
    service.recorder.drop(service.due(100.6))
    service.due(100.7)  # never answered
    service.answer(105.0, 0.3, 0.04, 10, True)
    service.answer(110.0, 0.1, 0.04, 10, True)
    service.due(119.9)  # still open, and not late yet
    found = goodput(service.told(), LIMITS, 104.0, 108.0, 120.0)
    assert found["before"] == {"requests": 8, "met": 2, "share": 0.25, "rps": 0.5}
    assert found["during"]["share"] == 0 and found["after"]["requests"] == 1
    assert found["after"]["share"] == 1
    levels = load_levels("lab")
    reading = within(
        service.timeline,
        parse_levels({**LEVELS, "golden": {**LEVELS["golden"], "goodput_share": 0.9}}, "x"),
        "goodput_share",
        "golden",
        end=101.0,
        width_s=1.0,
    )
    assert (reading.value, reading.ok, reading.samples) == (0.25, False, 8)
    assert set(levels.goodput_ms) == set(LIMITS)
    told = sentence({"goodput": found})
    assert told.startswith("goodput 25.0 % before, 0.0 % during, 100.0 % after (TTFT 200 ms, TPOT")
    assert len(list(answers.goodput({"goodput": found}))) == 3


def test_without_a_fault_all_of_it_is_before() -> None:
    service = Service()
    service.answer(100.0, 0.1, 0.01, 5, True)
    found = goodput(service.told(), LIMITS, None, None, 110.0)
    assert found["before"]["share"] == 1
    assert found["during"]["share"] is None and found["after"]["share"] is None
    assert sentence({"goodput": goodput(Timeline(), LIMITS, None, None, 1.0)}) == ""


LEVELS = {
    "service_rto_s": 15,
    "golden": {"p99_latency_ms": 400, "error_rate": 0.01},
    "tolerated": {"p99_latency_ms": 800, "error_rate": 0.02},
}


def test_without_a_promise_the_golden_latency_is_the_limit() -> None:
    assert parse_levels(LEVELS, "x").goodput_ms == {"e2e_ms": 400}
    assert parse_levels({**LEVELS, "metric": "ttft"}, "x").goodput_ms == {"ttft_ms": 400}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "goodput lists some of"),
        ({"itl_ms": 3}, r"unknown key goodput\.itl_ms"),
        ({"ttft_ms": 0}, "give milliseconds above 0"),
        ({"ttft_ms": "fast"}, "'fast'"),
    ],
)
def test_a_promise_that_makes_no_sense(told: object, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        parse_levels({**LEVELS, "goodput": told}, "x")
