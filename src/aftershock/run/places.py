"""Where a fault is to be, from an experiment's words: zones, nodes, and pods on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aftershock.cluster import Cluster
from aftershock.errors import InvalidInput, Unsupported
from aftershock.inventory import Inventory, Node, PodRef

_POD = "pod/"


def are_pods(where: str) -> bool:
    """Whether the words mean pods: a label (`app=model`) or a name (`pod/NAME`) is among them."""
    return any(word.startswith(_POD) or "=" in word for word in _words(where))


def places(inventory: Inventory, cluster: Cluster | None, where: str) -> tuple[Node, ...]:
    """Nodes by zones and names, or the pods that `where` means, each as a host of its own.

    See `pods_of` for the words. Unsupported where no agent gets into a pod.
    """
    if not are_pods(where):
        return inventory.select(where)
    return tuple(_inside(pod, host) for pod, host in pods_of(inventory, cluster, where))


def pods_of(
    inventory: Inventory, cluster: Cluster | None, where: str
) -> list[tuple[Mapping[str, Any], Node]]:
    """Running pods as the API has them, and the hosts that they are on.

    By labels, all of which they have; names, as `pod/NAME`; zones and nodes, on which they are.
    InvalidInput where nothing is meant by it.
    """
    if cluster is None:
        raise Unsupported(f"where {where!r} means pods, and this target has no Kubernetes API")
    words = _words(where)
    names = [word.removeprefix(_POD) for word in words if word.startswith(_POD)]
    labels = [word for word in words if "=" in word]
    rest = [word for word in words if "=" not in word and not word.startswith(_POD)]
    hosts = {one.in_cluster: one for one in inventory.nodes}
    meant = {one.name for one in inventory.select(",".join(rest) or "all")}
    found = [one for one in cluster.described(",".join(labels)) if _lives(one)]
    if missing := sorted(set(names) - {one["metadata"]["name"] for one in found}):
        raise InvalidInput(f"where: no running pod {missing[0]!r} in {cluster.namespace}")
    chosen: list[tuple[Mapping[str, Any], Node]] = [
        (one, host)
        for one in found
        if (host := hosts.get(one["spec"].get("nodeName", ""))) and host.name in meant
        if not names or one["metadata"]["name"] in names
    ]
    if not chosen:
        raise InvalidInput(f"where: no running pod in {cluster.namespace} is meant by {where!r}")
    return chosen


def _words(where: str) -> list[str]:
    return [word.strip() for word in where.split(",") if word.strip()]


def _lives(pod: Mapping[str, Any]) -> bool:
    running = pod["status"].get("phase") == "Running"
    return running and not pod["metadata"].get("deletionTimestamp")


def _inside(pod: Mapping[str, Any], host: Node) -> Node:
    """A pod as a host of its own, reached as its node is."""
    meta = pod["metadata"]
    if not host.is_far:
        raise Unsupported(
            f"pod {meta['name']}: its node {host.name} is reached neither through an agent's pod "
            "nor by SSH: give the inventory an `agent` or `ssh` block"
        )
    if pod["spec"].get("hostNetwork"):
        raise InvalidInput(
            f"pod {meta['name']} uses its node's own network: name the node {host.name} instead"
        )
    return Node(
        name=meta["name"],
        zone=host.zone,
        addresses=tuple(one["ip"] for one in pod["status"].get("podIPs") or ()),
        env=host.env,
        ssh=host.ssh,
        agent=host.agent,
        pod=PodRef(meta["namespace"], meta["name"], meta["uid"]),
    )
