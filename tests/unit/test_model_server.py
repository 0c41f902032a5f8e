"""The model server without its sockets: batching, cost, answers, requests, metrics."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.lab.model_server.__main__ import arguments, block_count
from aftershock.lab.model_server.cost import CostModel, blocks_for
from aftershock.lab.model_server.device import DeviceError
from aftershock.lab.model_server.engine import Engine
from aftershock.lab.model_server.metrics import Histogram, Metrics
from aftershock.lab.model_server.requests import BadRequest, parse
from aftershock.lab.model_server.scheduler import Scheduler, Sequence
from aftershock.lab.model_server.text import Sampling, answer, count_tokens
from aftershock.lab.model_server.weights import Weights


def run_dry(scheduler: Scheduler, sequences: list[Sequence]) -> None:
    """Work until all are done, watching the books."""
    for sequence in sequences:
        scheduler.add(sequence)
    for _ in range(100_000):
        scheduler.admit()
        scheduler.finish()
        if not scheduler.running and not scheduler.waiting:
            break
        if scheduler.running:
            scheduler.advance(scheduler.steps_until(4))
        assert 0 <= scheduler.used_blocks <= scheduler.total_blocks
        assert scheduler.used_blocks == sum(each.blocks for each in scheduler.running)
        scheduler.finish()
    assert all(sequence.finished for sequence in sequences)
    assert scheduler.used_blocks == 0
    assert not scheduler.waiting


@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), min_size=1, max_size=20),
    st.integers(26, 100),
    st.integers(1, 8),
)
def test_every_sequence_ends_and_gives_its_blocks_back(
    shapes: list[tuple[int, int]], blocks: int, at_once: int
) -> None:
    sequences = [Sequence(prompt, target, streamed=True) for prompt, target in shapes]
    run_dry(Scheduler(blocks, max_sequences=at_once), sequences)


def test_what_does_not_fit_waits_and_the_youngest_is_preempted() -> None:
    scheduler = Scheduler(total_blocks=4)
    old, young, third = (Sequence(16, 40) for _ in range(3))
    for sequence in (old, young, third):
        scheduler.add(sequence)
    assert scheduler.admit() == [old, young]
    assert list(scheduler.waiting) == [third]
    scheduler.advance(16)
    assert scheduler.running == [old]
    assert list(scheduler.waiting) == [young, third]
    assert (scheduler.preemptions, scheduler.kv_usage) == (1, 0.75)


def test_an_abandoned_sequence_frees_its_blocks() -> None:
    scheduler = Scheduler(total_blocks=10, max_sequences=1)
    running, waiting = Sequence(20, 20), Sequence(20, 20)
    scheduler.add(running)
    scheduler.add(waiting)
    scheduler.admit()
    scheduler.abort(waiting)
    scheduler.abort(running)
    scheduler.abort(running)
    assert (scheduler.used_blocks, len(scheduler.waiting), scheduler.running) == (0, 0, [])


def test_steps_grow_with_the_batch_and_prefill_with_the_prompt() -> None:
    cost = CostModel()
    assert cost.decode_s(32) > cost.decode_s(1) > cost.decode_gpu_s(1)
    assert cost.prefill_s(1000) - cost.prefill_s(0) == pytest.approx(0.03)
    assert [blocks_for(tokens) for tokens in (1, 16, 17)] == [1, 1, 2]


class Card:
    """Counts the GPU's seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.stretch = 1.0

    async def ran(self, seconds: float) -> None:
        self.seconds += seconds


def test_the_engine_takes_the_time_that_the_model_says() -> None:
    async def story() -> None:
        card, metrics, cost = Card(), Metrics("m"), CostModel()
        engine = Engine(Scheduler(1000), cost, metrics, card)
        working = asyncio.create_task(engine.run())
        began = time.monotonic()
        counts = [count async for count in engine.generate(Sequence(10, 41, streamed=True))]
        took = time.monotonic() - began
        working.cancel()
        expected = cost.prefill_s(10) + 40 * cost.decode_s(1)
        assert counts[0] == 1
        assert counts == sorted(set(counts))
        assert counts[-1] == 41
        assert expected - 0.01 < took < expected + 0.3
        assert card.seconds == pytest.approx(cost.prefill_gpu_s(10) + 40 * cost.decode_gpu_s(1))
        assert metrics.generated_tokens == 41
        assert sum(metrics.ttft.counts) == sum(metrics.e2e.counts) == 1
        assert sum(metrics.itl.counts) == 40

    asyncio.run(story())


def test_what_was_preempted_is_paged_in_from_the_volume(tmp_path: Path) -> None:
    """At a scale: a file of 1 MiB that stands for 256 MiB, and KV blocks of 480 KiB a token."""
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(1 << 20))
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("no direct I/O in the folder for temporary files")

    async def story(weights: Weights | None) -> Engine:
        engine = Engine(Scheduler(4), CostModel(), Metrics("m"), Card(), weights)
        working = asyncio.create_task(engine.run())
        await asyncio.gather(*(drain(engine, Sequence(16, 40)) for _ in range(2)))
        working.cancel()
        assert engine.scheduler.preemptions > 0
        return engine

    weights = Weights(file, 256 << 20)
    metrics = asyncio.run(story(weights)).metrics
    assert metrics.paged_in_tokens > 16 and weights.read_bytes > 0
    paged = 'aftershock:kv_paged_in_tokens_total{engine="0",model_name="m"} '
    assert f"{paged}{metrics.paged_in_tokens}" in metrics.text(0, 0, 0.0, 1)
    assert asyncio.run(story(None)).metrics.paged_in_tokens == 0, "it was computed anew"


