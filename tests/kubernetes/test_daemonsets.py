"""Daemon sets: a pod on every node that it may be on, whatever is done to the node."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from aftershock.capacity import Choice, Cordon, Drain, KeptDown
from aftershock.inventory import Limits
from aftershock.ledger import Ledger

from .conftest import Lab, deployment, needs_kubectl, until
from .sites import IMAGE, PATIENCE_S, Site


def daemons(**spec: Any) -> dict[str, Any]:
    """Pods that sleep, on every node that lets them."""
    labels = {"app": "watch"}
    container = {"name": "main", "image": IMAGE, "command": ["sleep", "1000"]}
    container["imagePullPolicy"] = "IfNotPresent"
    pod = {"containers": [container], "terminationGracePeriodSeconds": 1, **spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "watch", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def begin(site: Site, **spec: Any) -> int:
    """A daemon set with all its pods ready; how many there are."""
    from kubernetes import client

    apps, body = client.AppsV1Api(site.client), daemons(**spec)
    body["metadata"]["namespace"] = site.namespace
    apps.create_namespaced_daemon_set(site.namespace, body)

    def all_ready() -> int:
        status = apps.read_namespaced_daemon_set_status("watch", site.namespace).status
        wanted = int(status.desired_number_scheduled)
        return wanted if wanted and status.number_ready == wanted else 0

    return int(until(all_ready, PATIENCE_S))


def test_a_drain_leaves_them_and_a_cordoned_node_gets_them_again(site: Site, book: Ledger) -> None:
    begin(site)
    site.deploy("web", 6)
    node = next(
        node for node in site.nodes() if any(p.node == node.name for p in site.ready("web"))
    )
    drain = Drain(site.cluster, [node], limits=Limits(max_owner_share=1))
    drain.check()
    (daemon,) = [pod for pod in site.pods("app=watch") if pod.node == node.name]
    left = f"leave pod {site.namespace}/{daemon.name}: of DaemonSet/watch"
    assert any(left in line for line in drain.touches()), drain.touches()
    cordon = Cordon(site.cluster, [node], book)
    for one in (cordon, drain):
        one.arm()
        one.fire()
    assert drain.observe()["bit"]
    there = [pod for pod in site.pods() if pod.node == node.name and pod.runs]
    assert [pod.uid for pod in there] == [daemon.uid]
    site.core.delete_namespaced_pod(daemon.name, site.namespace, grace_period_seconds=0)

    def again() -> bool:
        found = [pod for pod in site.ready("watch") if pod.node == node.name]
        return len(found) == 1 and found[0].uid != daemon.uid

    until(again, PATIENCE_S)
    drain.revert()
    cordon.revert()


def test_on_a_lost_node_they_are_killed_again_and_again(site: Site) -> None:
    """The pods that cordon and taint don't keep off are why a lost zone is looked after."""
    begin(site, tolerations=[{"operator": "Exists"}])
    nodes = [site.nodes()[0]]
    kept = KeptDown(site.cluster, nodes, Choice("app=watch"), limits=Limits(max_owner_share=1))
    kept.check()
    kept.arm()
    kept.fire()
    until(lambda: kept.parameters()["again"], PATIENCE_S)
    assert kept.observe()["bit"]
    kept.revert()
    assert kept.to_dict()["clean"] and kept.bit, kept.evidence
    until(lambda: any(pod.node == nodes[0].name for pod in site.ready("watch")), PATIENCE_S)


@needs_kubectl
def test_as_kubectl_sees_them(lab: Lab, core: Any) -> None:
    lab.apply(deployment(), daemons())

    def there() -> dict[str, str]:
        pods = core.list_namespaced_pod("shop", label_selector="app=watch").items
        return {p.spec.node_name: p.metadata.uid for p in pods if not p.metadata.deletion_timestamp}

    lab.kubectl("rollout", "status", "daemonset/watch", "--timeout=20s")
    first = there()
    assert len(first) == 6
    assert lab.kubectl("get", "ds").splitlines()[1].split()[:7] == ["watch", *["6"] * 5, "<none>"]
    assert "Pods Status:  6 Running" in lab.kubectl("describe", "ds", "watch")
    drain = ("drain", "node-a-1", "--timeout=20s")
    assert "use --ignore-daemonsets" in lab.kubectl(*drain, code=1)
    assert "ignoring DaemonSet-managed" in lab.kubectl(*drain, "--ignore-daemonsets")
    assert there() == first
    # It is gone from a node whose NoExecute taint it doesn't tolerate, and from there alone.
    lab.kubectl("taint", "nodes", "node-b-1", "lab/x=y:NoExecute")
    until(lambda: set(first) - set(there()) == {"node-b-1"})
    assert lab.kubectl("get", "ds").splitlines()[1].split()[1:3] == ["5", "5"]
    lab.kubectl("taint", "nodes", "node-b-1", "lab/x-")
    until(lambda: set(there()) == set(first))
    # A node that joins gets one, and one that leaves takes its own along.
    joins = core.api_client.sanitize_for_serialization(core.read_node("node-c-2"))
    joins = {**joins, "metadata": {"name": "node-c-3", "labels": joins["metadata"]["labels"]}}
    core.create_node(copy.deepcopy(joins))
    until(lambda: "node-c-3" in there())
    core.delete_node("node-c-3")
    until(lambda: "node-c-3" not in there())
    before = there()
    lab.kubectl("rollout", "restart", "daemonset/watch")
    lab.kubectl("rollout", "status", "daemonset/watch", "--timeout=30s")
    assert set(there()) == set(before) and not set(there().values()) & set(before.values())
    wrong = daemons()
    wrong["spec"]["selector"] = {"matchLabels": {"app": "other"}}
    said = lab.kubectl("create", "-f", "-", code=1, stdin=json.dumps(wrong))
    assert "selector` does not match template `labels`" in said
    lab.kubectl("delete", "daemonset", "watch", "--timeout=20s")
    until(lambda: not there())


def test_what_kubernetes_lets_them_tolerate(lab: Lab, core: Any) -> None:
    """As the documentation of DaemonSets lists it."""
    lab.apply(daemons(hostNetwork=True))
    pods = until(lambda: core.list_namespaced_pod("shop", label_selector="app=watch").items)
    told = {(one.key.rpartition("/")[2], one.effect) for one in pods[0].spec.tolerations}
    assert told == {
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
        ("network-unavailable", "NoSchedule"),
    }
    assert all(one.toleration_seconds is None for one in pods[0].spec.tolerations)


@pytest.mark.parametrize("most", [1, "50%"])
def test_how_many_may_be_down_at_once(lab: Lab, core: Any, apps: Any, most: int | str) -> None:
    body = daemons()
    body["spec"]["updateStrategy"] = {"rollingUpdate": {"maxUnavailable": most}}
    lab.apply(body)
    until(lambda: apps.read_namespaced_daemon_set("watch", "shop").status.number_ready == 6)
    note = {"spec": {"template": {"metadata": {"annotations": {"x": "y"}}}}}
    apps.patch_namespaced_daemon_set("watch", "shop", note)
    least = 6

    def over() -> bool:
        nonlocal least
        status = apps.read_namespaced_daemon_set("watch", "shop").status
        least = min(least, status.number_ready)
        return bool(status.updated_number_scheduled == 6 == status.number_ready)

    until(over, 30)
    assert least >= (5 if most == 1 else 3)
