"""The load itself is what breaks the service."""

import json

import pytest

from .conftest import ChaosRun

pytestmark = [pytest.mark.root, pytest.mark.whole, pytest.mark.timeout(200)]


def test_the_load_is_stepped_up_until_the_service_breaks(chaos_run: ChaosRun) -> None:
    steps = {"from_rps": 20, "factor": 3, "most_rps": 180, "step_s": 3}
    outcome = chaos_run("load-cliff.json", **steps, hold_s=5)
    verdict = outcome.verdict
    cliff = verdict["cliff"]
    assert cliff, outcome.printed
    # How far this machine can drive its own lab varies; what it says of that must hold together.
    rates = [step["rate_rps"] for step in cliff["steps"]]
    assert rates == [20, 60, 180][: len(rates)]
    assert cliff["knee_rps"] or cliff["generator_ended_rps"], outcome.printed
    assert cliff["steps"][0]["requests"] == pytest.approx(20 * 2.25, abs=25)
    used = cliff["steps"][0]["use"]
    assert {"gpu_percent", "kv_cache_percent", "waiting_requests", "cpu_percent"} <= set(used)
    assert used["gpu_percent"] > 0
    (climb,) = verdict["injections"]
    assert climb["fault"] == "load-climb" and climb["bit"] and climb["clean"] and climb["momentary"]
    assert outcome.folder
    assert json.loads((outcome.folder / "cliff.json").read_text()) == cliff
    assert "Where it breaks" in (outcome.folder / "report.html").read_text()
    assert verdict["goodput"]["during"]["requests"] > 50
    if outcome.status != 0:
        told = {"off_schedule", "few_samples", "activity_failed", "cliff_unmeasured", "not_held"}
        assert outcome.codes <= told, outcome.printed


def test_a_short_soak_recovers_from_each_fault_and_finds_no_drift(chaos_run: ChaosRun) -> None:
    told = {"soak_s": 74, "every_s": 50, "most_drift_percent_per_h": 1_000_000, "load_rps": 20}
    outcome = chaos_run("soak.json", **told, faults="partition_zone", zones="az-a", replicas=2)
    assert outcome.codes <= {"off_schedule", "few_samples", "straddles"}, outcome.printed
    soak = outcome.verdict["soak"]
    assert soak["planned"] == len(soak["rounds"]) >= 1
    for one in soak["rounds"]:
        assert one["fault"] == "partition_zone" and one["rto_state"] == "back"
        assert one["failback_state"] == "back"
    first = soak["rounds"][0]
    assert first["rto_s"] == outcome.verdict["service_rto_s"]
    names = {one["name"]: one for one in soak["drift"]}
    assert {"p50 latency", "p99 latency"} <= set(names)
    assert any("memory of server" in name for name in names), names
    assert {one["word"] for one in names.values()} == {"none"}
    assert names["p50 latency"]["level"] > 20 and names["p50 latency"]["confidence"] > 0.95
    assert "soaked for 0.021 h" in outcome.printed
