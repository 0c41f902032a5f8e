"""Pod faults from an experiment's words; numbers may be words, as those of the command line are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aftershock.capacity import Choice, Ending, KeptDown, PodEviction, PodKill, RepeatedKill
from aftershock.cluster import Cluster
from aftershock.errors import InvalidFault
from aftershock.inventory import Inventory, Node
from aftershock.run import wording

EVERYWHERE = "all"
BUDGETS = ("honour", "override")
Words = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where pods are looked for: a zone, nodes, a namespace; empty words leave it open."""

    zone: str = ""
    node: str = ""
    namespace: str = ""

    def nodes(self, inventory: Inventory) -> tuple[Node, ...]:
        """The nodes that are meant; `InvalidInput` names those that there are."""
        if self.zone and self.node and self.zone != EVERYWHERE:
            raise InvalidFault("zone and node both say where: give one of them")
        if self.node:
            return inventory.select(self.node)
        if self.zone and self.zone != EVERYWHERE:
            return inventory.in_zone(self.zone)
        return inventory.nodes


def pod_kill(
    cluster: Cluster, inventory: Inventory, nodes: Sequence[Node], words: Words, namespace: str = ""
) -> PodKill:
    """The killing of chosen pods."""
    more = _more(inventory, namespace)
    return PodKill(cluster, nodes, choice(inventory, words), ending(words), **more)


def pod_eviction(
    cluster: Cluster, inventory: Inventory, nodes: Sequence[Node], words: Words, namespace: str = ""
) -> PodEviction | PodKill:
    """The eviction of chosen pods; where budgets are to be overridden, their deletion."""
    if overrides(words.get("budgets", BUDGETS[0])):
        return pod_kill(cluster, inventory, nodes, words, namespace)
    told = ending(words)
    if not told.deadline_s:
        raise InvalidFault("deadline_s is 0: say how long a budget that refuses is asked again")
    return PodEviction(
        cluster,
        nodes,
        choice(inventory, words),
        grace_s=told.grace_s,
        deadline_s=told.deadline_s,
        **_more(inventory, namespace),
    )


def repeated_kill(
    cluster: Cluster, inventory: Inventory, nodes: Sequence[Node], words: Words, namespace: str = ""
) -> RepeatedKill:
    """The killing of chosen pods again and again; a share is meant in the place of the count."""
    if wording.number("share", words.get("share", 0.0)):
        words = {**words, "count": 0}
    return RepeatedKill(
        cluster,
        nodes,
        choice(inventory, words),
        ending(words),
        interval_s=wording.number("interval_s", words["interval_s"]),
        lease_s=wording.number("lease_s", words["lease_s"]),
        **_more(inventory, namespace),
    )


def kept_down(
    cluster: Cluster,
    inventory: Inventory,
    nodes: Sequence[Node],
    selector: str,
    lease_s: float,
) -> KeptDown:
    """The killing of all pods on nodes that are lost, and of what comes up there meanwhile."""
    whole = inventory.whole_zones({node.name for node in nodes})
    told = choice(inventory, {"selector": selector})
    return KeptDown(cluster, nodes, told, lease_s=lease_s, zones=whole, limits=inventory.limits)


KINDS: dict[str, Callable[..., PodKill | PodEviction | RepeatedKill]] = {
    "kill": pod_kill,
    "evict": pod_eviction,
    "keep killing": repeated_kill,
}


def choice(inventory: Inventory, words: Words) -> Choice:
    """Which pods; those of the target's own selector when nothing else says which."""
    selector, name, owner = (str(words.get(key, "")) for key in ("selector", "name", "owner"))
    if not (selector or name or owner):
        selector = inventory.selector
    if not (selector or name or owner):
        raise InvalidFault(
            "no selector, name or owner: every pod of the namespace would be meant; give one, or "
            "give the inventory a selector"
        )
    return Choice(
        selector=selector,
        name=name,
        owner=owner,
        count=whole("count", words.get("count", 0)),
        share=wording.number("share", words.get("share", 0.0)),
        max_owner_share=wording.number("max_owner_share", words.get("max_owner_share", 1.0)),
        seed=whole("seed", words.get("seed", 0)),
    )


def ending(words: Words) -> Ending:
    """How they end."""
    return Ending(
        whole("grace_s", words.get("grace_s", 0)),
        wording.number("deadline_s", words.get("deadline_s", 0.0)),
    )


def overrides(budgets: Any) -> bool:
    """Whether PodDisruptionBudgets are not to be asked."""
    if budgets not in BUDGETS:
        raise InvalidFault(f"budgets is {budgets!r}: {' or '.join(BUDGETS)}")
    return bool(budgets == "override")


def _more(inventory: Inventory, namespace: str) -> dict[str, Any]:
    return {"namespace": namespace, "limits": inventory.limits}


def whole(name: str, value: Any) -> int:
    """A whole number, or a sentence that asks for one."""
    number = wording.number(name, value)
    if number != int(number):
        raise InvalidFault(f"{name} is {value!r}: give a whole number")
    return int(number)
