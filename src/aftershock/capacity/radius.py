"""How much of a target may be broken at once: refused before the first thing is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aftershock.capacity.choosing import TooMuch, check_namespace, check_owners
from aftershock.capacity.toll import Taken, few, nothing_taken
from aftershock.cluster import Cluster, pods
from aftershock.faults.base import Fault, PerNode
from aftershock.faults.command import Command
from aftershock.faults.freeze import Freeze
from aftershock.inventory import Inventory, Limits, Node, PodRef
from aftershock.onlookers import traffic_of

_NONE: Mapping[str, str] = {}
_ANYWHERE = ("192.0.2.1", "2001:db8::1")  # addresses that are nobody's (RFC 5737, RFC 3849)


def check_nodes(
    inventory: Inventory,
    nodes: Sequence[Node],
    broken: Mapping[str, str] = _NONE,
    touched: Mapping[str, str] = _NONE,
    loses: bool = True,
) -> None:
    """`TooMuch` when breaking these nodes, too, is more than the target's limits allow.

    `broken`: nodes that are lost already; `touched`: on which something else is; each with what.
    `loses`: whether these would be lost, or only touched (a delay). The last zone is never lost: a
    zone counts as lost when all its nodes are.
    """
    everyone, limits = inventory.nodes, inventory.limits
    own = {node.name for node in nodes}
    if loses:
        _check_zones(inventory, own, broken)
    known = {node.name for node in everyone}
    before = {name: why for name, why in {**broken, **touched}.items() if name in known}
    names = own & known | set(before)
    if len(names) > limits.max_node_share * len(everyone) + 1e-9:
        raise TooMuch(
            f"{inventory.target}: {len(names)} of {len(everyone)} nodes would be touched, and "
            f"max_node_share {limits.max_node_share:g} allows less{_already(before)}: "
            f"{_mend(before)}"
        )


def _already(before: Mapping[str, str]) -> str:
    """What is where already, as a sentence goes on."""
    places: dict[str, list[str]] = {}
    for name, why in before.items():
        places.setdefault(why, []).append(name)
    told = [f"{why} is on {few(names)}" for why, names in places.items()]
    return f"; {' and '.join(told)} already" if told else ""


def _mend(before: Mapping[str, str]) -> str:
    first = "heal it first, " if before else ""
    return f"{first}choose fewer, or raise it in the inventory's limits"


def _check_zones(inventory: Inventory, own: set[str], broken: Mapping[str, str]) -> None:
    zones, limits = inventory.zones(), inventory.limits
    lost = inventory.whole_zones(own | set(broken))
    before = {node.name for zone in lost for node in inventory.in_zone(zone)} & set(broken)
    already = {name: broken[name] for name in before}
    told = f"{inventory.target}: {', '.join(lost)} would be lost"
    if len(lost) == len(zones):
        only = "it has one zone only" if len(zones) == 1 else "no other zone would be left"
        raise TooMuch(
            f"{told}, and {only}{_already(already)}: the last zone is never broken; choose fewer "
            "nodes"
        )
    if len(lost) > limits.max_zone_share * len(zones) + 1e-9:
        raise TooMuch(
            f"{told}, {len(lost)} of {len(zones)} zones, and max_zone_share "
            f"{limits.max_zone_share:g} allows less{_already(already)}: {_mend(already)}"
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
    cluster: Cluster, refs: Iterable[PodRef], limits: Limits, taken: Taken = nothing_taken
) -> None:
    """`TooMuch` when breaking these pods, too, is more than the limits allow of their owners."""
    uids: dict[str, set[str]] = {}
    for ref in refs:
        uids.setdefault(ref.namespace, set()).add(ref.uid)
    for namespace, own in uids.items():
        check_namespace(namespace, limits)
        everyone = pods.listed(cluster, namespace)
        chosen = [pod for pod in everyone if pod.uid in own and not pod.terminating]
        check_owners(chosen, everyone, limits, taken(namespace, everyone))
