"""The pure parts of the load: arrivals, prompts, what an answer is, and the counting of calls."""

from __future__ import annotations

import json
import random
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.errors import InvalidInput
from aftershock.load.answers import Answer
from aftershock.load.arrivals import arrivals
from aftershock.load.lengths import Lengths
from aftershock.load.open_calls import OpenCalls
from aftershock.load.prompts import prompt, request
from aftershock.load.recorder import Recorder
from aftershock.load.sentinel import judge_completion, judge_health
from aftershock.load.settings import PROMPT_KINDS, LoadSettings, SentinelSettings, Stage
from aftershock.slo.timeline import Timeline

URL = "http://127.0.0.1:1"
MANY = Lengths("uniform", low=64, high=2048)


@given(
    rates=st.lists(st.tuples(st.floats(0, 200), st.floats(1, 200)), min_size=1, max_size=4),
    workers=st.integers(1, 3),
)
def test_constant_arrivals_count_what_the_stages_say(
    rates: list[tuple[float, float]], workers: int
) -> None:
    stages = [Stage(2.0, rate, end) for rate, end in rates]
    times = [list(arrivals(stages, "constant", 7, i, workers)) for i in range(workers)]
    expected = sum(rate + end for rate, end in rates)
    assert abs(sum(map(len, times)) - expected) <= workers + 1
    for each in times:
        assert each == sorted(each)
        assert all(0 <= at <= 2.0 * len(rates) + 1e-6 for at in each)


def test_poisson_arrivals_are_seeded_and_as_many_as_asked() -> None:
    stages = [Stage(10, 100), Stage(10, 100, 300)]
    first = list(arrivals(stages, "poisson", 7))
    assert first == list(arrivals(stages, "poisson", 7))
    assert first != list(arrivals(stages, "poisson", 8))
    assert len(first) == pytest.approx(3000, rel=0.1)
    assert sum(at < 10 for at in first) == pytest.approx(1000, rel=0.15)
    split = [at for i in range(4) for at in arrivals(stages, "poisson", 7, i, 4)]
    assert len(split) == pytest.approx(3000, rel=0.1)


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_prompts_of_each_kind(kind: str) -> None:
    text = prompt(random.Random(1), kind)
    assert text and (len(text) > 1000) == (kind in ("long", "shared"))


def test_requests_follow_the_settings_and_the_seed() -> None:
    settings = LoadSettings(URL, output_tokens=MANY, temperatures=(0.1, 1.0))
    rng = random.Random(3)
    asked = [request(rng, settings, i) for i in range(300)]
    again = random.Random(3)
    assert asked == [request(again, settings, i) for i in range(300)]
    assert {path for path, _ in asked} == {"/v1/completions", "/v1/chat/completions"}
    assert all(64 <= body["max_tokens"] <= 2048 for _, body in asked)
    assert {body["stream"] for _, body in asked} == {True, False}
    assert [body["temperature"] for _, body in asked] == [0.1, 1.0] * 150


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "gateway:80"}, "url"),
        ({"arrivals": "burst"}, "arrivals"),
        ({"timeout_s": 0.5}, "timeout_s"),
        ({"chat_share": 2}, "chat_share"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"retries": 11}, "retries"),
        ({"prompts": ("latin",)}, "prompts"),
        ({"stages": ()}, "stages"),
        ({"processes": 0}, "processes"),
    ],
)
def test_settings_that_make_no_sense_name_the_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        LoadSettings(**{"url": URL, **changes})


def test_stages_and_sentinel_settings_are_checked_too() -> None:
    for bad in ((0, 1), (1, -1), (1, 0)):
        with pytest.raises(InvalidInput, match="load stage"):
            Stage(*bad)
    with pytest.raises(InvalidInput, match="rate"):
        SentinelSettings(URL, rate=0)


def test_settings_travel_as_json() -> None:
    settings = LoadSettings(URL, stages=(Stage(5, 10, 20), Stage(3, 40)), headers={"a": "b"})
    assert LoadSettings.from_json(settings.to_json()) == settings


def event(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
TOKEN = event(text="a", finish_reason=None)
LAST = event(delta={"content": "b"}, finish_reason="stop")


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (TOKEN + LAST + DONE, ""),
        (TOKEN + LAST, "truncated"),
        (TOKEN + DONE, "truncated"),
        (event(text="", finish_reason="stop") + DONE, "empty"),
        (TOKEN + b'data: {"error": {"message": "died"}}\n\n' + DONE, "stream_error"),
        (TOKEN + b"data: {nonsense\n\n" + DONE, "stream_error"),
        (b": ping\n\n" + TOKEN + LAST + DONE, ""),
        (b"", "truncated"),
    ],
)
@given(cuts=st.lists(st.integers(0, 200), max_size=5))
def test_streams_in_any_pieces(stream: bytes, kind: str, cuts: list[int]) -> None:
    answer = Answer(streamed=True)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in pairwise(edges):
        answer.feed(stream[start:end])
    assert answer.end()[0] == kind


