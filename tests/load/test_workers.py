"""Workers of the load on other machines: their clocks, their shares, and what losing one costs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aftershock.load.clocks import Clock
from aftershock.load.generator import Generator
from aftershock.load.settings import LoadSettings, Stage
from aftershock.run.settings import Settings
from aftershock.slo.timeline import Timeline
from aftershock.slo.verdict import INCONCLUSIVE, RunFacts, decide
from tests.agent.wires import wait_for

ELSEWHERE_S = 5000  # by so much another machine's clock is ahead
RATE = 60
ROOT = Path(__file__).parents[2]


@contextmanager
def worker(port: int, *before: str) -> Iterator[subprocess.Popen[bytes]]:
    """One that has its token from its own environment."""
    told = json.dumps({"Authorization": "Bearer sk-of-workers"})
    command = [*before, sys.executable, "-m", "aftershock.load.worker"]
    process = subprocess.Popen(
        [*command, "--master-host", "127.0.0.1", "--master-port", str(port)],
        env={**os.environ, "AFTERSHOCK_HEADERS": told},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        return int(plug.getsockname()[1])


@pytest.mark.root
def test_workers_with_other_clocks_send_one_schedule_and_one_that_dies_is_missed(
    start_service: Any,
) -> None:
    service, port = start_service(tell=True), free_port()
    settings = LoadSettings(
        service.url,
        stages=(Stage(60, RATE),),
        arrivals="constant",
        processes=2,
        workers_at=f"127.0.0.1:{port}",
        headers={"Authorization": "Bearer sk-never-sent-to-workers"},
    )
    timeline, generator = Timeline(), Generator(settings)
    ahead = ("unshare", "--time", "--monotonic", str(ELSEWHERE_S), "--fork", "--kill-child")
    generator.start(timeline)
    try:
        with worker(port), worker(port, *ahead) as elsewhere:
            generator.wait_until_sending()
            assert wait_for(lambda: len(timeline.last_reports("load")) == 2, 10)
            began = min(report["began"] for report in timeline.last_reports("load"))
            assert -1 <= time.monotonic() - began < 30, "on the controller's clock"
            assert wait_for(lambda: timeline.horizon("load") > began + 2.5, 15)
            seen = timeline.window(began + 0.5, began + 2.5)
            assert seen.requests == pytest.approx(2 * RATE, abs=8)
            offsets = sorted(abs(one["clock_offset_s"]) for one in timeline.last_reports("load"))
            assert offsets[0] == 0 and offsets[1] == pytest.approx(ELSEWHERE_S, abs=1)
            whole = generator.stats()
            assert whole.clock_error_ms is not None and 0 < whole.clock_error_ms < 500
            assert (whole.workers, whole.workers_lost, whole.missing) == (2, 0, 0)

            os.killpg(elsewhere.pid, signal.SIGKILL)
            gone = time.monotonic()
            assert wait_for(lambda: generator.stats().workers_lost == 1, 10)
            assert wait_for(lambda: timeline.horizon("load") > gone + 4, 15), "it goes on"
            half = timeline.window(gone + 1, gone + 4)
            assert half.requests == pytest.approx(3 * RATE / 2, abs=10)
            assert half.errors == 0, "what is not sent is no failure of the service's"
            lost = generator.stats()
            reasons = decide(RunFacts(15, 1000, generator=lost.as_dict())).reasons
            (reason,) = [one for one in reasons if one.code == "worker_lost"]
            assert reason.word == INCONCLUSIVE
            assert reason.text.startswith("1 of 2 workers of the load were lost: ")

            with worker(port):  # takes the share over
                assert wait_for(lambda: generator.stats().workers_lost == 0, 15)
                joined = time.monotonic()
                assert wait_for(lambda: timeline.horizon("load") > joined + 2, 15)
                again = timeline.window(joined + 0.5, joined + 2)
                assert again.requests == pytest.approx(1.5 * RATE, abs=8)
                missed = generator.stats().missing
                assert missed == pytest.approx((joined - gone) * RATE / 2, rel=0.4, abs=30)
    finally:
        generator.stop()
    asked = [event for event in service.events if "asked" in event]
    assert asked and all(event["token"] for event in asked)


def test_a_process_that_dies_is_noticed_and_the_last_one_ends_the_load(start_service: Any) -> None:
    settings = LoadSettings(start_service().url, stages=(Stage(60, RATE),), processes=2)
    timeline, generator = Timeline(), Generator(settings)
    generator.start(timeline)
    try:
        generator.wait_until_sending()
        assert wait_for(lambda: len(timeline.last_reports("load")) == 2, 10)
        pid = generator.pid
        workers = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        assert wait_for(lambda: generator.stats().workers_lost == 1, 10)
        assert wait_for(lambda: generator.stats().missing > RATE / 2, 10)
        assert generator.alive()
        os.kill(workers[1], signal.SIGKILL)
        assert wait_for(lambda: not generator.alive(), 10)
        assert wait_for(lambda: "all workers of the load have gone" in generator.said)
    finally:
        generator.stop()


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.tuples(st.floats(0, 0.2), st.floats(0, 0.2)), min_size=1, max_size=30),
)
def test_a_clock_is_off_by_no_more_than_it_says(
    apart: float, trips: list[tuple[float, float]]
) -> None:
    """Whatever the ways there and back take, and however unequal they are."""
    now = [100.0]
    clock = Clock(lambda: now[0])
    for there, back in trips:
        asked = clock.asked()
        now[0] += there
        told = now[0] + apart
        now[0] += back
        clock.answered(asked, told)
        now[0] += 0.5
        assert abs(clock() - (now[0] + apart)) <= clock.error_s + 1e-6
    quickest = min((a + b) / 2 for a, b in trips[-20:])
    assert quickest - 1e-6 <= clock.error_s <= 2 * quickest + 1e-6


@pytest.mark.parametrize(("missing", "told"), [(5, False), (20, True)])
def test_a_loss_that_does_not_matter_decides_nothing(missing: int, told: bool) -> None:
    generator = {"sent": 1000, "scheduled": 1000, "dispatch_lag_p99_ms": 1.0, "workers": 4,
                 "workers_lost": 1, "missing": missing}  # fmt: skip
    codes = {reason.code for reason in decide(RunFacts(15, 1000, generator=generator)).reasons}
    assert ("worker_lost" in codes) is told


def test_the_manifest_starts_what_a_worker_is_and_lets_only_workers_in() -> None:
    documents = list(yaml.safe_load_all((ROOT / "deploy/load-workers.yaml").read_text()))
    service, deployment, policy = documents
    assert {one["metadata"]["namespace"] for one in documents} == {"aftershock"}
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    port = service["spec"]["ports"][0]["port"]
    command = container["command"][-1]
    assert f"--master-host {service['metadata']['name']} --master-port {port};" in command
    assert find_spec(command.split("python3 -m ")[1].split(maxsplit=1)[0])
    assert container["env"][0]["name"] == "AFTERSHOCK_HEADERS"
    assert container["env"][0]["valueFrom"]["secretKeyRef"]["optional"] is True
    (rule,) = policy["spec"]["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"] == service["spec"]["selector"]
    assert Settings().load_bind.endswith(f":{port}")
