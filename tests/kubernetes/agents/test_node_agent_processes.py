"""Processes in pods, by the agent on their node: killed, killed again, and frozen."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock.capacity.containers import ContainerKill, Target
from aftershock.cluster import Cluster
from aftershock.errors import AftershockError, InvalidFault, InvalidInput
from aftershock.faults.freeze import Freeze
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.lab.settings import SERVER_PORT
from aftershock.lab.world import Lab
from aftershock.ledger import Ledger
from tests.agent.wires import inside, is_gone
from tests.kubernetes.conftest import until

from .looks import process_of

pytestmark = pytest.mark.root


@pytest.fixture
def pod(core: Any) -> Iterator[Any]:
    """The model server's on node-a-1; a killed one is replaced, since it waits ever longer."""
    found = until(lambda: next(iter(ready(core)), None))
    yield found
    name = found.metadata.name
    if core.read_namespaced_pod(name, "inference").status.container_statuses[0].restart_count:
        core.delete_namespaced_pod(name, "inference", grace_period_seconds=0)
        until(lambda: name not in {one.metadata.name for one in ready(core)})


def ready(core: Any) -> list[Any]:
    pods = core.list_namespaced_pod("inference", label_selector="app=model").items
    return [
        pod
        for pod in pods
        if pod.spec.node_name == "node-a-1" and pod.status.container_statuses[0].ready
    ]


def target(node: Node, pod: Any) -> Target:
    return Target(node, pod.metadata.uid, pod.metadata.name, "server")


def container_of(pod: Any) -> str:
    return str(pod.status.container_statuses[0].container_id).rpartition("//")[2]


def answers(lab: Lab) -> bool:
    """Whether the model server on node-a-1 answers the test itself within 0.3 s."""

    def ask() -> bool:
        address = lab.inventory.nodes[0].addresses[0]
        try:
            with socket.create_connection((address, SERVER_PORT), 1) as line:
                line.settimeout(0.3)
                line.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                return b" 200 " in line.recv(64)
        except OSError:
            return False

    return inside(f"/proc/{lab.pid}/root/run/netns/node-a-1", ask)


def test_a_killed_container_is_another_process_of_the_same_pod(
    node: Node, pod: Any, cluster: Cluster, core: Any, fleet: Fleet
) -> None:
    before = process_of(pod.metadata.uid)
    kill = ContainerKill(cluster, [target(node, pod)], fleet)
    kill.arm()
    assert process_of(pod.metadata.uid) == before, "armed, yet nothing is felt"
    kill.fire()
    until(lambda: is_gone(before))
    assert kill.observe()["bit"] is True
    after = core.read_namespaced_pod(pod.metadata.name, "inference")
    assert after.metadata.uid == pod.metadata.uid
    status = after.status.container_statuses[0]
    assert status.restart_count == pod.status.container_statuses[0].restart_count + 1
    assert until(lambda: process_of(pod.metadata.uid)) != before
    kill.revert()


def test_a_frozen_container_answers_nothing_until_the_heal(
    lab: Lab, node: Node, pod: Any, fleet: Fleet, ledger: Ledger
) -> None:
    injection = freeze(node, pod, fleet, ledger)
    injection.arm()
    assert answers(lab), "armed, yet nothing is felt"
    injection.fire()
    assert not answers(lab)
    assert states(pod) == {"t"}
    assert injection.observe()["bit"] is True, injection.evidence
    injection.revert()
    assert answers(lab) and "t" not in states(pod)
    told = injection.to_dict()
    assert told["clean"] is True and told["ordered"] is True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_frozen_container_goes_on_when_its_agent_cannot(
    lab: Lab, node: Node, pod: Any, fleet: Fleet, ledger: Ledger, number: signal.Signals
) -> None:
    """Killed: the kernel lets go. Stopped: the watcher kills it, when the lease is over."""
    killed = number == signal.SIGKILL
    injection = freeze(node, pod, fleet, ledger, lease_s=60.0 if killed else 6.0)
    injection.arm()
    injection.fire()
    assert not answers(lab)
    agent = tracer(pod)
    os.kill(agent, number)
    until(lambda: answers(lab))
    injection.revert()
    assert injection.to_dict()["healed_early"] is True


def test_what_is_frozen_can_still_be_killed(
    lab: Lab, node: Node, pod: Any, core: Any, fleet: Fleet, ledger: Ledger
) -> None:
    """A kubelet whose liveness probe fails does that: it must learn that its process ended."""
    injection = freeze(node, pod, fleet, ledger)
    injection.arm()
    injection.fire()
    os.kill(process_of(pod.metadata.uid), signal.SIGKILL)
    until(lambda: answers(lab))
    assert injection.observe(0.5)["bit"] is False, "what runs now is another process"
    injection.revert()


def test_a_restart_loop_goes_on_until_the_heal(
    node: Node, pod: Any, cluster: Cluster, core: Any, fleet: Fleet
) -> None:
    loop = ContainerKill(cluster, [target(node, pod)], fleet, times=50, every_s=0.05)
    loop.arm()
    loop.fire()
    name = f"{pod.metadata.name}/server"
    before = pod.status.container_statuses[0].restart_count
    until(lambda: loop.killed[name] >= 2, 15.0)
    assert loop.observe()["bit"] is True and loop.errors == []
    loop.revert()
    count = loop.killed[name]
    time.sleep(0.3)
    assert loop.killed[name] == count, "reverted, it kills no more"
    told = core.read_namespaced_pod(pod.metadata.name, "inference")
    assert told.status.container_statuses[0].restart_count >= before + count - 1


def test_refusals(node: Node, pod: Any, cluster: Cluster, fleet: Fleet, ledger: Ledger) -> None:
    with pytest.raises(InvalidFault, match="neither a container nor a program's name"):
        Freeze()
    with pytest.raises(InvalidInput, match="times 0: 1 to"):
        ContainerKill(cluster, [target(node, pod)], fleet, times=0)
    with pytest.raises(AftershockError, match="no process of container nosuch here"):
        freeze(node, pod, fleet, ledger, fault=Freeze(("nosuch",))).arm()
    gone = Target(node, "nosuch", "nosuch", "server")
    with pytest.raises(InvalidInput, match="nosuch/server does not run"):
        ContainerKill(cluster, [gone], fleet).arm()


def freeze(node: Node, pod: Any, fleet: Fleet, ledger: Ledger, **more: Any) -> Injection:
    fault = more.pop("fault", None) or Freeze((container_of(pod),))
    options = {"lease_s": 60.0, **more}
    return Injection(fault, [node], ledger=ledger, fleet=fleet, **options)


def states(pod: Any) -> set[str]:
    """Those of the main process' threads, as this machine shows them."""
    tasks = Path(f"/proc/{process_of(pod.metadata.uid)}/task")
    return {(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()}


def tracer(pod: Any) -> int:
    lines = Path(f"/proc/{process_of(pod.metadata.uid)}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("TracerPid"))
