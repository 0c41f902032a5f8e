"""A node's agent through a privileged pod on it: faults, evidence and heal, whoever dies."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aftershock.errors import AftershockError
from aftershock.hosts.agentpods import SELECTOR
from aftershock.hosts.fleet import Fleet
from aftershock.hosts.kubernetes import AgentPods, PodHost
from aftershock.inventory import Node
from aftershock.lab.world import Lab
from aftershock.ledger import Ledger
from aftershock.recover import recover
from tests.kubernetes.conftest import until

from .looks import leftovers, partition, phase, reaches, way
from .silencer import Silencer

pytestmark = pytest.mark.root


def test_a_partition_bites_and_heals(
    lab: Lab, node: Node, fleet: Fleet, ledger: Ledger, core: Any
) -> None:
    injection = partition(lab, node, fleet, ledger)
    injection.arm()
    pod = core.list_pod_for_all_namespaces(label_selector=SELECTOR).items[0]
    assert pod.spec.node_name == "node-a-1" and pod.spec.host_network and pod.spec.host_pid
    assert reaches(lab, node), "armed, yet nothing is felt"
    injection.fire()
    assert not reaches(lab, node)
    assert injection.observe()["bit"] is True
    injection.revert()
    assert reaches(lab, node)
    assert injection.to_dict()["clean"] is True and injection.to_dict()["ordered"] is True
    fleet.close()
    assert leftovers(core) == []


@pytest.fixture
def doomed(node: Node) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Controllers that have fired, to be killed; each in a process of its own."""
    made: list[subprocess.Popen[str]] = []

    def make(**options: Any) -> "subprocess.Popen[str]":
        words = [
            sys.executable,
            "-m",
            "tests.kubernetes.agents.controller",
            json.dumps(node.to_dict()),
        ]
        started = subprocess.Popen(
            [*words, json.dumps({"lease_s": 60, **options})], stdout=subprocess.PIPE, text=True
        )
        made.append(started)
        assert started.stdout and started.stdout.readline() == "fired\n"
        return started

    yield make
    for one in made:
        one.kill()
        one.wait()
        assert one.stdout
        one.stdout.close()


def test_a_controller_that_is_killed_leaves_nothing(
    lab: Lab, node: Node, core: Any, doomed: Callable[..., "subprocess.Popen[str]"]
) -> None:
    controller = doomed()
    assert not reaches(lab, node)
    controller.kill()
    until(lambda: reaches(lab, node))  # its agent sees the end of the channel
    assert leftovers(core) != [], "the pods are what only `recover` takes away at once"
    found = recover()
    assert found.healed, found.lines()
    assert "healed already (channel lost)" in found.lines()[0]
    assert "deleted 1 pods of node agents" in found.lines()[1]
    assert leftovers(core) == []


def test_a_deadline_only_fault_outlives_its_controller_and_is_healed_by_recover(
    lab: Lab, node: Node, core: Any, doomed: Callable[..., "subprocess.Popen[str]"]
) -> None:
    controller = doomed(deadline_only=True)
    controller.kill()
    controller.wait()
    time.sleep(0.5)
    assert not reaches(lab, node)
    found = recover()
    assert found.healed and "healed now (recover)" in found.lines()[0], found.lines()
    assert reaches(lab, node)
    assert leftovers(core) == []


def test_the_pods_end_heals(lab: Lab, node: Node, fleet: Fleet, ledger: Ledger, core: Any) -> None:
    """Somebody deletes the agent's pod: the fault is over, and a fresh pod tells what became."""
    injection = partition(lab, node, fleet, ledger)
    injection.arm()
    injection.fire()
    pod = core.list_pod_for_all_namespaces(label_selector=SELECTOR).items[0].metadata
    core.delete_namespaced_pod(pod.name, pod.namespace, grace_period_seconds=0)
    until(lambda: reaches(lab, node))
    injection.revert()
    told = injection.to_dict()
    assert told["clean"] is True and told["healed_early"] is True
    assert told["per_host"]["node-a-1"]["ended_by"] == "the agent's death"


def test_a_pod_that_nobody_needs_ends(lab: Lab, node: Node, core: Any) -> None:
    """Where nobody comes to take it away: when no agent was in it for a while."""
    pods = AgentPods()
    host = PodHost(replace(node, agent=way(lab, idle_s=0.5)), pods)
    channel = host.start()
    time.sleep(1.0)
    assert phase(core) == "Running", "an agent is in it"
    channel.close()
    until(lambda: phase(core) == "Succeeded")
    pods.close()
    assert leftovers(core) == []


def test_a_pod_ends_at_its_deadline(lab: Lab, node: Node, core: Any) -> None:
    pods = AgentPods()
    try:
        # Long enough for an agent to get up on a busy machine.
        channel = PodHost(replace(node, agent=way(lab, lifetime_s=6)), pods).start()
        until(lambda: phase(core) == "Failed")
        until(lambda: not channel.is_open)
        channel.abandon(0)
    finally:
        pods.close()
    assert leftovers(core) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"image": ""}, "no image for the node's agent"),
        ({"image": "nosuch/image:1"}, "can't run: .*cannot pull 'nosuch/image:1'"),
        ({"node": "node-z-9"}, "no node 'node-z-9'"),
        ({"namespace": "nowhere"}, 'refuses a privileged pod .404: namespaces "nowhere" not found'),
        ({"python": "nosuch-python"}, "has it nosuch-python"),
        ({"namespace": "kept"}, 'violates PodSecurity "baseline:latest": host namespaces'),
    ],
)
def test_refusals_come_before_anything_is_touched(
    lab: Lab, node: Node, core: Any, fleet: Fleet, ledger: Ledger, more: dict[str, Any], said: str
) -> None:
    from kubernetes.client import ApiException

    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    kept = {"metadata": {"name": "kept", "labels": labels}}
    with suppress(ApiException):  # it is there already
        core.create_namespace(kept)
    far = replace(node, agent=replace(way(lab), **more))
    with pytest.raises(AftershockError, match=said):
        partition(lab, far, fleet, ledger).arm()
    if not more.keys() & {"python", "image"} or not more.get("image", "x"):
        assert leftovers(core) == [], "only a start can tell what an image has"


def test_a_silent_line_heals_by_the_missed_heartbeat(
    lab: Lab, node: Node, fleet: Fleet, ledger: Ledger, tmp_path: Path
) -> None:
    """No end of file comes through a line that is only cut: then the grace decides."""
    with Silencer(lab) as line:
        kubeconfig = line.kubeconfig(tmp_path)
        cut = replace(node, agent=replace(way(lab), kubeconfig=kubeconfig))
        injection = partition(lab, cut, fleet, ledger, grace_s=2.0)
        injection.arm()
        injection.fire()
        line.silent.set()
        time.sleep(1.0)
        assert not reaches(lab, node), "nobody told the agent"
        until(lambda: reaches(lab, node))
        line.silent.clear()
        injection.revert()
        fleet.close()
    assert injection.to_dict()["per_host"]["node-a-1"]["ended_by"] == "heartbeat missed"
