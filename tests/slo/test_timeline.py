"""The timeline: windows, horizon, persistence, and a cost that does not follow the request rate."""

from __future__ import annotations

import random
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate import EFFECT, feed_load, feed_sentinel, outcomes, recorded, timeline_with

from aftershock.errors import InvalidInput
from aftershock.slo.changepoint import Outcomes
from aftershock.slo.increments import combined
from aftershock.slo.slots import Slot
from aftershock.slo.timeline import Timeline


def test_a_window_adds_up_what_workers_reported() -> None:
    timeline, rng = Timeline(), random.Random(1)
    for worker in range(2):
        seen = outcomes(rng, 50, (2, 3), 1, 0, span=(0, 10))
        feed_load(timeline, seen, 10, worker=worker, workers=2, latency_s=0.1 + worker * 0.3)
    window = timeline.window(0, 10)
    assert window.requests == pytest.approx(1000, abs=4)
    assert window.errors == pytest.approx(100, abs=4)
    assert window.good == window.requests - window.errors
    assert window.p50_e2e_ms in (pytest.approx(100, rel=0.02), pytest.approx(400, rel=0.02))
    assert window.p99_e2e_ms == pytest.approx(400, rel=0.02)
    assert window.p99_ttft_ms == pytest.approx(200, rel=0.02)
    assert window.throughput_rps == pytest.approx(90, abs=1)
    assert timeline.window(20, 25).error_rate is None


def test_the_horizon_waits_for_the_slowest_worker_and_for_all_of_them() -> None:
    timeline = Timeline()
    empty = Outcomes([], [], [])
    feed_load(timeline, empty, 8.0, worker=0, workers=2)
    assert timeline.horizon() == 0
    feed_load(timeline, empty, 7.5, worker=1, workers=2)
    feed_sentinel(timeline, empty, 9.0)
    assert timeline.horizon() == 7.5
    assert timeline.horizon("health") == 9.0


def test_outcomes_end_at_the_horizon() -> None:
    timeline = Timeline()
    feed_sentinel(timeline, Outcomes([1.0, 2.0, 3.0], [1] * 3, [0, 1, 0]), until=2.5)
    assert list(timeline.outcomes("health", 0, 10).times) == [1.0, 2.0]


def test_a_killed_run_leaves_its_timeline(tmp_path: Path) -> None:
    path = tmp_path / "timeline"
    timeline = Timeline(path)
    feed_load(timeline, outcomes(random.Random(1), 50, (0, 0), 0, 0, span=(0, 10)), 10)
    feed_sentinel(timeline, Outcomes([1.0, 2.0], [1, 1], [0, 1]), 10)
    timeline.gauge("zone_share", "az-a", 0.3, 4.0)
    timeline.mark("t_effect", 5.0)
    with path.open("a") as file:
        file.write('{"gauge": "zone_sh')  # the kill
    kept = Timeline.load(path)
    assert kept.window(0, 10) == timeline.window(0, 10)
    assert kept.utc(5.0) == pytest.approx(timeline.utc(5.0))
    assert kept.marks == {"t_effect": 5.0}
    assert kept.series("zone_share") == {"az-a": [(4.0, 0.3)]}
    timeline.close()
    (tmp_path / "other").write_text('{"a": 1}\n')
    with pytest.raises(InvalidInput, match="not a timeline"):
        Timeline.load(tmp_path / "other")


def test_a_full_disk_costs_the_file_not_the_run() -> None:
    timeline = Timeline(Path("/dev/full"))
    timeline.mark("t_effect", 5.0)
    assert timeline.write_error and "No space left" in timeline.write_error
    assert timeline.marks == {"t_effect": 5.0}


def test_the_file_costs_the_same_at_any_rate(tmp_path: Path) -> None:
    sizes = []
    for rate in (200, 4000):
        timeline = Timeline(tmp_path / str(rate))
        rng = random.Random(1)
        for second in range(10):
            seen = outcomes(rng, rate, (0, 0), 0, 0, span=(second, second + 1))
            feed_load(timeline, seen, second + 1)
        timeline.close()
        sizes.append((tmp_path / str(rate)).stat().st_size)
    assert sizes[1] < 1.5 * sizes[0]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_hour_at_1000_a_second_takes_less_than_50_mib(tmp_path: Path, workers: int) -> None:
    """By 20 s of it through the real recorders; `make bench` does the whole hour."""
    path, seconds = tmp_path / "timeline", 20
    assert recorded(Timeline(path), 1000, seconds, workers=workers) > 19_000
    assert path.stat().st_size * 3600 / seconds < 50 * 2**20
    tracemalloc.start()
    kept = Timeline.load(path)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept.window(EFFECT, EFFECT + seconds).requests > 19_000
    assert held * 3600 / seconds < 200 * 2**20, "of an hour, in its reader's memory"
    assert most < held + 4 * 2**20, "it reads line by line"
    full = texts(kept)
    kept.fold(EFFECT, EFFECT + seconds)
    assert texts(kept) < full / 10
    assert kept.window(EFFECT, EFFECT + seconds).requests > 19_000


