"""Pods killed again and again, and whatever comes up on lost nodes; until it stops."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from aftershock.capacity import Choice, KeptDown, RepeatedKill, kept_down
from aftershock.cluster import Cluster
from aftershock.inventory import Limits, Node
from aftershock.recover import recover

from .conftest import until
from .sites import DEPLOY, IMAGE, PATIENCE_S, WEB, Site, played


def test_pods_are_killed_again_and_again_until_it_stops(site: Site) -> None:
    site.deploy("web", 4, grace_s=0)
    seen = Counter(pod.uid for pod in site.pods())
    fault = RepeatedKill(
        site.cluster, site.nodes(), Choice("app=web", count=1, seed=3), interval_s=0.3, lease_s=60
    )
    told = played(fault)
    assert told["bit"] and not told["reverted"]
    until(lambda: len(fault.rounds) >= 4)
    fault.revert()
    told = fault.to_dict()
    assert told["reverted"] and told["ordered"] and not told["healed_early"]
    assert told["bit"] and told["evidence"]["pieces"][-1]["seen"].endswith("all gone")
    rounds = len(fault.rounds)
    killed = [name for one in told["parameters"]["rounds"] for name in one["pods"]]
    assert len(killed) == len(set(killed)) >= 3
    until(lambda: len(site.ready("web")) == 4, PATIENCE_S)
    after = {pod.uid for pod in site.pods()}
    assert len(set(seen) - after) >= 2
    time.sleep(1)
    assert len(fault.rounds) == rounds
    assert {pod.uid for pod in site.pods()} == after


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps nodes down looks five times a second in the place of once."""
    monkeypatch.setattr(kept_down, "LOOK_S", 0.2)


def test_what_comes_up_on_lost_nodes_is_killed_again(site: Site, often: None) -> None:
    """Nothing keeps replacements off here: they are as those that tolerate our taint."""
    site.deploy("web", 6, grace_s=0)
    zone = site.nodes()[0].zone
    there = [node for node in site.nodes() if node.zone == zone]
    names = {node.name for node in there}
    fault = KeptDown(site.cluster, there, WEB, lease_s=60, zones=[zone])
    told = played(fault)
    first = set(told["parameters"]["pods"])
    assert told["fault"] == "pod-kill" and told["bit"] and not told["reverted"]
    until(lambda: len(fault.rounds) >= 3, PATIENCE_S)
    fault.stop()
    fault.revert()
    told = fault.to_dict()
    again = [name for one in told["parameters"]["again"] for name in one["pods"]]
    assert len(set(again)) == len(again) >= 2 and not set(again) & first
    assert told["bit"] and told["reverted"] and not told["healed_early"], told
    assert f"{len(again)} pods came up and were killed again" in str(told["evidence"])
    alive = lambda: {p.uid for p in site.ready("web") if p.node in names}  # noqa: E731
    until(alive, PATIENCE_S)
    before = alive()
    time.sleep(0.7)
    assert before <= {pod.uid for pod in site.pods()}, "nothing is killed after the heal"


def test_a_pod_that_the_limits_spare_is_no_effect(site: Site, often: None) -> None:
    site.deploy("web", 4, grace_s=0)
    node = next(n for n in site.nodes() if n.name == site.ready("web")[0].node)
    fault = KeptDown(site.cluster, [node], WEB, lease_s=60, limits=Limits(max_owner_share=0.5))
    assert played(fault)["bit"]
    fault.limits = Limits(max_owner_share=0.01)  # as if others of its owner had died meanwhile
    site.scale("web", 4 * len(site.nodes()))  # so that some come up there
    until(lambda: fault._escaped, PATIENCE_S)
    fault.revert()
    told = fault.to_dict()
    assert not told["bit"] and "lived on" in str(told["evidence"]), told


def test_nodes_that_come_up_in_a_lost_zone_count_too(site: Site, often: None) -> None:
    site.deploy("web", 6, grace_s=0)
    zone = site.nodes()[0].zone
    known, *late = [node for node in site.nodes() if node.zone == zone]
    if not late or not {pod.node for pod in site.ready("web")} >= {known.name, late[0].name}:
        pytest.skip("wants a zone of two nodes with pods on both")
    fault = KeptDown(site.cluster, [known], WEB, lease_s=60, zones=[zone])
    played(fault)
    new = {pod.uid for pod in site.pods() if pod.node == late[0].name}
    until(lambda: not new & {pod.uid for pod in site.pods()}, PATIENCE_S)
    others = {pod.node for pod in site.pods()} - {node.name for node in (known, *late)}
    fault.revert()
    assert others and others <= fault._elsewhere


