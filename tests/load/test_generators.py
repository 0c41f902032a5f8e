"""The load and the sentinel as processes: their schedule, their honesty, and their end."""

from __future__ import annotations

import os
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
from rig import offspring

from aftershock.errors import AftershockError
from aftershock.load.generator import Generator, Sentinel
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


def test_the_sentinel_takes_under_a_tenth_of_a_core_at_200_a_second(start_service: Any) -> None:
    service = start_service()
    timeline, sentinel = Timeline(), Sentinel(SentinelSettings(service.url, rate=200))
    sentinel.start(timeline)
    try:
        sentinel.wait_until_sending()
        process = psutil.Process(sentinel.pid)
        before, begin = process.cpu_times(), time.monotonic()
        wait(5)
        after, end = process.cpu_times(), time.monotonic()
    finally:
        sentinel.stop()
    share = (after.user + after.system - before.user - before.system) / (end - begin)
    samples = timeline.samples("health", begin, end)
    assert len(samples) == pytest.approx(1000, abs=20)
    assert not [sample for sample in samples if sample.kind]
    assert share < 0.10, f"{share:.1%} of a core"
    canaries = timeline.samples("canary", begin, end)
    assert 4 <= len(canaries) <= 6
    assert not [sample for sample in canaries if sample.kind]


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


def test_a_truncated_stream_and_an_error_in_one_are_failures(start_service: Any) -> None:
    service = start_service(truncate=0.3, stream_errors=0.2)
    settings = LoadSettings(service.url, stages=(Stage(60, 60),), stream_share=1.0)
    timeline, generator = load_for(2.5, settings)
    stats = generator.stats()
    kinds = [failure["kind"] for failure in timeline.failures]
    assert stats.scheduled == stats.ok + stats.failed + stats.in_flight
    assert kinds.count("truncated") > 0.15 * stats.scheduled
    assert kinds.count("stream_error") > 0.05 * stats.scheduled
    assert stats.cut == stats.failed
    assert set(kinds) == {"truncated", "stream_error"}


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


def test_requests_in_flight_at_the_end_are_counted(start_service: Any) -> None:
    begin = time.monotonic() + 2
    service = start_service(outages=[[begin, begin + 60, 1, "stall"]])
    settings = LoadSettings(service.url, stages=(Stage(60, 40),))
    _, generator = load_for(begin + 1 - time.monotonic(), settings)
    stats = generator.stats()
    assert stats.in_flight > 20
    assert stats.scheduled == stats.ok + stats.failed + stats.in_flight


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
    lag = generator.stats().dispatch_lag_p99_ms
    assert lag is not None and lag > 100


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


def test_tls_that_fails_is_told_apart(start_service: Any) -> None:
    service = start_service()
    url = service.url.replace("http:", "https:")
    timeline, sentinel = Timeline(), Sentinel(SentinelSettings(url, rate=20))
    sentinel.start(timeline)
    try:
        wait(1.5)
    finally:
        sentinel.stop()
    assert {sample.kind for sample in timeline.samples("health")} <= {"tls", "timeout", "reset"}
    assert timeline.samples("health")


def test_a_service_that_is_not_there_is_refused_not_fatal() -> None:
    timeline, sentinel = Timeline(), Sentinel(SentinelSettings("http://127.0.0.1:9", rate=50))
    sentinel.start(timeline)
    try:
        wait(1.5)
    finally:
        sentinel.stop()
    kinds = {sample.kind for sample in timeline.samples("health")}
    assert kinds == {"refused"}
