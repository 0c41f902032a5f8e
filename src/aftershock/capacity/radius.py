"""How much of a target may be broken at once: refused before the first thing is touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aftershock.capacity.choosing import TooMuch, check_namespace, check_owners
from aftershock.cluster import Cluster, pods
from aftershock.faults.base import Fault, PerNode
from aftershock.faults.command import Command
from aftershock.faults.freeze import Freeze
from aftershock.inventory import Inventory, Limits, Node, PodRef
from aftershock.onlookers import traffic_of

_ANYWHERE = ("192.0.2.1", "2001:db8::1")  # addresses that are nobody's (RFC 5737, RFC 3849)


def check_nodes(
    inventory: Inventory,
    nodes: Sequence[Node],
    broken: Iterable[str] = (),
    touched: Iterable[str] = (),
    loses: bool = True,
) -> None:
    """`TooMuch` when breaking these nodes, too, is more than the target's limits allow.

    `broken`: nodes that are lost already; `touched`: on which something else is. `loses`: whether
    these would be lost, or only touched (a delay). The last zone is never lost: a zone counts as
    lost when all its nodes are.
    """
    everyone, limits = inventory.nodes, inventory.limits
    own = {node.name for node in nodes}
    if loses:
        _check_zones(inventory, own | set(broken))
    names = (own | set(broken) | set(touched)) & {node.name for node in everyone}
    if len(names) > limits.max_node_share * len(everyone) + 1e-9:
        raise TooMuch(
            f"{inventory.target}: {len(names)} of {len(everyone)} nodes would be touched, and "
            f"max_node_share {limits.max_node_share:g} allows less: choose fewer, or raise it in "
            "the inventory's limits"
        )


def _check_zones(inventory: Inventory, names: set[str]) -> None:
    zones, limits = inventory.zones(), inventory.limits
    lost = inventory.whole_zones(names)
    told = f"{inventory.target}: {', '.join(lost)} would be lost"
    if len(lost) == len(zones):
        only = "it has one zone only" if len(zones) == 1 else "no other zone would be left"
        raise TooMuch(f"{told}, and {only}: the last zone is never broken; choose fewer nodes")
    if len(lost) > limits.max_zone_share * len(zones) + 1e-9:
        raise TooMuch(
            f"{told}, {len(lost)} of {len(zones)} zones, and max_zone_share "
            f"{limits.max_zone_share:g} allows less: choose fewer, or raise it in the inventory's "
            "limits"
        )


def loses(inventory: Inventory, fault: Fault, nodes: Sequence[Node]) -> bool:
    """Whether nodes with this fault count as lost: nobody else reaches them, or makes use of them.

    A frozen kubelet's node is lost to its cluster, and one without power to everybody. Between the
    parts of a partition's shape everybody reaches somebody. What a user's command does on a node is
    not known: it is touched.
    """
    if isinstance(fault, PerNode):
        return any(map(_takes_node, fault.by_node.values()))
    traffic = traffic_of(fault)
    if traffic is None or not traffic.is_everything:
        return False
    outside = inventory.witness.addresses if inventory.witness else _ANYWHERE
    others = [node.addresses for node in inventory.nodes if node not in nodes]
    return all(any(map(fault.cuts, addresses)) for addresses in (outside, *others) if addresses)


def _takes_node(fault: Fault) -> bool:
    # Commands that differ from node to node are those that take their power.
    return isinstance(fault, Command) or (isinstance(fault, Freeze) and bool(fault.named))


def check_pods(
    cluster: Cluster, refs: Iterable[PodRef], limits: Limits, touched: Iterable[str] = ()
) -> None:
    """`TooMuch` when breaking these pods is more than the limits allow of their owners.

    `touched`: names of pods on which something is already.
    """
    uids: dict[str, set[str]] = {}
    for ref in refs:
        uids.setdefault(ref.namespace, set()).add(ref.uid)
    already = set(touched)
    for namespace, own in uids.items():
        check_namespace(namespace, limits)
        everyone = pods.listed(cluster, namespace)
        chosen = [pod for pod in everyone if pod.uid in own or pod.name in already]
        check_owners([pod for pod in chosen if not pod.terminating], everyone, limits)
