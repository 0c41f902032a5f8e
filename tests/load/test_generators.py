"""The load and the sentinel as processes: their schedule, their honesty, and their end."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from rig import certificate, offspring
from streams import KINDS

from aftershock.errors import AftershockError
from aftershock.load.generator import Generator, GeneratorStats, Sentinel
from aftershock.load.profile import load_profile
from aftershock.load.settings import LoadSettings, SentinelSettings, Stage
from aftershock.slo.timeline import Timeline


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def load_for(seconds: float, settings: LoadSettings) -> tuple[Timeline, Generator]:
    timeline, generator = Timeline(), Generator(settings)
    generator.start(timeline)
    try:
        generator.wait_until_sending()
        wait(seconds)
    finally:
        generator.stop()
    return timeline, generator


@pytest.mark.timed
def test_the_sentinel_keeps_its_schedule_at_200_a_second(start_service: Any) -> None:
    """What that costs is a row of `make bench`."""
    service = start_service()
    timeline, sentinel = Timeline(), Sentinel(SentinelSettings(service.url, rate=200))
    sentinel.start(timeline)
    try:
        sentinel.wait_until_sending()
        begin = time.monotonic()
        wait(5)
        end = time.monotonic()
    finally:
        sentinel.stop()
    samples = timeline.samples("health", begin, end)
    assert len(samples) == pytest.approx(200 * (end - begin), abs=20)
    assert not [sample for sample in samples if sample.kind]
    canaries = timeline.samples("canary", begin, end)
    assert 4 <= len(canaries) <= 6
    assert not [sample for sample in canaries if sample.kind]


@pytest.mark.timed
def test_a_stall_does_not_slow_the_schedule_and_p99_tells_it(start_service: Any) -> None:
    begin = time.monotonic() + 4
    service = start_service(outages=[[begin, begin + 2, 1, "stall"]])
    settings = LoadSettings(
        service.url, stages=(Stage(60, 50),), arrivals="constant", stream_share=0
    )
    timeline, generator = load_for(begin + 4 - time.monotonic(), settings)
    stalled = timeline.window(begin, begin + 2)
    assert stalled.requests == pytest.approx(100, abs=4)
    assert stalled.p99_e2e_ms == pytest.approx(2000, rel=0.1)
    assert stalled.p50_e2e_ms == pytest.approx(1060, rel=0.15)
    assert stalled.good < 60
    lag = generator.stats().dispatch_lag_p99_ms
    assert lag is not None and lag < 50


def test_each_kind_of_broken_answer_is_a_failure_of_its_own_and_tokens_are_counted(
    start_service: Any,
) -> None:
    service = start_service(modes=[*KINDS, "told_back"])
    settings = LoadSettings(
        service.url,
        stages=(Stage(60, 60),),
        stream_share=1.0,
        headers={"Authorization": "Bearer sk-not-to-be-told"},
    )
    timeline, generator = load_for(2.5, settings)
    stats = generator.stats()
    told = {failure["kind"] for failure in timeline.failures}
    assert told == {*KINDS.values(), "http_401"} - {""}
    back = [f["detail"] for f in timeline.failures if f["kind"] == "http_401"]
    assert "Authorization: ***" in back[0], back
    assert "sk-not-to-be-told" not in json.dumps(timeline.failures) + generator.said
    assert stats.scheduled == stats.ok + stats.failed + stats.in_flight
    assert 0 < stats.cut < stats.failed, "some failed before their first token"
    sound = sum(not KINDS[one["mode"]] for one in service.events if "mode" in one)
    assert sound - 3 <= stats.ok <= sound
    assert stats.usage_told > 0.6 * stats.ok and stats.output_tokens > 4 * stats.ok
    for name in ("ttft", "itl", "tpot", "e2e"):
        assert getattr(stats, f"{name}_p99_ms") is not None, name
    assert stats.e2e_from_sent_p99_ms <= 1.02 * stats.e2e_p99_ms


def test_requests_that_were_refused_are_sent_again_where_that_was_asked(start_service: Any) -> None:
    now = time.monotonic()
    service = start_service(outages=[[now, now + 60, 0.5, "reset"]], seed=3)
    settings = LoadSettings(service.url, stages=(Stage(60, 60),), retries=8)
    stats = load_for(1, settings)[1].stats()
    assert stats.retried > 20 and stats.failed <= 0.1 * stats.scheduled, stats
    assert stats.scheduled == stats.ok + stats.failed + stats.in_flight


@pytest.mark.timed
def test_workers_of_two_processes_add_up(start_service: Any) -> None:
    service = start_service()
    settings = LoadSettings(service.url, stages=(Stage(60, 100),), processes=2)
    timeline, generator = Timeline(), Generator(settings)
    generator.start(timeline)
    try:
        generator.wait_until_sending()
        wait(3)
        horizon, now = timeline.horizon("load"), time.monotonic()
        assert now - horizon < 0.5
        window = timeline.window(horizon - 2, horizon)
        assert len(timeline.last_reports("load")) == 2
    finally:
        generator.stop()
    stats = generator.stats()
    assert window.requests == pytest.approx(200, abs=50)
    assert window.errors == 0
    assert stats.scheduled == stats.sent == stats.ok + stats.in_flight


@pytest.mark.timed
def test_a_profile_steps_its_rate_and_holds_the_last_one(
    start_service: Any, tmp_path: Path
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "arrivals: constant\nstages:\n"
        "  - {kind: baseline, rate_rps: 10, duration_s: 1}\n"
        "  - {kind: step, rate_rps: 60, duration_s: 0.5}\n"
    )
    settings = load_profile(str(path)).onto(LoadSettings(start_service().url, processes=2), 60)
    timeline, _ = load_for(3, settings)
    began = min(report["began"] for report in timeline.last_reports("load"))
    counts = [timeline.window(began + a, began + a + 0.8).requests for a in (0, 1.2, 2.2)]
    assert counts[0] == pytest.approx(8, abs=3)
    assert counts[1:] == [pytest.approx(48, abs=6)] * 2


def test_requests_ask_for_what_the_trace_and_the_profile_say(
    start_service: Any, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("0, 50, 3\n0.02, 100, 5\n")
    (tmp_path / "p.yaml").write_text(
        "trace: t.csv\nrequests: {temperatures: [0.1, 0.5, 0.9], stream_share: 0}\n"
    )
    service = start_service(tell=True)
    profile = load_profile(str(tmp_path / "p.yaml"))
    load_for(1, profile.onto(LoadSettings(service.url), 60))
    told = [event for event in service.events if "asked" in event]
    assert len(told) > 20
    for event in told:  # four bytes a token, less a character that would be cut
        assert event["prompt"] == pytest.approx({3: 200, 5: 400}[event["asked"]], abs=3)
    assert [event["temperature"] for event in told[:6]] == [0.1, 0.5, 0.9] * 2


def test_requests_in_flight_at_the_end_are_counted(start_service: Any) -> None:
    begin = time.monotonic() + 2
    service = start_service(outages=[[begin, begin + 60, 1, "stall"]])
    settings = LoadSettings(service.url, stages=(Stage(60, 40),))
    _, generator = load_for(begin + 1 - time.monotonic(), settings)
    stats = generator.stats()
    assert stats.in_flight > 20
    assert stats.scheduled == stats.ok + stats.failed + stats.in_flight


@pytest.mark.timed
def test_a_starved_generator_shows_its_lag(start_service: Any) -> None:
    service = start_service()
    timeline = Timeline()
    generator = Generator(LoadSettings(service.url, stages=(Stage(60, 50),)))
    generator.start(timeline)
    try:
        generator.wait_until_sending()
        assert generator.pid
        for _ in range(4):
            os.kill(generator.pid, signal.SIGSTOP)
            wait(0.3)
            os.kill(generator.pid, signal.SIGCONT)
            wait(0.3)
    finally:
        generator.stop()
    stats = generator.stats()
    assert stats.dispatch_lag_p99_ms is not None and stats.dispatch_lag_p99_ms > 100
    assert "event_loop" in resources(stats), stats.ran_out


def resources(stats: GeneratorStats) -> set[str]:
    return {str(one["resource"]) for one in stats.ran_out}


def test_a_rate_beyond_one_processor_is_told_as_such() -> None:
    nobody = LoadSettings("http://127.0.0.1:9", stages=(Stage(60, 20_000),), failures_kept=0)
    _, generator = load_for(1.5, nobody)
    stats = generator.stats()
    assert stats.dispatch_lag_p99_ms is not None and stats.dispatch_lag_p99_ms > 100
    # The second one where others want this machine's processors, too.
    assert resources(stats) & {"worker_cpu", "machine_cpu"}, stats.ran_out
    assert "descriptors" not in resources(stats)


def test_requests_that_this_machine_refuses_are_its_own_fault(start_service: Any) -> None:
    now = time.monotonic()
    service = start_service(outages=[[now, now + 60, 1, "stall"]])
    timeline = Timeline()
    generator = Generator(LoadSettings(service.url, stages=(Stage(60, 60),)))
    generator.start(timeline)
    try:
        generator.wait_until_sending()
        assert generator.pid
        few = len(list(Path(f"/proc/{generator.pid}/fd").iterdir())) + 10
        resource.prlimit(generator.pid, resource.RLIMIT_NOFILE, (few, few))
        wait(1.5)
    finally:
        generator.stop()
    stats = generator.stats()
    assert {failure["kind"] for failure in timeline.failures} == {"not_sent"}
    assert stats.not_sent > 20
    told = next(one for one in stats.ran_out if one["resource"] == "descriptors")
    assert f"file descriptors (it may have {few}): raise `ulimit -n`" in told["text"]
    assert "requests_in_flight" not in resources(stats)
    assert stats.scheduled == stats.ok + stats.failed + stats.in_flight


@pytest.mark.timed
def test_a_paused_controller_loses_nothing(start_service: Any, monkeypatch: Any) -> None:
    service = start_service()
    timeline, sentinel = Timeline(), Sentinel(SentinelSettings(service.url, rate=100))
    paused = threading.Event()
    feed = timeline.feed

    def slow_feed(message: Any) -> None:
        if not paused.is_set():
            paused.set()
            wait(2)
        feed(message)

    monkeypatch.setattr(timeline, "feed", slow_feed)
    sentinel.start(timeline)
    try:
        wait(3)
    finally:
        sentinel.stop()
    sent = [sample.scheduled for sample in timeline.samples("health")]
    assert len(sent) > 230
    assert max(b - a for a, b in pairwise(sent)) < 0.1


def test_one_that_sends_nothing_says_whether_it_ended_or_what_it_waited_for() -> None:
    sentinel = Sentinel(SentinelSettings("http://nowhere.invalid:1"))
    sentinel.start(Timeline())
    try:
        with pytest.raises(AftershockError, match=r"ended before it sent anything: .* check the"):
            sentinel.wait_until_sending()
    finally:
        sentinel.stop()
    generator = Generator(LoadSettings("http://127.0.0.1:9", stages=(Stage(60, 1),)))
    generator.start(Timeline())
    try:
        assert generator.pid
        os.kill(generator.pid, signal.SIGSTOP)
        said = r"nothing within 0.2 s, in which it ran for 0.\d s and waited 0.\d s for a processor"
        with pytest.raises(AftershockError, match=said):
            generator.wait_until_sending(0.2)
    finally:
        generator.stop()


def test_both_end_within_2_s_of_their_parents_death(start_service: Any, tmp_path: Path) -> None:
    service = start_service()
    script = tmp_path / "controller.py"
    script.write_text(
        textwrap.dedent(f"""
        import time
        from aftershock.load.generator import Generator, Sentinel
        from aftershock.load.settings import LoadSettings, SentinelSettings, Stage
        from aftershock.slo.timeline import Timeline
        from pathlib import Path
        timeline = Timeline(Path({str(tmp_path / "timeline")!r}))
        settings = LoadSettings({service.url!r}, stages=(Stage(60, 20),), processes=2)
        generator, sentinel = Generator(settings), Sentinel(SentinelSettings({service.url!r}))
        generator.start(timeline)
        sentinel.start(timeline)
        generator.wait_until_sending()
        print("up", flush=True)
        time.sleep(60)
        """)
    )
    controller = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert controller.stdout and controller.stdout.readline() == b"up\n"
    children = offspring(controller.pid)
    assert len(children) >= 4  # the sentinel, Locust's master and two workers
    controller.kill()
    controller.wait()
    controller.stdout.close()
    deadline = time.monotonic() + 2
    while (left := {pid for pid in children if lives(pid)}) and time.monotonic() < deadline:
        wait(0.02)
    assert not left
    kept = Timeline.load(tmp_path / "timeline")
    assert kept.sources == ["canary", "health", "load"]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_generator_that_cannot_start_says_why(start_service: Any, monkeypatch: Any) -> None:
    service = start_service()
    generator = Generator(LoadSettings(service.url))
    monkeypatch.setattr(generator, "_command", lambda: [sys.executable, "-c", "print(1/0)"])
    generator.start(Timeline())
    with pytest.raises(AftershockError, match="ZeroDivisionError"):
        generator.wait_until_sending(5)
    generator.stop()
    generator.stop()


def test_an_address_that_does_not_exist_is_told_in_one_sentence() -> None:
    sentinel = Sentinel(SentinelSettings("http://nowhere.invalid"))
    sentinel.start(Timeline())
    with pytest.raises(AftershockError, match=r"nowhere\.invalid.*check the url") as raised:
        sentinel.wait_until_sending(15)
    sentinel.stop()
    assert "\n" not in str(raised.value)


def test_a_certificate_is_verified_unless_that_was_asked_not_to_be(
    start_service: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    files = certificate(tmp_path)
    url = start_service(tls=files).url.replace("http:", "https:")
    believing = Generator(LoadSettings(url, stages=(Stage(60, 30),)))
    feeders: dict[str, Any] = {
        "wary": Sentinel(SentinelSettings(url, rate=20)),
        "told": Sentinel(SentinelSettings(url, rate=20, verify_tls=False)),
        "strict": Generator(LoadSettings(url, stages=(Stage(60, 30),))),
    }
    monkeypatch.setenv("SSL_CERT_FILE", files[0])
    timelines = {name: Timeline() for name in [*feeders, "believing"]}
    believing.start(timelines["believing"])
    monkeypatch.delenv("SSL_CERT_FILE")
    for name, feeder in feeders.items():
        feeder.start(timelines[name])
    feeders["believing"] = believing
    try:
        for feeder in feeders.values():
            feeder.wait_until_sending()
        wait(1)
    finally:
        for feeder in feeders.values():
            feeder.stop()
    wary = {sample.kind for sample in timelines["wary"].samples("health")}
    assert "tls" in wary and wary <= {"tls", "timeout"}, "a busy machine may be late to say no"
    assert "" in {sample.kind for sample in timelines["told"].samples("health")}
    assert {one["kind"] for one in timelines["strict"].failures} == {"tls"}
    assert believing.stats().ok > 0, timelines["believing"].failures[:1]


def test_a_service_that_is_not_there_is_refused_not_fatal() -> None:
    timeline, sentinel = Timeline(), Sentinel(SentinelSettings("http://127.0.0.1:9", rate=50))
    sentinel.start(timeline)
    try:
        wait(1.5)
    finally:
        sentinel.stop()
    kinds = {sample.kind for sample in timeline.samples("health")}
    assert kinds == {"refused"}
