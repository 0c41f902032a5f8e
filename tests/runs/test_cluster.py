"""A cluster that is known by its API alone: nodes, zones and the ways to them come from there."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from aftershock.lab.pods import AGENT_IMAGE
from aftershock.lab.settings import LabSettings
from aftershock.lab.world import Lab

from .conftest import ChaosRun, free_port

pytestmark = [
    pytest.mark.whole,
    pytest.mark.root,
    pytest.mark.timeout(150),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is absent"),
]


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab.up(LabSettings(gateway_port=free_port()))
    yield made
    made.down()


def test_a_zone_of_a_cluster_is_lost(lab: Lab, chaos_run: ChaosRun, tmp_path: Path) -> None:
    """The lab serves as a stranger: one file of its API and its gateway is all that is known."""
    assert lab.kubeconfig
    told = {
        "configuration": {"target": str(tmp_path / "one.yaml"), "zone": "az-b"},
        "target": "staging",
        "gateway_url": lab.gateway_url,
        "model": lab.inventory.model,
        "kubernetes": {
            "kubeconfig": lab.kubeconfig,
            "namespace": lab.inventory.namespace,
            "selector": lab.inventory.selector,
            "reaper_image": AGENT_IMAGE,
        },
        "agent": {"image": AGENT_IMAGE},
    }
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(told))
    outcome = chaos_run("az-failure.json", options=["--var-file", str(tmp_path / "one.yaml")])
    verdict = outcome.verdict
    assert (outcome.status, verdict["verdict"]) == (0, "PASS"), outcome.printed
    assert verdict["target"] == "staging"
    assert 0.3 < verdict["service_rto_s"] < 15
    hosts = {one["fault"]: one["hosts"] for one in verdict["injections"]}
    assert set(hosts) == {"partition", "cordon", "taint", "pod-kill"}
    assert all(names == ["node-b-1", "node-b-2"] for names in hosts.values()), hosts
    assert all(one["bit"] and one["clean"] for one in verdict["injections"])
    told_by = {n: v for n, v in verdict["versions"].items() if n.startswith("image of ")}
    assert told_by and all(re.fullmatch(r".+ \([0-9a-f]{12}\)", v) for v in told_by.values()), (
        told_by
    )
    # Nothing of ours is left in the cluster, and its nodes are as they were.
    kubectl = ["kubectl", "--kubeconfig", lab.kubeconfig, "get", "-o", "json"]
    ours = ["-A", "-l", "app.kubernetes.io/managed-by=aftershock"]
    for words in (["pods", *ours], ["configmaps", *ours], ["jobs", *ours], ["leases", *ours]):
        shown = subprocess.run([*kubectl, *words], capture_output=True, text=True, check=True)
        assert json.loads(shown.stdout)["items"] == [], words
    shown = subprocess.run([*kubectl, "nodes"], capture_output=True, text=True, check=True)
    for node in json.loads(shown.stdout)["items"]:
        assert not node["spec"].get("unschedulable") and not node["spec"].get("taints")
