"""The lab's pods through the ordinary Kubernetes client: they are the processes that serve."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from aftershock.lab.settings import NAMESPACE, SELECTOR
from aftershock.lab.world import Lab, gateway_status

from .labs import inside, namespaces_of, server_pid, wait_until
from .test_lab_serving import call


@pytest.fixture(scope="module")
def api(lab: Lab) -> Iterator[client.CoreV1Api]:
    connect: Any = config.new_client_from_config
    with connect(lab.kubeconfig) as connection:
        yield client.CoreV1Api(connection)


def pods(api: client.CoreV1Api) -> list[Any]:
    return list(api.list_namespaced_pod(NAMESPACE, label_selector=SELECTOR).items)


def is_ready(pod: Any) -> bool:
    conditions = pod.status.conditions or []
    return any(each.type == "Ready" and each.status == "True" for each in conditions)


def ready(api: client.CoreV1Api) -> dict[str, str]:
    """Ready pods by node."""
    return {pod.spec.node_name: pod.metadata.name for pod in pods(api) if is_ready(pod)}


def servers(lab: Lab) -> int:
    return sum("model_server" in line for line in inside(namespaces_of(lab.pid)))


def test_the_kubeconfig_is_its_owners_alone(lab: Lab) -> None:
    assert lab.kubeconfig
    assert stat.S_IMODE(Path(lab.kubeconfig).stat().st_mode) == 0o600


def test_zones_and_nodes_are_those_of_the_inventory(lab: Lab, api: client.CoreV1Api) -> None:
    nodes: Any = api.list_node().items
    label = "topology.kubernetes.io/zone"
    zones = {each.metadata.name: each.metadata.labels[label] for each in nodes}
    assert zones == {node.name: node.zone for node in lab.inventory.nodes}
    assert set(ready(api)) == set(zones)


def test_a_deleted_pods_process_is_gone_and_its_successor_serves(
    lab: Lab, api: client.CoreV1Api
) -> None:
    node = lab.inventory.nodes[2]
    old = ready(api)[node.name]
    process = server_pid(lab, node)
    api.delete_namespaced_pod(old, NAMESPACE, grace_period_seconds=0)
    wait_until(lambda: not Path(f"/proc/{process}").exists(), 1, "the process gone")
    took = wait_until(lambda: len(ready(api)) == 6, 10, "six replicas again")
    assert took > 0.1
    assert ready(api)[node.name] != old
    wait_until(lambda: all(slot.up for slot in gateway_status(lab)), 3, "all slots up")


def test_a_killed_container_is_restarted_in_the_same_pod(lab: Lab, api: client.CoreV1Api) -> None:
    node = lab.inventory.nodes[4]
    name = ready(api)[node.name]
    os.kill(server_pid(lab, node), signal.SIGKILL)

    def restarted() -> bool:
        pod: Any = api.read_namespaced_pod(name, NAMESPACE)
        return bool(pod.status.container_statuses[0].restart_count == 1 and is_ready(pod))

    wait_until(restarted, 8, "one restart")


def test_a_cordoned_zone_gets_no_replacement_until_it_is_back(
    lab: Lab, api: client.CoreV1Api
) -> None:
    zone = [node.name for node in lab.inventory.in_zone("az-a")]
    lost = {name for node, name in ready(api).items() if node in zone}
    for name in zone:
        api.patch_node(name, {"spec": {"unschedulable": True}})
    for name in lost:
        api.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=0)
    wait_until(lambda: servers(lab) == 4, 2, "four servers")
    wait_until(
        lambda: sum(pod.status.phase == "Pending" for pod in pods(api)) == 2, 3, "two pending"
    )
    wait_until(lambda: sum(s.up for s in gateway_status(lab)) == 4, 3, "the gateway to notice")
    assert all(call(lab, "/health")[0] == 200 for _ in range(12))
    for name in zone:
        api.patch_node(name, {"spec": {"unschedulable": False}})
    wait_until(lambda: len(ready(api)) == 6, 10, "six replicas again")
    wait_until(lambda: all(slot.up for slot in gateway_status(lab)), 3, "all slots up")


def test_an_unknown_image_never_runs_and_a_sleeper_does(lab: Lab, api: client.CoreV1Api) -> None:
    def pod(name: str, image: str, *args: str) -> Any:
        return {
            "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": image, "args": list(args)}]},
        }

    api.create_namespaced_pod("default", pod("stranger", "nginx:1"))
    api.create_namespaced_pod("default", pod("sleeper", "busybox", "sleep", "600"))

    def waiting() -> str:
        pod: Any = api.read_namespaced_pod("stranger", "default")
        state = (pod.status.container_statuses or [None])[0]
        return str(state.state.waiting.message) if state and state.state.waiting else ""

    wait_until(lambda: "cannot pull 'nginx:1'" in waiting(), 3, "the refusal")
    wait_until(lambda: is_ready(api.read_namespaced_pod("sleeper", "default")), 3, "the sleeper")
    assert any("sleep 600" in line for line in inside(namespaces_of(lab.pid)))
    for name in ("stranger", "sleeper"):
        api.delete_namespaced_pod(name, "default", grace_period_seconds=0)
