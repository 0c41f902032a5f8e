"""A pod's network, entered by the agent on its node."""

import errno
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aftershock.cluster import Cluster
from aftershock.errors import InvalidInput, Unsupported
from aftershock.faults.partition import EVERYONE, Partition
from aftershock.hosts.fleet import Fleet
from aftershock.hosts.local import NamespaceGone
from aftershock.injection import Injection
from aftershock.inventory import Inventory, Node
from aftershock.lab.world import Lab
from aftershock.ledger import Ledger
from aftershock.run.places import places
from tests.agent.wires import inside
from tests.kubernetes.conftest import until

from .looks import IMAGE, process_of, reaches

pytestmark = pytest.mark.root
ADDRESS = "10.200.0.2"


def on_node(lab: Lab, line: str) -> None:
    enter = ["nsenter", f"--net=/proc/{lab.pid}/root/run/netns/node-a-1", "--"]
    subprocess.run([*enter, "ip", *line.split()], check=True, capture_output=True)


@pytest.fixture
def pod(lab: Lab, core: Any) -> Iterator[Any]:
    """A pod on node-a-1 with a network of its own, joined to the node's as a CNI would."""
    command = ["unshare", "--net", "--", "sleep", "1000"]
    container = {"name": "main", "image": IMAGE, "command": command}
    spec = {"nodeName": "node-a-1", "containers": [container], "terminationGracePeriodSeconds": 0}
    meta = {"name": "web", "labels": {"app": "web"}}
    core.create_namespaced_pod("inference", {"metadata": meta, "spec": spec})
    read = lambda: core.read_namespaced_pod("web", "inference")  # noqa: E731
    made = until(lambda: read() if read().status.phase == "Running" else None)
    pid = process_of(made.metadata.uid)
    until(lambda: Path(f"/proc/{pid}/cmdline").read_text().startswith("sleep"))
    on_node(lab, f"link add web0 type veth peer name eth0 netns {pid}")
    on_node(lab, "addr add 10.200.0.1/24 dev web0")
    on_node(lab, "link set web0 up")
    for line in ("link set lo up", f"addr add {ADDRESS}/24 dev eth0", "link set eth0 up"):
        subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", *line.split()], check=True)
    yield made
    core.delete_namespaced_pod("web", "inference", grace_period_seconds=0)
    until(lambda: not process_of(made.metadata.uid))


@pytest.fixture
def inventory(lab: Lab, node: Node) -> Inventory:
    return replace(lab.inventory, nodes=(node, *lab.inventory.nodes[1:]))


def reaches_pod(lab: Lab) -> bool:
    """Whether a handshake from its node is answered by the pod."""

    def shake() -> bool:
        with socket.socket() as line:
            line.settimeout(0.3)
            return line.connect_ex((ADDRESS, 9)) == errno.ECONNREFUSED

    return inside(f"/proc/{lab.pid}/root/run/netns/node-a-1", shake)


def test_a_pod_is_cut_off_and_its_node_is_not(
    lab: Lab, pod: Any, inventory: Inventory, cluster: Cluster, fleet: Fleet, ledger: Ledger
) -> None:
    (target,) = places(inventory, cluster, "app=web")
    target = replace(target, addresses=(ADDRESS,))  # the lab tells its node's
    witness = replace(lab.inventory.nodes[0], name="its-node")
    injection = Injection(
        Partition(EVERYONE), [target], lease_s=20, ledger=ledger, fleet=fleet, witness=witness
    )
    injection.arm()
    assert reaches_pod(lab)
    injection.fire()
    assert not reaches_pod(lab) and reaches(lab, inventory.nodes[0])
    assert injection.observe()["bit"] is True
    injection.revert()
    assert reaches_pod(lab)
    assert injection.to_dict()["clean"] is True


def test_a_pods_network_is_held_when_its_processes_are_gone(
    lab: Lab,
    pod: Any,
    inventory: Inventory,
    cluster: Cluster,
    core: Any,
    fleet: Fleet,
    ledger: Ledger,
) -> None:
    """Whatever restarts in it meanwhile: the agent is in it, and takes its rules back itself."""
    (target,) = places(inventory, cluster, "pod/web, node-a-1")
    injection = Injection(Partition(EVERYONE), [target], lease_s=20, ledger=ledger, fleet=fleet)
    injection.arm()
    injection.fire()
    old = process_of(pod.metadata.uid)
    subprocess.run(["kill", "-KILL", str(old)], check=True)
    restarted = lambda: core.read_namespaced_pod("web", "inference").status.container_statuses  # noqa: E731
    until(lambda: restarted()[0].restart_count == 1)
    assert fleet.channels([target])["web"].ask("observe", injection=injection.id)
    injection.revert()
    told = injection.to_dict()
    assert told["clean"] is True and told["ordered"] is True


def test_pods_that_cannot_be_broken_are_named(
    lab: Lab, inventory: Inventory, cluster: Cluster, core: Any, fleet: Fleet, far_env: object
) -> None:
    with pytest.raises(InvalidInput, match="no running pod in inference is meant by 'app=nosuch'"):
        places(inventory, cluster, "app=nosuch")
    with pytest.raises(InvalidInput, match="no running pod 'nosuch'"):
        places(inventory, cluster, "pod/nosuch")
    with pytest.raises(Unsupported, match="node-b-1 is reached neither through an agent's pod"):
        places(inventory, cluster, "app=model, az-b")
    with pytest.raises(Unsupported, match="this target has no Kubernetes API"):
        places(inventory, None, "app=model")
    (target,) = places(inventory, cluster, "app=model, az-a")
    with pytest.raises(Unsupported, match="uses its node's own network, so its faults would be"):
        fleet.channels([target])
    assert target.pod
    gone = replace(target, pod=replace(target.pod, uid="00000000-0000"))
    with pytest.raises(NamespaceGone, match="no process of the pod inference/model-"):
        fleet.channels([gone])
