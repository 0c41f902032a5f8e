"""The load steps up, and the lab's autoscaler follows its GPUs."""

import json

import pytest

from .conftest import ChaosRun

pytestmark = [pytest.mark.root, pytest.mark.whole, pytest.mark.timeout(200)]


def test_more_load_brings_more_replicas(chaos_run: ChaosRun) -> None:
    outcome = chaos_run("autoscaling.json")
    verdict = outcome.verdict
    assert (outcome.status, verdict["verdict"]) == (0, "PASS"), outcome.printed
    assert outcome.folder
    told = json.loads((outcome.folder / "scaling.json").read_text())
    assert told["scaled"] and told["from"] == 3 and told["to"] >= 5, told
    assert 0 < told["decided_s"] < told["ready_s"] < 30
    assert told["metrics"][0]["value"] > told["metrics"][0]["target"] == 25
    (step,) = verdict["injections"]
    assert step["fault"] == "load-step" and step["bit"] and step["ordered"] and step["clean"]
    # The autoscaler may have gone on afterwards.
    came = sorted(row["ready_s"] for row in verdict["replacements"] if row["ready_s"])
    assert came[told["to"] - 4] == pytest.approx(told["ready_s"], abs=0.01)
    new = verdict["replacements"][: told["to"] - 3]
    assert not any(row["replaces"] for row in verdict["replacements"])
    for row in new:
        assert row["scheduled_s"] <= row["started_s"] <= row["ready_s"]
    # It may have come in steps; the last of them is the one that was waited for.
    assert (
        max(row["scheduled_s"] for row in new) > told["decided_s"] - told["decided_error_s"] - 0.1
    )
    assert verdict["capacity_rto_s"] == 0
    assert f"3 → {told['to']} replicas: wanted after" in outcome.printed
