"""Knee, collapse and shedding, from steps of services whose limits are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aftershock.errors import InvalidFault
from aftershock.report.cliff import sentences
from aftershock.report.climb import section
from aftershock.run.climbing import rates_of
from aftershock.run.usage import of_hosts, of_pages, samples
from aftershock.slo.cliff import Cliff, Step, find
from aftershock.slo.verdict import RunFacts, decide

GOLDEN, LAG = 500.0, 50.0


def step(rate: float, good: float = 1.0, p99: float | None = 200.0, **more: Any) -> Step:
    count = int(rate * 10)
    told = {"failed": int(count * more.pop("failed", 0.0)), "lag_p99_ms": 2.0, **more}
    lost = count - int(count * good)
    return Step(rate, 10.0, count, int(count * good), lost, p50_ms=90.0, p99_ms=p99, **told)


def queue(rate: float, capacity: float) -> Step:
    """A service that answers `capacity` a second in time, and fewer the further it is over that."""
    if rate <= capacity:
        return step(rate, p99=100 + 300 * (rate / capacity) ** 8, use={"gpu_percent": 70.0})
    good = max(0.0, (2 * capacity - rate) / rate)
    full = {"gpu_percent": 96.0, "waiting_requests": 40.0, "cpu_percent": 50.0}
    return step(rate, good, p99=1000.0, use=full)


def test_knee_and_collapse_enclose_the_capacity_and_name_what_was_full() -> None:
    cliff = find([queue(rate, 300) for rate in (100, 150, 225, 290, 337, 400)], GOLDEN, LAG)
    assert cliff.knee_rps == (290, 337)
    assert cliff.knee_why == "P99 1000 ms, 500 is golden"
    assert cliff.capacity_rps == 290 and 0 < cliff.capacity_error_rps < 15
    assert cliff.collapse_rps == 400
    assert cliff.saturated == ("GPU", "queue")
    assert cliff.shedding_rps == () and cliff.generator_ended_rps is None
    told = sentences(cliff.as_dict())
    assert told[0].startswith("knee between 290 and 337 requests/s (P99 1000 ms, 500 is golden)")
    assert any("collapse at 400" in line for line in told)
    assert any("GPU, queue (not seen: KV cache, network drops, restarts)" in line for line in told)


def test_throughput_that_no_longer_follows_is_a_knee_though_the_latency_is_golden() -> None:
    cliff = find([step(100), step(200, 0.99), step(400, 0.7, failed=0.3)], GOLDEN, LAG)
    assert cliff.knee_rps == (200, 400)
    assert cliff.knee_why == "70 % of the requests were served well"
    assert cliff.collapse_rps is None


@pytest.mark.parametrize(
    ("p99", "failed", "sheds"),
    [(150, 0.3, True), (150, 0.0, False), (198, 0.3, False), (400, 0.3, False), (None, 1.0, False)],
)
def test_faster_is_no_improvement_while_more_of_it_fails(
    p99: float | None, failed: float, sheds: bool
) -> None:
    cliff = find([step(100), step(500, 1 - failed, p99, failed=failed)], GOLDEN, LAG)
    assert cliff.shedding_rps == ((500,) if sheds else ())
    assert any("was shed, not served" in line for line in sentences(cliff.as_dict())) == sheds


def test_no_knee_is_said_to_be_none() -> None:
    cliff = find([step(100), step(1000)], GOLDEN, LAG)
    assert cliff.knee_rps is None and cliff.collapse_rps is None
    assert sentences(cliff.as_dict()) == [
        "no knee up to 1000 requests/s; 1000 ± 20 good answers/s at best"
    ]


def test_what_the_generator_could_not_send_tells_nothing_of_the_service() -> None:
    late = replace(step(400, 0.2, 2000.0), lag_p99_ms=90.0)
    cliff = find([step(100), step(200), late], GOLDEN, LAG)
    assert (cliff.knee_rps, cliff.generator_ended_rps, cliff.capacity_rps) == (None, 400, 200)
    assert "could not keep up with 400/s" in sentences(cliff.as_dict())[-1]
    assert find([late], GOLDEN, LAG).capacity_rps == 0


def codes(cliff: Cliff, at_least_rps: float = 0.0) -> dict[str, str]:
    told = {**cliff.as_dict(), "at_least_rps": at_least_rps}
    reasons = decide(RunFacts(15, 1000, cliff=told)).reasons
    return {r.code: r.word for r in reasons if "knee" in r.text or "wanted" in r.text}


def test_what_was_wanted_decides() -> None:
    broke = find([step(100), step(200), step(400, 0.5, 900.0)], GOLDEN, LAG)
    fine = find([step(100), step(200)], GOLDEN, LAG)
    late = find([step(100), replace(step(200), lag_p99_ms=90.0)], GOLDEN, LAG)
    assert codes(broke) == codes(broke, 200) == codes(fine) == codes(fine, 200) == {}
    assert codes(broke, 400) == codes(broke, 500) == {"knee_missed": "FAIL"}
    assert codes(broke, 300) == {"knee_straddles": "INCONCLUSIVE"}
    assert codes(fine, 300) == codes(late) == {"cliff_unmeasured": "INCONCLUSIVE"}


def test_the_page_has_a_table_and_a_picture_of_it() -> None:
    told = find([queue(rate, 300) for rate in (100, 290, 337)], GOLDEN, LAG).as_dict()
    page = section(told)
    assert page.count("<circle") == 3 and "<rect" in page and page.count("<tr>") == 4
    assert section({}) == ""


def test_what_engines_and_hosts_tell_of_their_use() -> None:
    page = samples(
        "# TYPE vllm:num_requests_waiting gauge\n"
        'vllm:num_requests_waiting{engine="0",model_name="m"} 7\n'
        'vllm:gpu_cache_usage_perc{engine="0"} 0.93\nother 3\n'
    )
    quiet = {"vllm:num_requests_waiting": 0.0, "vllm:kv_cache_usage_perc": 0.1}
    assert of_pages([quiet, page]) == {"kv_cache_percent": 93.0, "waiting_requests": 7.0}
    assert of_pages([]) == {} and samples("<html>") == {}
    before = {"cpu": {"busy_s": 5, "idle_s": 5}, "network": {"packets": 100, "dropped": 0}}
    after = {"cpu": {"busy_s": 14, "idle_s": 6}, "network": {"packets": 190, "dropped": 10}}
    assert of_hosts({"a": before}, {"a": after}) == {
        "cpu_percent": 90.0,
        "network_drops_percent": 10.0,
    }
    assert of_hosts({}, {"a": after}) == {}


def test_steps_grow_to_the_last_one_and_nonsense_is_refused() -> None:
    told = {"from_rps": 20.0, "factor": 3.0, "most_rps": 200.0, "step_s": 3.0}
    assert rates_of(told) == [20, 60, 180, 200]
    for wrong in ({"factor": 1.0}, {"most_rps": 20.0}, {"from_rps": 0.0}, {"step_s": 1.0}):
        with pytest.raises(InvalidFault, match="from_rps above 0, most_rps above that"):
            rates_of({**told, **wrong})
