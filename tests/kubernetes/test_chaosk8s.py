"""The API through chaostoolkit-kubernetes, as experiments use it."""

from __future__ import annotations

from typing import Any

import pytest
from chaosk8s.deployment.actions import scale_deployment
from chaosk8s.deployment.probes import deployment_available_and_healthy, deployment_fully_available
from chaosk8s.node.actions import cordon_node, drain_nodes, uncordon_node
from chaosk8s.node.probes import get_nodes
from chaosk8s.pod.actions import terminate_pods
from chaosk8s.pod.probes import all_pods_healthy, count_pods, pods_in_phase
from chaoslib.exceptions import ActivityFailed

from .conftest import Lab, ready_pods, until

_APP = "app=web"


@pytest.fixture
def secrets(web: Lab, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    # The client reads $KUBECONFIG when it is imported: too early for a fixture.
    where = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setenv("KUBECONFIG", str(web.kubeconfig))
    monkeypatch.setattr(where, str(web.kubeconfig))
    return {"KUBERNETES_CONTEXT": "aftershock-lab"}


def test_pods_are_counted_and_terminated(secrets: Any, core: Any) -> None:
    assert count_pods(_APP, phase="Running", ns="shop", secrets=secrets) == 6
    assert pods_in_phase(_APP, phase="Running", ns="shop", secrets=secrets)
    before = {pod.metadata.uid for pod in ready_pods(core)}
    killed = terminate_pods(_APP, qty=2, grace_period=0, ns="shop", secrets=secrets)
    assert len(killed) == 2
    assert len(before & {pod.metadata.uid for pod in ready_pods(core)}) == 4
    until(lambda: len(ready_pods(core)) == 6)
    assert all_pods_healthy(ns="shop", secrets=secrets)
    assert terminate_pods("app=none", ns="shop", secrets=secrets) == []


def test_nodes_are_cordoned_and_drained(secrets: Any, core: Any) -> None:
    zone = "topology.kubernetes.io/zone=az-a"
    assert len(get_nodes(zone, secrets=secrets)["items"]) == 2
    assert sorted(cordon_node(label_selector=zone, secrets=secrets)) == ["node-a-1", "node-a-2"]
    assert sorted(uncordon_node(label_selector=zone, secrets=secrets)) == ["node-a-1", "node-a-2"]
    assert drain_nodes("node-b-2", timeout=20, secrets=secrets)
    assert not [p for p in ready_pods(core) if p.spec.node_name == "node-b-2"]


def test_deployments(secrets: Any, core: Any) -> None:
    assert deployment_available_and_healthy("web", ns="shop", secrets=secrets)
    scale_deployment("web", 4, ns="shop", secrets=secrets)
    until(lambda: len(ready_pods(core)) == 4)
    assert deployment_fully_available("web", ns="shop", timeout=10, secrets=secrets)
    with pytest.raises(ActivityFailed):
        deployment_available_and_healthy("nosuch", ns="shop", secrets=secrets)
