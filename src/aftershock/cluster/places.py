"""Where a cluster is: its nodes with their zones and addresses, and what namespaces it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aftershock.cluster.api import Cluster
from aftershock.cluster.permissions import Permission, require
from aftershock.cluster.pods import checked, namespaces
from aftershock.cluster.refusals import NoAccess, Refused
from aftershock.errors import InvalidInput
from aftershock.inventory import FromApi, Inventory, Node

_FORBIDDEN, _ABSENT = 403, 404


def look_up(inventory: Inventory) -> tuple[Inventory, Cluster | None]:
    """The inventory as `resolved` has it, and its cluster, open; unchanged where there is none."""
    if inventory.kubeconfig is None:
        return inventory, None
    cluster = Cluster(inventory.kubeconfig, inventory.namespace)
    try:
        return resolved(inventory, cluster), cluster
    except BaseException:
        cluster.close()
        raise


def resolved(inventory: Inventory, cluster: Cluster) -> Inventory:
    """The inventory with what only the API knows, after a look at whether we are let in.

    Nothing is changed there. Raises `NoAccess`, `NotPermitted` or `InvalidInput` with the mend.
    """
    check_namespace(cluster, cluster.namespace)
    require(cluster, reads(cluster.namespace))
    found = replace(inventory, kubeconfig=cluster.kubeconfig, namespace=cluster.namespace)
    cluster.zone_label = inventory.zone_label
    if inventory.from_api is not None:
        cluster.zone_label = inventory.from_api.zone_label
        cluster.node_selector = inventory.from_api.node_selector
        found = replace(found, nodes=nodes_of(cluster, inventory.from_api), from_api=None)
    return replace(found, nodes=tuple(_pinned(node, inventory, cluster) for node in found.nodes))


def _pinned(node: Node, inventory: Inventory, cluster: Cluster) -> Node:
    """An agent's pod is to be found again in this cluster, whatever the current context is then."""
    if node.agent is None or node.agent.context or node.agent.kubeconfig != inventory.kubeconfig:
        return node
    return replace(node, agent=replace(node.agent, kubeconfig=cluster.kubeconfig))


def reads(namespace: str) -> list[Permission]:
    """What looking at a target needs, whatever is done to it."""
    return [
        Permission("list", "nodes"),
        *(Permission(verb, "pods", namespace) for verb in ("get", "list", "watch")),
    ]


def probes(namespace: str) -> list[Permission]:
    """What `aftershock.probes.kubernetes` reads beside: whoever asks none of it needs none."""
    return [
        Permission("list", "endpointslices", namespace, "discovery.k8s.io"),
        Permission("list", "poddisruptionbudgets", namespace, "policy"),
        Permission("list", "horizontalpodautoscalers", namespace, "autoscaling"),
        Permission("watch", "horizontalpodautoscalers", namespace, "autoscaling"),
    ]


def check_namespace(cluster: Cluster, name: str) -> None:
    """`NoAccess` names the namespaces that exist; who may not ask is believed."""
    from kubernetes import client

    ask = client.CoreV1Api(cluster.api_client).read_namespace
    try:
        cluster.call(checked(ask), name)
    except Refused as error:
        if error.status == _ABSENT:
            known = ", ".join(namespaces(cluster)) or "others"
            raise NoAccess(
                f"no namespace {name!r} at {cluster.access.place}: it has {known}"
            ) from None
        if error.status != _FORBIDDEN:
            raise


def nodes_of(cluster: Cluster, wanted: FromApi) -> tuple[Node, ...]:
    """The nodes that have a zone; `InvalidInput` lists the zone labels there are, if none has."""
    from kubernetes import client

    ask = client.CoreV1Api(cluster.api_client).list_node
    answer = cluster.call(checked(ask), label_selector=wanted.node_selector)
    plain = sorted(json.loads(answer.data)["items"], key=lambda one: str(one["metadata"]["name"]))
    if not plain:
        chosen = f" that match {wanted.node_selector!r}" if wanted.node_selector else ""
        raise InvalidInput(f"{cluster.access.place} has no nodes{chosen}: give another selector")
    zoned = [one for one in plain if _labels(one).get(wanted.zone_label)]
    if not zoned:
        raise InvalidInput(
            f"no node of {cluster.access.place} has the label {wanted.zone_label}: "
            f"{_other_zones(plain)}"
        )
    nodes = [_node(one, wanted) for one in zoned]
    return tuple(sorted(nodes, key=lambda node: (node.zone, node.name)))


def _node(plain: Mapping[str, Any], wanted: FromApi) -> Node:
    name = plain["metadata"]["name"]
    told = (plain.get("status") or {}).get("addresses") or ()
    addresses = tuple(one["address"] for one in told if one["type"] == "InternalIP")
    node = Node(name, _labels(plain)[wanted.zone_label], addresses, devices=wanted.devices)
    if wanted.agent is not None:
        return replace(node, agent=replace(wanted.agent, node=name))
    if wanted.ssh is None:
        return replace(node, agentless=True)
    if not addresses:
        raise InvalidInput(f"node {name} tells no internal address: SSH would not find it")
    return replace(node, ssh=replace(wanted.ssh, address=addresses[0]))


def _labels(plain: Mapping[str, Any]) -> Mapping[str, str]:
    return plain["metadata"].get("labels") or {}


def _other_zones(nodes: list[Mapping[str, Any]]) -> str:
    found: dict[str, set[str]] = {}
    for plain in nodes:
        for key, value in _labels(plain).items():
            if "zone" in key or "topology" in key:
                found.setdefault(key, set()).add(value)
    if not found:
        return "none has any topology label: label them with their zones"
    there = "; ".join(f"{key} ({', '.join(sorted(found[key]))})" for key in sorted(found))
    return f"name one that exists as zone_label: {there}"
