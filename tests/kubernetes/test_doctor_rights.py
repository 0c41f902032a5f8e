"""What `aftershock doctor` says of rights is what deploy/ grants, and what a cluster answers."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.cluster.permissions import Permission
from aftershock.inventory import Inventory, Node, NodePod
from aftershock.rights import abilities

from .sites import Site
from .test_rights import granted

ROOT = Path(__file__).parents[2]
AFTERSHOCK = Path(sys.executable).with_name("aftershock")


def documents(name: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((ROOT / name).read_text()) if one]


@pytest.mark.parametrize("name", ["rbac-pods", "rbac-nodes", "rbac-scale", "node-agent"])
def test_what_is_asked_for_is_what_a_file_grants(name: str) -> None:
    agent = NodePod("kubeconfig", node="n", image="i", namespace="aftershock")
    target = Inventory(
        "t", (Node("n", "z", (), agent=agent),), "http://127.0.0.1:1", "m", reaper_image="i"
    )
    path = f"deploy/{name}.yaml"
    wanted = {
        right
        for one in abilities(target, "shop")
        for right in one.wants
        if one.granted_by == path and not (name == "rbac-scale" and right.namespace == "aftershock")
    }
    if name == "rbac-pods":  # whether the namespace is there; who may not ask is believed
        wanted.add(Permission("get", "namespaces", "shop"))
    assert wanted == granted(documents(path), "shop")


def doctor(site: Site, rules: list[dict[str, Any]], folder: Path, *more: str) -> tuple[int, str]:
    kubernetes = {"kubeconfig": str(site.somebody(rules)), "namespace": site.namespace}
    told = {"gateway_url": "http://127.0.0.1:1", "model": "m", "kubernetes": kubernetes}
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(told))
    line = [str(AFTERSHOCK), "doctor", "--inventory", str(path), *more]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_doctor_names_each_right_that_is_missing(site: Site, tmp_path: Path) -> None:
    rules = documents("deploy/rbac-pods.yaml")
    status, said = doctor(site, rules, tmp_path)
    assert status == 1, "no agent gets there"
    told = said.split("Through the Kubernetes API\n")[1].splitlines()
    for name in ("find nodes and pods", "kill pods", "evict pods", "keep other runs away"):
        assert f"  ✓ {name}" in told, said
    at = next(n for n, line in enumerate(told) if line.startswith("  ✗ cordon and taint nodes"))
    assert "not allowed: get, patch nodes; create, get, patch, delete leases.coord" in told[at]
    assert told[at + 1] == "    → grant it: deploy/rbac-nodes.yaml"
    fewer = copy.deepcopy(rules)
    fewer[0]["rules"][0]["verbs"].remove("delete")
    _, said = doctor(site, fewer, tmp_path, "--json")
    found = {one["name"]: one for one in json.loads(said)["api"]}
    assert found["kill pods"]["lacks"] == [f"delete pods in namespace {site.namespace}"]
    assert found["kill pods"]["granted_by"] == "deploy/rbac-pods.yaml"
    assert found["evict pods"] == found["evict pods"] | {"ok": True, "lacks": []}