def test_a_late_arrival_does_not_wait_for_those_before_it() -> None:
    async def story() -> None:
        engine = Engine(Scheduler(1000), CostModel(), Metrics("m"), Card())
        working = asyncio.create_task(engine.run())
        long = asyncio.create_task(drain(engine, Sequence(10, 400)))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await drain(engine, Sequence(10, 1))
        assert time.monotonic() - began < 1.0
        assert not long.done()
        long.cancel()
        await asyncio.wait([long])
        assert engine.metrics.finished["abort"] == 1
        assert engine.scheduler.used_blocks == 0
        working.cancel()

    asyncio.run(story())


def test_who_comes_while_others_are_prefilled_does_not_wait_for_their_end() -> None:
    """That nobody waited for an arrival at that moment loses no arrival."""

    async def story() -> None:
        engine = Engine(Scheduler(1000), CostModel(), Metrics("m"), Card())
        working = asyncio.create_task(engine.run())
        long = asyncio.create_task(drain(engine, Sequence(4000, 400)))  # 120 ms of prefill
        await asyncio.sleep(0.03)
        assert engine.scheduler.running and not engine.metrics.generated_tokens
        await drain(engine, Sequence(10, 1))
        assert not long.done()
        for task in (long, working):
            task.cancel()
        await asyncio.wait([long, working])

    asyncio.run(story())


async def drain(engine: Engine, sequence: Sequence) -> None:
    async for _ in engine.generate(sequence):
        pass


def test_an_answer_keeps_within_its_bounds() -> None:
    assert len(answer("p", Sampling(max_tokens=8)).tokens) <= 8
    assert len(answer("p", Sampling(max_tokens=900, min_tokens=850)).tokens) >= 850
    whole = answer("p", Sampling(max_tokens=2048, ignore_eos=True))
    assert (len(whole.tokens), whole.finish_reason) == (2048, "length")
    natural = answer("p", Sampling(max_tokens=4000))
    assert natural.finish_reason == "stop"


def test_a_stop_string_ends_the_answer_before_it() -> None:
    free = answer("p", Sampling(max_tokens=50, ignore_eos=True))
    text = free.text(0, 50)
    stop = free.tokens[20].strip()
    cut = answer("p", Sampling(max_tokens=50, ignore_eos=True, stop=(stop,)))
    assert cut.text(0, 50) == text[: text.index(stop)]
    assert cut.finish_reason == "stop"


def test_answers_leave_nothing_in_memory() -> None:
    """A soak of the lab watches its servers' memory; the interpreter's free lists count, too."""
    gc.collect()
    answer("warm", Sampling(max_tokens=8, ignore_eos=True))
    before = sys.getallocatedblocks()
    for number in range(1500):
        answer(f"prompt {number}", Sampling(max_tokens=4 + number % 13, ignore_eos=True))
    assert sys.getallocatedblocks() - before < 150


def test_tokens_are_counted_by_bytes() -> None:
    assert [count_tokens(text) for text in ("", "abcd", "abcde", "你好")] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": ["hi"]}, "must have a role"),
        ({"messages": [{"role": "user"}]}, "must have content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only text"),
        ({"messages": [{"role": "user", "content": "a"}], "n": 2}, "n must be 1"),
        ({"messages": [{"role": "user", "content": "a"}], "max_tokens": True}, "an integer"),
        ({"messages": [{"role": "user", "content": "a"}], "stop": [1]}, "stop must be"),
        ({"messages": [{"role": "user", "content": "a"}], "stop": 1}, "stop must be"),
        ({"messages": [{"role": "user", "content": "a"}], "stream_options": 1}, "an object"),
    ],
)
def test_bad_chats_are_refused(body: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        parse(body, chat=True, model="m", max_model_len=100, default_seed=0)


def test_a_list_of_prompts_and_token_ids_are_understood() -> None:
    several = parse({"prompt": ["a", "b" * 40]}, False, "m", 100, 0)
    assert several.prompt_tokens == (1, 10)
    ids = parse({"prompt": [1, 2, 3]}, False, "m", 100, 0)
    assert ids.prompt_tokens == (3,)
    chat = parse({"messages": [{"role": "user", "content": "a"}]}, True, "m", 100, 0)
    assert chat.sampling.max_tokens == 98


def test_a_histogram_is_cumulative() -> None:
    histogram = Histogram("h", "about", (0.1, 1.0))
    histogram.observe(0.1)
    histogram.observe(0.5, 2)
    histogram.observe(7)
    assert histogram.lines("a") == [
        *("# HELP h about", "# TYPE h histogram", 'h_bucket{a,le="0.1"} 1'),
        *('h_bucket{a,le="1.0"} 3', 'h_bucket{a,le="+Inf"} 4', "h_count{a} 4", "h_sum{a} 8.1"),
    ]


def test_a_cache_too_small_for_one_sequence_is_refused_as_vllm_does() -> None:
    options = arguments(["--num-gpu-blocks-override", "10", "--max-model-len", "161"])
    with pytest.raises(DeviceError, match="larger than the maximum number of tokens"):
        block_count(options, 0)
