"""Answers' quality: each way to spoil them is found on a real model server, sound ones pass."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from aiohttp import web

from aftershock.errors import InvalidInput
from aftershock.lab.model_server.api import Api
from aftershock.lab.model_server.cost import CostModel
from aftershock.lab.model_server.engine import Engine
from aftershock.lab.model_server.metrics import Metrics
from aftershock.lab.model_server.scheduler import Scheduler
from aftershock.lab.model_server.spoiling import SPOILED
from aftershock.load import quality
from aftershock.load.golden import PROMPTS
from aftershock.load.quality import GoldenPrompts, scorer_of
from aftershock.load.scoring import Sample, alike, judge, script_of
from aftershock.report.sentences import quality as sentence
from aftershock.slo.verdict import RunFacts, decide

# What each way to spoil answers is found as, of some of the prompts at least.
FOUND_AS = {
    "corrupt": "not the same",
    "garble": "garbled",
    "repeat": "repetition",
    "swap": "wrong answer",
    "translate": "wrong language",
    "truncate": "shortened",
}


class NoGpu:
    stretch = 1.0

    async def ran(self, seconds: float) -> None:
        pass


class Server:
    """The lab's model server on loopback, in a thread; `api.spoil` tells it what to do."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._over: asyncio.Event | None = None
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(self._serve()))
        self.thread.start()
        assert self._up.wait(20)

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        cost = CostModel(0.05, 0.05, 0.0, 0.05, 0.0)
        engine = Engine(Scheduler(1000), cost, Metrics("m"), NoGpu())
        self.api = Api(engine, "m", 4096, 7)
        runner = web.AppRunner(self.api.application())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        working = asyncio.create_task(engine.run())
        self._up.set()
        await self._over.wait()
        await runner.cleanup()
        working.cancel()

    def stop(self) -> None:
        assert self._over
        self.loop.call_soon_threadsafe(self._over.set)
        self.thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


def answered(golden: GoldenPrompts, since: float, least: int) -> list[Sample]:
    """The samples asked for since then, once there are so many."""
    deadline = time.monotonic() + 20
    while len(found := [s for s in golden.samples if s.at >= since]) < least:
        assert time.monotonic() < deadline, golden.samples[-1:]
        time.sleep(0.02)
    return found


def test_each_way_to_spoil_answers_is_found_and_sound_ones_are_not(server: Server) -> None:
    assert set(FOUND_AS) == set(SPOILED)
    golden = GoldenPrompts(server.url, "m", 100, {}, True)
    golden.start()
    try:
        before = answered(golden, 0, 40)
        for mode in (None, *FOUND_AS):
            server.api.spoil = mode
            time.sleep(0.05)  # what was on its way
            effect = time.monotonic()
            later = answered(golden, effect, 2 * len(PROMPTS))
            told = judge([*before, *later], effect, None, exact=True)
            assert told["unmeasured"] == "" and told["before"]["bad"] == 0
            if mode is None:
                assert told["dropped"] == "" and told["during"]["bad"] == 0, told
                assert told["during"]["right"] == told["during"]["questions"] >= 14, told
                continue
            if mode in ("corrupt", "swap"):
                assert told["during"]["right"] == 0 < told["before"]["right"], told
            assert told["during"]["bad"] == told["during"]["answers"], (mode, told)
            assert told["during"]["kinds"][FOUND_AS[mode]] >= 2, (mode, told)
            assert told["dropped"].startswith("answers got worse during the fault: "), told
            words = decide(RunFacts(15, 1000, quality=told)).reasons
            assert "quality_dropped" in [reason.code for reason in words]
            told = judge([*before, *later], before[20].at, effect, exact=True)
            assert "after the fault" in told["dropped"], "and it is told when"
    finally:
        server.api.spoil = None
        golden.stop()
    assert all(sample.text and not sample.kind for sample in before)
    sums = {s.text.split()[0] for s in before if PROMPTS[s.prompt].family == "arithmetic"}
    assert sums == {"42", "113", "700"}
    facts = {s.text.split()[0] for s in before if PROMPTS[s.prompt].family == "facts"}
    assert facts == {"Paris", "北京", "東京", "서울"}


def test_a_service_that_is_away_has_no_bad_answers(server: Server) -> None:
    golden = GoldenPrompts("http://127.0.0.1:9", "m", 200, {}, True)
    golden.start()
    samples = answered(golden, 0, 10)
    golden.stop()
    assert {sample.kind for sample in samples} == {"ConnectionRefusedError"}
    told = judge(samples, samples[0].at, None, exact=True)
    assert told["dropped"] == "" and told["unanswered"] == len(samples)
    assert told["unmeasured"] == "0 golden answers before the fault: 8 are needed"
    assert judge([], 1.0, None, exact=True) == {}