def stateful(site: Site, node: Node, replicas: int) -> None:
    """Pods whose names come again, on one node, whatever is done to it; and ready."""
    from kubernetes import client

    labels = {"app": "db"}
    container = {"name": "main", "image": IMAGE, "command": ["sleep", "1000"]}
    pod = {
        "containers": [{**container, "imagePullPolicy": "IfNotPresent"}],
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/hostname": node.name},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "serviceName": "db"}
    spec |= {"template": {"metadata": {"labels": labels}, "spec": pod}}
    client.AppsV1Api(site.client).create_namespaced_stateful_set(
        site.namespace, {"metadata": {"name": "db"}, "spec": spec}
    )
    until(lambda: len(site.ready("db")) == replicas, PATIENCE_S)


def test_one_that_comes_up_under_its_old_name_is_a_newcomer(site: Site, often: None) -> None:
    """Who a pod is tells its UID: a StatefulSet gives the name of the dead to the next one."""
    node = site.nodes()[0]
    stateful(site, node, 2)
    first = {pod.uid for pod in site.pods("app=db")}
    fault = KeptDown(site.cluster, [node], Choice("app=db"), lease_s=60, zones=[node.zone])
    told = played(fault)
    assert told["bit"] and set(told["parameters"]["pods"]) == {"db-0", "db-1"}
    until(lambda: len(fault.rounds) >= 4, PATIENCE_S)
    fault.stop()
    fault.revert()
    told = fault.to_dict()
    again = [name for one in told["parameters"]["again"] for name in one["pods"]]
    assert set(again) <= {"db-0", "db-1"} and len(again) >= 3
    assert f"{len(again)} pods came up and were killed again" in str(told["evidence"])
    assert told["bit"] and told["clean"], told
    killed = {pod.uid for pod in fault.ended}
    assert first < killed and len(killed) == 2 + len(again), "each is another pod"
    until(lambda: len(site.ready("db")) == 2, PATIENCE_S)
    assert not killed & {pod.uid for pod in site.pods("app=db")}


def test_each_that_lives_on_under_one_name_is_told(site: Site, often: None) -> None:
    node = site.nodes()[0]
    stateful(site, node, 1)
    fault = KeptDown(site.cluster, [node], Choice("app=db"), lease_s=60)
    assert played(fault)["bit"]
    fault.limits = Limits(max_owner_share=0.01)  # as if others of its owner had died meanwhile
    until(lambda: len(fault._escaped) == 1, PATIENCE_S)
    site.core.delete_namespaced_pod("db-0", site.namespace, grace_period_seconds=0)
    until(lambda: len(fault._escaped) == 2, PATIENCE_S)
    fault.revert()
    told = fault.to_dict()
    assert not told["bit"] and "2 lived on: db-0: " in str(told["evidence"]), told


DIES = """
import os, sys, time
sys.path.insert(0, {here!r})
from tests.kubernetes.test_repeated_kills import *
from aftershock.cluster.places import nodes_of
from aftershock.inventory import FromApi
cluster = Cluster({kubeconfig!r}, {namespace!r})
fault = RepeatedKill(
    cluster, nodes_of(cluster, FromApi()), Choice("app=web", count=1), interval_s=0.2, lease_s=60
)
played(fault)
while len(fault.rounds) < 3:
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""


def test_a_controller_that_is_killed_kills_no_more_and_leaves_nothing(site: Site) -> None:
    site.deploy("web", 4, grace_s=0)
    before = {pod.uid for pod in site.pods()}
    here, way = str(Path(__file__).parents[2]), str(site.kubeconfig)
    words = DIES.format(here=here, kubeconfig=way, namespace=site.namespace)
    died = subprocess.run([sys.executable, "-c", words], check=False, capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    until(lambda: len(site.ready("web")) == 4, PATIENCE_S)
    after = {pod.uid for pod in site.pods()}
    assert before - after, "it had killed"
    time.sleep(1)
    assert {pod.uid for pod in site.pods()} == after
    assert recover().lines()[0].startswith("Nothing was left behind")


def test_rounds_that_an_api_refuses_are_no_effect(site: Site, tmp_path: Path) -> None:
    """The rights are taken away in the middle: what was ordered did not go on."""
    if site.lab is None:
        pytest.skip("takes a user's rights away, which the lab's API does at once")
    site.deploy("web", 2, grace_s=0)
    documents = list(yaml.safe_load_all((DEPLOY / "rbac-pods.yaml").read_text()))
    cluster = Cluster(str(site.somebody(documents)), site.namespace)
    nodes = site.nodes()
    choice = Choice("app=web", count=1)
    fault = RepeatedKill(cluster, nodes, choice, interval_s=0.2, lease_s=60)
    assert played(fault)["bit"]
    site.lab.server.users.clear()
    until(lambda: any("failed" in one for one in fault.rounds))
    fault.revert()
    told = fault.to_dict()
    assert told["reverted"] and not told["bit"], told
    assert "does not know us (401)" in str(told["evidence"])
    cluster.close()


def test_repeated_killing_ends_with_its_lease_and_says_so(site: Site) -> None:
    site.deploy("web", 2, grace_s=0)
    fault = RepeatedKill(
        site.cluster, site.nodes(), Choice("app=web", count=1), interval_s=5, lease_s=0.4
    )
    played(fault)
    until(lambda: fault.healed_early)
    fault.revert()
    assert fault.to_dict()["healed_early"]