def texts(timeline: Timeline) -> int:
    held = [text for _, slot in timeline.slots() for kind in slot.encoded.values() for text in kind]
    return sum(map(len, held))


def load_messages() -> st.SearchStrategy[list[dict[str, Any]]]:
    slot = st.fixed_dictionaries(
        {"scheduled": st.integers(0, 9), "good": st.integers(-2, 9)},
        optional={"times": st.lists(st.floats(0.001, 30), min_size=1, max_size=5)},
    )
    message = st.fixed_dictionaries(
        {
            "source": st.just("load"),
            "worker": st.integers(0, 2),
            "workers": st.just(3),
            "decided": st.floats(0, 100),
            "not_sent": st.integers(0, 9),
            "slots": st.dictionaries(st.integers(0, 30).map(str), slot, max_size=3),
            "ticks": st.dictionaries(
                st.integers(0, 300).map(str), st.integers(1, 9).map(lambda due: [due, due // 2])
            ),
            "failures": st.lists(st.just({"kind": "reset"}), max_size=2),
        }
    )
    return st.lists(message, max_size=8).map(lambda found: [_on_the_wire(m) for m in found])


def _on_the_wire(message: dict[str, Any]) -> dict[str, Any]:
    slots = {}
    for index, told in message["slots"].items():
        slot = Slot()
        slot.counts.update(scheduled=told["scheduled"], good=told["good"])
        for seconds in told.get("times", ()):
            slot.add_time("e2e", seconds)
        slots[index] = slot.wire()
    return {**message, "slots": slots}


def look(timeline: Timeline) -> Any:
    windows = [timeline.window(at, at + 1) for at in range(4)]
    return windows, timeline.last_reports("load"), timeline.horizon(), len(timeline.failures)


@settings(max_examples=60, deadline=None)
@given(load_messages())
def test_reports_put_together_tell_the_same(messages: list[dict[str, Any]]) -> None:
    each, together = Timeline(), Timeline()
    for message in messages:
        each.feed(message)
    for message in combined(messages):
        together.feed(message)
    assert look(each) == look(together)


@settings(max_examples=60, deadline=None)
@given(load_messages())
def test_what_is_folded_keeps_its_sums(messages: list[dict[str, Any]]) -> None:
    timeline = Timeline()
    for message in messages:
        timeline.feed({**message, "decided": 100.0, "workers": 1})
    before = timeline.window(0, 10)
    timeline.fold(-1, 9.9)
    assert timeline.window(0, 10) == before, "that is no whole block"
    timeline.fold(0, 10)
    assert timeline.window(0, 10) == before
    assert len(timeline.slots()) <= 1


def test_folding_thins_out_the_good_and_keeps_the_bad(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path / "timeline")
    times = [at / 10 for at in range(400)]
    feed_sentinel(timeline, Outcomes(times, [1] * 400, [int(at == 12.3) for at in times]), 40)
    for at in range(40):
        timeline.gauge("gpu", "n", float(at), float(at))
    timeline.fold(0, 30)
    timeline.close()
    for seen in (timeline, Timeline.load(tmp_path / "timeline")):
        kept = [(sample.sent, sample.kind) for sample in seen.samples("health", 0, 30)]
        assert kept == [(0.0, ""), (10.0, ""), (12.3, "refused"), (20.0, "")]
        assert len(seen.samples("health", 30, 40)) == 100
        assert [at for at, _ in seen.series("gpu")["n"]][:5] == [0, 10, 20, 30, 31]


def test_a_window_seen_before_late_news_is_seen_anew() -> None:
    timeline = Timeline()
    feed_sentinel(timeline, Outcomes([1.0], [1], [0]), 2)
    assert timeline.window(0, 2).errors == 0
    feed_sentinel(timeline, Outcomes([1.5], [1], [1]), 2)
    assert timeline.window(0, 2).errors == 1


def test_many_threads_feed_at_once() -> None:
    timeline = Timeline()

    def feed(start: int) -> None:
        for i in range(200):
            feed_sentinel(timeline, Outcomes([start + i * 0.01], [1], [0]), 100)
            timeline.window(0, 100)

    threads = [threading.Thread(target=feed, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert timeline.window(0, 100).requests == 800


def test_slots_merge_from_the_wire() -> None:
    merged = Slot()
    for _ in range(2):
        part = Slot()
        part.counts.update(scheduled=3, good=2, cut=1)
        part.failed["cut"] += 1
        part.add_time("e2e", 0.2)
        merged.merge(part.wire())
    assert (merged.counts["scheduled"], merged.counts["good"], merged.failed["cut"]) == (6, 4, 2)
    assert len(merged.encoded["e2e"]) == 2


def test_without_load_the_sentinel_tells_the_latency() -> None:
    window = timeline_with([], end=6, load=False).window(EFFECT, EFFECT + 5)
    assert window.requests == pytest.approx(1000, abs=2)
    assert window.p99_e2e_ms == pytest.approx(2, rel=0.01)
