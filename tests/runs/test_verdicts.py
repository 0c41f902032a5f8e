"""What `chaos run` says of the lab: yes once, and no in every way it must be able to."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, ChaosRun

pytestmark = [pytest.mark.root, pytest.mark.timeout(200)]


def test_a_zone_is_lost_and_the_service_is_back(chaos_run: ChaosRun) -> None:
    outcome = chaos_run("az-failure.json")
    verdict = outcome.verdict
    assert (outcome.status, verdict["verdict"]) == (0, "PASS"), outcome.printed
    assert 0.3 < verdict["service_rto_s"] < 15
    assert 0 < verdict["service_rto_error_s"] < 1
    assert verdict["capacity_rto_s"] is None  # the zone's capacity was blocked while it was down
    assert verdict["requests_total"] > 100
    assert {i["fault"] for i in verdict["injections"]} == {
        "partition",
        "cordon",
        "pod-kill",
    }
    for injection in verdict["injections"]:
        assert injection["bit"] and injection["ordered"] and injection["clean"], injection
    assert verdict["target"] == "lab"
    assert outcome.folder
    assert "EDGE" in (outcome.folder / "logs/lab-haproxy.cfg").read_text()
    assert not list(outcome.folder.glob("**/*kubeconfig*"))
    checks = json.loads((outcome.folder / "checks.json").read_text())
    latency = [check for check in checks if check["indicator"] == "p99_latency_ms"]
    assert len(latency) == 2 and all(0 < c["value"] <= c["bound"] == 500 for c in latency)
    assert (outcome.folder / "report.html").read_text().count("<svg") == 2
    for word in ("steady", "FIRED", "failing", "back", "failback", "PASS"):
        assert word in outcome.printed


def test_a_missed_objective_fails_with_the_measured_time(chaos_run: ChaosRun) -> None:
    outcome = chaos_run("az-failure.json", rto_objective_s=1, zone="az-c")
    verdict = outcome.verdict
    assert (outcome.status != 0, verdict["verdict"]) == (True, "FAIL"), outcome.printed
    assert verdict["service_rto_s"] - verdict["service_rto_error_s"] > 1
    assert "the objective is 1 s" in outcome.reasons
    assert all(injection["hosts"][0].startswith("node-c") for injection in verdict["injections"])


@pytest.mark.parametrize(
    ("experiment", "word", "reason"),
    [
        ("naive-gateway", "FAIL", "not back within 30 s"),
        ("no-effect", "INCONCLUSIVE", "no effect"),
        ("starved-load", "INCONCLUSIVE", "schedule"),
        ("no-such-pods", "INCONCLUSIVE", "no effect"),
        ("steady-state-not-met", "INCONCLUSIVE", "steady state"),
        ("paused-controller", "INCONCLUSIVE", "healed"),
    ],
)
def test_the_runs_that_must_not_pass(
    chaos_run: ChaosRun, experiment: str, word: str, reason: str
) -> None:
    outcome = chaos_run(f"say-no/{experiment}.json")
    assert outcome.status != 0
    assert outcome.verdict["verdict"] == word, outcome.printed
    assert reason in outcome.reasons
    journal = json.loads((outcome.folder / "journal.json").read_text()) if outcome.folder else {}
    if experiment == "steady-state-not-met":
        assert journal["run"] == []


def edited(tmp_path: Path, change: Any) -> Path:
    """The main experiment with something changed."""
    experiment = json.loads((ROOT / "experiments/az-failure.json").read_text())
    change(experiment)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(experiment))
    return path


def test_a_control_that_cannot_be_loaded_is_no_pass(chaos_run: ChaosRun, tmp_path: Path) -> None:
    def change(experiment: dict[str, Any]) -> None:
        experiment["controls"][0]["provider"]["module"] = "aftershock.no_such_control"

    outcome = chaos_run(edited(tmp_path, change))
    assert outcome.status != 0
    assert "no run is being recorded" in outcome.printed


def test_an_action_that_raises_is_no_pass(chaos_run: ChaosRun, tmp_path: Path) -> None:
    def change(experiment: dict[str, Any]) -> None:
        experiment["method"][0]["provider"]["arguments"]["zone"] = "az-z"

    outcome = chaos_run(edited(tmp_path, change))
    assert outcome.status != 0
    assert outcome.verdict["verdict"] != "PASS"
    assert "unknown zone 'az-z'" in outcome.reasons