def sums(right: int, wrong: int, at: float) -> list[Sample]:
    """Answers to one of the sums, all of them different; so many have it right."""
    number = next(i for i, one in enumerate(PROMPTS) if one.answer == "42")
    texts = [f"42, I would say, {i}" for i in range(right)]
    texts += [f"43, I would say, {i}" for i in range(wrong)]
    return [Sample(at + i / 100, number, "a", text) for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("before", "during", "after", "phase"),
    [
        ((18, 2), (18, 2), (18, 2), ""),
        ((18, 2), (10, 10), (18, 2), ""),  # a service that guesses does that in one run of 145
        ((18, 2), (6, 14), (18, 2), "during"),
        ((18, 2), (18, 2), (5, 15), "after"),
        ((2, 18), (18, 2), (18, 2), ""),
        ((3, 17), (0, 20), (0, 20), ""),
    ],
)
def test_fewer_right_answers_are_a_drop_though_some_were_wrong_before(
    before: tuple[int, int], during: tuple[int, int], after: tuple[int, int], phase: str
) -> None:
    rows = [*sums(*before, 0.0), *sums(*during, 10.0), *sums(*after, 20.0)]
    told = judge(rows, 10.0, 20.0, exact=False, scorer=lambda *_: 1.0)
    assert (told["before"]["right"], told["before"]["questions"]) == (before[0], sum(before))
    right, asked = during if phase != "after" else after
    said = f"fewer right answers {phase} the fault: {right} of {right + asked}, {before[0]} of"
    assert told["dropped"].startswith(said) if phase else told["dropped"] == "", told["dropped"]


SAID = "the load balancer sends each request to a server that is up and healthy right now"


def varied(rng: random.Random, changed: int) -> str:
    """An engine that isn't exact says the same in slightly other words."""
    words = SAID.split()
    for i in rng.sample(range(len(words)), changed):
        words[i] = rng.choice(("service", "node", "it", "any", "one"))
    return " ".join(words)


def told_of(texts: list[str], **more: Any) -> dict[str, Any]:
    rng = random.Random(1)
    before = [Sample(float(i), 0, "a", varied(rng, 2)) for i in range(30)]
    later = [Sample(100.0 + i, 0, "a", text) for i, text in enumerate(texts)]
    return judge([*before, *later], 50.0, None, **{"exact": False, **more})


def test_who_promises_no_exact_answers_is_held_to_likeness() -> None:
    rng = random.Random(2)
    assert told_of([varied(rng, 3) for _ in range(30)])["during"]["bad"] == 0
    other = "quite another story is told here about rivers and mountains and the sea today okay"
    worse = told_of([varied(rng, 2), other] * 15)
    assert worse["during"]["kinds"] == {"another answer": 15} and worse["dropped"]
    # One in thirty may be chance.
    assert told_of([other, *(varied(rng, 2) for _ in range(29))])["dropped"] == ""
    # A baseline that isn't exact itself is not held to be.
    assert told_of([varied(rng, 2) for _ in range(30)], exact=True)["dropped"] == ""


def test_a_score_of_ones_own_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def polite(prompt: str, baseline: Any, text: str) -> float:
        assert prompt == PROMPTS[0].text and len(baseline) > 1
        return float("please" in text)

    rude, kind = told_of(["go away, all of you here and now, and do not come back"] * 12), "please"
    assert rude["dropped"]
    nice = [f"{kind} wait for the other one {i} who comes soon to you" for i in range(12)]
    assert told_of(nice, scorer=polite)["during"]["bad"] == 0
    assert told_of(["go away, all of you, at once and for ever"] * 12, scorer=polite)["dropped"]
    mine = EntryPoint("mine", f"{script_of.__module__}:alike", quality.GROUP)
    monkeypatch.setattr(quality, "entry_points", lambda group: EntryPoints([mine]))
    assert scorer_of("mine") is alike and scorer_of("") is None
    with pytest.raises(InvalidInput, match=r"no such entry point .* \(installed: mine\)"):
        scorer_of("yours")


def test_too_few_answers_are_inconclusive() -> None:
    told = told_of([varied(random.Random(2), 2)] * 3)
    assert told["unmeasured"] == "3 golden answers since the fault: 8 are needed"
    codes = {r.code: r.word for r in decide(RunFacts(15, 1000, quality=told)).reasons}
    assert codes["quality_unmeasured"] == "INCONCLUSIVE" and "quality_dropped" not in codes
    assert sentence({"quality": told}) == "bad answers 0 of 3 during (compared with 30 before)"
    assert sentence({"quality": {}}) == sentence({}) == ""


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("A node is gone.", "LATIN"),
        ("请解释负载均衡器", "CJK"),
        ("ロードバランサーの役割を説明", "JAPANESE"),
        ("로드 밸런서", "HANGUL"),
        ("Служба", "CYRILLIC"),
        ("42 + 1", ""),
    ],
)
def test_scripts(text: str, script: str) -> None:
    assert script_of(text) == script
