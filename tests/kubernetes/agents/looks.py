"""What the tests of node agents do and look at."""

import errno
import socket
from pathlib import Path
from typing import Any

from aftershock.faults.partition import EVERYONE, Partition
from aftershock.hosts.agentpods import SELECTOR
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node, NodePod
from aftershock.lab.containers import MARK
from aftershock.lab.world import Lab
from aftershock.ledger import Ledger
from tests.agent.wires import inside

IMAGE = "aftershock/node-agent"


def way(lab: Lab, node: str = "node-a-1", **more: Any) -> NodePod:
    assert lab.kubeconfig
    return NodePod(
        lab.kubeconfig, node, **{"image": IMAGE, "namespace": "default", "emulated": True, **more}
    )


def leftovers(core: Any) -> list[str]:
    pods = core.list_pod_for_all_namespaces(label_selector=SELECTOR).items
    maps = core.list_config_map_for_all_namespaces(label_selector=SELECTOR).items
    return [one.metadata.name for one in (*pods, *maps)]


def partition(lab: Lab, node: Node, fleet: Fleet, ledger: Ledger, **more: Any) -> Injection:
    options = {"lease_s": 60.0, "witness": lab.inventory.witness, **more}
    return Injection(Partition(EVERYONE), [node], ledger=ledger, fleet=fleet, **options)


def reaches(lab: Lab, node: Node) -> bool:
    """Whether a handshake from the lab's edge is answered: by the test itself, not by agents."""

    def shake() -> bool:
        with socket.socket() as line:
            line.settimeout(0.3)
            return line.connect_ex((node.addresses[0], 9)) == errno.ECONNREFUSED

    return inside(f"/proc/{lab.pid}/root/run/netns/EDGE", shake)


def phase(core: Any) -> str:
    return str(core.list_pod_for_all_namespaces(label_selector=SELECTOR).items[0].status.phase)


def process_of(uid: str) -> int:
    """The main process of a pod of the lab's, outside."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={uid}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return min(found, default=0)
