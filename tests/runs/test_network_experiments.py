"""The network's experiments on the lab: what they break is seen, and what they can't do is said."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, ChaosRun

pytestmark = [pytest.mark.root, pytest.mark.timeout(200)]


def ended_well(verdict: dict[str, Any], *faults: str) -> None:
    """Each fault bit, held until it was ordered to go, and left nothing."""
    assert [injection["fault"] for injection in verdict["injections"]] == list(faults)
    for injection in verdict["injections"]:
        assert injection["bit"] and injection["ordered"] and injection["clean"], injection


@pytest.mark.whole
def test_a_zone_that_hears_nobody_is_failed_over(chaos_run: ChaosRun) -> None:
    outcome = chaos_run("network-partition.json", direction="ingress")
    assert (outcome.status, outcome.verdict["verdict"]) == (0, "PASS"), outcome.printed
    ended_well(outcome.verdict, "partition")
    assert 0.3 < outcome.verdict["service_rto_s"] < 15
    assert outcome.verdict["injections"][0]["parameters"]["direction"] == "ingress"


@pytest.mark.whole
def test_zones_that_only_lose_each_other_are_no_outage(chaos_run: ChaosRun) -> None:
    outcome = chaos_run("network-partition.json", peers="az-b", protocols="tcp,icmp")
    assert (outcome.status, outcome.verdict["verdict"]) == (0, "PASS"), outcome.printed
    ended_well(outcome.verdict, "partition")
    assert outcome.verdict["service_rto_s"] == 0
    assert outcome.verdict["requests_lost"] == 0


@pytest.mark.whole
def test_a_shape_has_its_evidence_on_every_node(chaos_run: ChaosRun) -> None:
    outcome = chaos_run("network-shapes.json", shape="ring", groups="nodes")
    assert (outcome.status, outcome.verdict["verdict"]) == (0, "PASS"), outcome.printed
    ended_well(outcome.verdict, "partition")
    injection = outcome.verdict["injections"][0]
    silent = [one for one in injection["evidence"]["pieces"] if one["name"] == "silent"]
    assert len(injection["hosts"]) == len(silent) == 6 and all(one["ok"] for one in silent)
    assert all(len(heard) == 2 for heard in injection["parameters"]["deaf_to"].values())


@pytest.mark.whole
def test_loss_and_bandwidth_at_once(chaos_run: ChaosRun, tmp_path: Path) -> None:
    experiment = json.loads((ROOT / "experiments/network-degradation.json").read_text())
    degrade, back, *_ = experiment["method"]
    assert back["provider"]["func"] == "service_recovered"
    experiment["method"].remove(back)  # it would be waited for in vain
    degrade["pauses"] = {"after": 4}
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(experiment))
    spoilt = {"delay_ms": 0, "jitter_ms": 0, "loss_share": 0.3, "rate_kbit": 2000}
    outcome = chaos_run(path, rto_objective_s=4, **spoilt)
    ended_well(outcome.verdict, "loss", "bandwidth")
    assert outcome.verdict["requests_total"] > 100


def has_netem() -> bool:
    add = "tc qdisc add dev lo root netem delay 1ms"
    done = subprocess.run(["unshare", "-n", *add.split()], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.whole
def test_a_kernel_without_netem_is_refused_before_anything_is_armed(chaos_run: ChaosRun) -> None:
    if has_netem():
        pytest.skip("this kernel has netem")
    outcome = chaos_run("network-degradation.json", loss_share=0.1)
    assert outcome.status != 0 and outcome.verdict["verdict"] == "INCONCLUSIVE"
    assert outcome.verdict["injections"] == []
    assert "no fault was injected" in outcome.reasons
    assert "no sch_netem" in outcome.reasons and "aftershock doctor" in outcome.reasons


@pytest.mark.whole
def test_the_users_own_commands(chaos_run: ChaosRun, tmp_path: Path) -> None:
    experiment = json.loads((ROOT / "experiments/network-partition.json").read_text())
    provider = experiment["method"][0]["provider"]
    provider.update(module="aftershock.actions.command", func="run_command")
    provider["arguments"] = {
        "where": "az-c",
        "apply": "tc qdisc add dev eth0 root tbf rate 1mbit burst 10kb latency 50ms",
        "undo": "sh -c 'tc qdisc del dev eth0 root 2>/dev/null; true'",
        "check": "sh -c 'tc qdisc show dev eth0 | grep -q tbf'",
        "lease_s": "${lease_s}",
    }
    experiment["method"][2]["provider"].update(
        module="aftershock.actions.command", func="heal_commands"
    )
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(experiment))
    outcome = chaos_run(path, rto_objective_s=4)
    injection = outcome.verdict["injections"][0]
    assert injection["hosts"] == ["node-c-1", "node-c-2"] and injection["ordered"]
    assert injection["clean"] and injection["bit"], injection