def test_answers_that_are_not_streamed() -> None:
    for text, kind in (
        (b'{"choices": [{"text": "a", "finish_reason": "length"}]}', ""),
        (b'{"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}', ""),
        (b'{"choices": [{"text": "a"', "truncated"),
        (b'{"error": {"message": "no"}}', "answer_error"),
        (b"[]", "truncated"),
    ):
        answer = Answer(streamed=False)
        answer.feed(text)
        assert answer.end()[0] == kind


def test_how_the_sentinel_judges() -> None:
    assert judge_health(b"HTTP/1.1 200 OK\r\n", False) == ""
    assert judge_health(b"HTTP/1.1 503 Gone\r\n", False) == "http_503"
    assert judge_health(b"HTTP/1.", False) is None
    assert judge_health(b"", True) == "cut"
    whole = b'HTTP/1.1 200 OK\r\n\r\n{"choices": [{}]}'
    assert judge_completion(whole, False) == ""
    assert judge_completion(whole[:-3], False) is None
    assert judge_completion(whole[:-3], True) == "cut"
    assert judge_completion(b"HTTP/1.1 500 Oh\r\n\r\n", False) == "http_500"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def recorded(metric: str = "e2e") -> tuple[Recorder, Clock, Timeline]:
    clock = Clock()
    return Recorder(1.0, metric, 10, clock), clock, Timeline()


def test_calls_end_as_good_slow_or_failed_and_nothing_is_lost() -> None:
    recorder, clock, timeline = recorded()
    calls = [recorder.due(100.0 + i / 100) for i in range(5)]
    for call in calls[:4]:
        recorder.sent(call)
    clock.now = 100.5
    recorder.finish(calls[0])
    clock.now = 103.0
    recorder.finish(calls[1])
    recorder.token(calls[2])
    recorder.fail(calls[2], "cut")
    recorder.drop(calls[4])
    timeline.feed(recorder.report(0, 1, float("inf")))
    window = timeline.window(99.95, 101)
    assert (window.requests, window.good, window.errors, window.cut) == (5, 1, 3, 1)
    assert recorder.in_flight == 1  # and it is an error by now: older than the limit
    assert [failure["kind"] for failure in timeline.failures] == ["cut", "not_sent"]
    assert timeline.horizon() == 102.0


def test_a_stream_that_began_well_and_was_cut_is_taken_back() -> None:
    recorder, clock, timeline = recorded("ttft")
    call = recorder.due(100.0)
    recorder.sent(call)
    clock.now = 100.2
    recorder.token(call)
    timeline.feed(recorder.report(0, 1, float("inf")))
    assert timeline.window(99.95, 100.15).good == 1
    clock.now = 104.0
    recorder.fail(call, "cut")
    timeline.feed(recorder.report(0, 1, float("inf")))
    window = timeline.window(99.95, 100.15)
    assert (window.good, window.errors, window.cut) == (0, 1, 1)
    assert timeline.outcomes("load", 99, 101).bad_count == 1


def test_what_is_not_yet_decided_holds_the_horizon_back() -> None:
    recorder, clock, timeline = recorded()
    recorder.due(100.0)
    clock.now = 100.4
    timeline.feed(recorder.report(0, 1, 100.35))
    assert timeline.horizon() == 100.0
    clock.now = 105.0
    timeline.feed(recorder.report(0, 1, 100.35))
    assert timeline.horizon() == pytest.approx(100.0)  # its dispatcher is behind


def test_what_is_let_go_unanswered_counts_neither_as_due_nor_as_sent() -> None:
    recorder, clock, timeline = recorded()
    held = OpenCalls()
    calls = [recorder.due(100.0 + i / 10) for i in range(5)]
    for call in calls[:4]:
        recorder.sent(call)
    clock.now = 100.6
    recorder.finish(calls[0])
    told = recorder.report(0, 1, float("inf"))
    held.note(told)
    timeline.feed(told)
    timeline.feed({**recorder.report(0, 1, float("inf")), **held.taken_back(99.0)})
    counts = [slot.counts for _, slot in timeline.slots()]
    assert sum(one["scheduled"] for one in counts) == sum(one["sent"] for one in counts) == 1


def test_only_so_many_failures_are_kept_whole() -> None:
    recorder, _, timeline = recorded()
    for call in [recorder.due(100.0) for _ in range(30)]:
        recorder.fail(call, "refused")
    timeline.feed(recorder.report(0, 1, float("inf")))
    assert len(timeline.failures) == 10
    assert timeline.window(99.95, 100.15).errors == 30


def test_arrivals_need_not_be_listed() -> None:
    endless = arrivals([Stage(float("inf"), 10)], "constant", 1)
    assert list(islice(endless, 3)) == pytest.approx([0, 0.1, 0.2])
