"""Replacements kept off nodes, and pods driven from them, through the Kubernetes API."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

from aftershock.capacity.choosing import check_owners
from aftershock.capacity.held import HeldChange, take_back
from aftershock.capacity.reaper import Reaper
from aftershock.cluster import Cluster, Pod, pods, taints
from aftershock.cluster.permissions import Permission
from aftershock.errors import AftershockError, InvalidFault
from aftershock.evidence import Piece
from aftershock.inventory import Limits, Node
from aftershock.ledger import Ledger, undoes

_DRIVEN_WITHIN_S = 10.0


class NodeFault(HeldChange, ABC):
    """What changes nodes in the API."""

    def __init__(
        self,
        cluster: Cluster,
        nodes: Sequence[Node],
        ledger: Ledger,
        reaper: Reaper | None = None,
        lease_s: float = 120.0,
    ) -> None:
        super().__init__(cluster, nodes, ledger, reaper, lease_s)
        self.ours = [node.in_cluster for node in self.nodes]
        self._joined: list[NodeFault] = []

    @property
    def healed_early(self) -> bool:
        """Whether the reaper took it back anywhere."""
        return super().healed_early or any(one.healed_early for one in self._joined)

    def join(self, node: Node) -> None:
        """Do the same to a node that came later; it ends with this. Not while this is reverted."""
        more = copy(self)
        more.nodes, more.ours, more._joined = (node,), [node.in_cluster], []
        more._entry, more.fired_at = "", None
        self._joined.append(more)
        more.arm()
        more.fire()
        more.observe()
        self.nodes += more.nodes
        self.pieces = [*self.pieces, *more.pieces]

    def revert(self) -> None:
        """As all, on what came later, too."""
        try:
            super().revert()
        finally:
            for one in self._joined:
                one.revert()

    def permissions(self) -> list[Permission]:
        """To read nodes and to change them, and what the reaper takes."""
        nodes = [Permission("get", "nodes"), Permission("patch", "nodes")]
        return [*nodes, *super().permissions()]

    def change(self) -> dict[str, Any]:
        """Which nodes."""
        return {"kind": self.kind, "paths": [f"/api/v1/nodes/{name}" for name in self.ours]}

    def undo(self) -> dict[str, Any]:
        """Which nodes, and which taint."""
        return {"nodes": self.ours, "taint": list(self.change().get("taint", {}).values())}

    def put(self) -> None:
        """Change the nodes, one by one."""
        for name in self.ours:
            self.put_on(name)

    @abstractmethod
    def observe(self) -> dict[str, Any]:
        """Whether each node has it now, read back."""

    @abstractmethod
    def put_on(self, node: str) -> None:
        """Change one node."""


class Cordon(NodeFault):
    """Keep replacements off some nodes; only what we cordoned is uncordoned."""

    kind = "cordon"

    def parameters(self) -> dict[str, Any]:
        """Which of the nodes we cordoned: the others were already."""
        return {"cordoned_by_us": self.ours}

    def arm(self) -> None:
        """Look which nodes are ours to cordon; then as all."""
        names = [node.in_cluster for node in self.nodes]
        self.ours = [name for name in names if not self.cluster.is_cordoned(name)]
        super().arm()

    def put_on(self, node: str) -> None:
        """Make a node unschedulable."""
        self.cluster.cordon(node)

    def observe(self) -> dict[str, Any]:
        """Whether each node is unschedulable now, read back."""
        states = {node.name: self.cluster.is_cordoned(node.in_cluster) for node in self.nodes}
        self.pieces = [
            Piece("unschedulable", name, held, "cordoned" if held else "schedulable")
            for name, held in states.items()
        ]
        return self.evidence

    def take_off(self) -> list[str]:
        """Uncordon what we cordoned."""
        return uncordon(self.cluster, self.ours)


class Tainted(NodeFault):
    """A taint of ours on some nodes, taken off exactly; what others put there stays.

    NoSchedule keeps off what tolerates a cordon, as DaemonSets do; NoExecute ends, too, every pod
    there that doesn't tolerate it.
    """

    kind = "taint"

    def __init__(
        self,
        cluster: Cluster,
        nodes: Sequence[Node],
        taint: taints.Taint,
        ledger: Ledger,
        reaper: Reaper | None = None,
        lease_s: float = 120.0,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(cluster, nodes, ledger, reaper, lease_s)
        self.taint = taint
        self.limits = limits or Limits(max_owner_share=1.0)
        self._driven: list[Pod] = []

    def change(self) -> dict[str, Any]:
        """Which taint on which nodes."""
        return {**super().change(), "taint": self.taint._asdict()}

    def permissions(self) -> list[Permission]:
        """With NoExecute also to list the pods of all namespaces."""
        looks = [Permission("list", "pods")] if self.taint.effect == "NoExecute" else []
        return [*super().permissions(), *looks]

    def parameters(self) -> dict[str, Any]:
        """The taint as `kubectl describe node` has it."""
        return {"taint": str(self.taint)}

    def check(self) -> None:
        """Refuse to end what keeps the cluster itself going, and more than the limits allow."""
        super().check()
        if self.taint.effect == "NoExecute":
            driven = taints.driven(self.cluster, self.taint, self.ours)
            if vital := [pod for pod in driven if pod.namespace in self.limits.never]:
                names = ", ".join(f"{pod.namespace}/{pod.name}" for pod in vital)
                raise InvalidFault(
                    f"taint {self.taint}: it would end {names}: use the effect NoSchedule"
                )
            self._driven = self._within_limits(driven)

    def _within_limits(self, driven: Sequence[Pod]) -> list[Pod]:
        """The pods that have to go, with their owners, of whom not too many may be."""
        found, uids = [], {pod.uid for pod in driven}
        for namespace in {pod.namespace for pod in driven}:
            everyone = pods.listed(self.cluster, namespace)
            own = [pod for pod in everyone if pod.uid in uids]
            check_owners(own, everyone, self.limits, self.taken(namespace, everyone))
            found += own
        return found

    @property
    def ended(self) -> Sequence[Pod]:
        """What had to go, once it has fired."""
        return self._driven if self.fired_at is not None else ()

    def put_on(self, node: str) -> None:
        """Taint a node."""
        taints.add(self.cluster, node, self.taint)

    def observe(self) -> dict[str, Any]:
        """Whether each node has it, read back, and with NoExecute whether its pods are going."""
        self.pieces = [self._piece(node) for node in self.nodes]
        if self.taint.effect == "NoExecute":
            self.pieces += self._driven_away()
        return self.evidence

    def _piece(self, node: Node) -> Piece:
        there = self.taint in taints.taints_of(self.cluster, node.in_cluster)
        return Piece("tainted", node.name, there, str(self.taint) if there else "no such taint")

    def _driven_away(self) -> list[Piece]:
        deadline = time.monotonic() + _DRIVEN_WITHIN_S
        while True:
            staying = taints.driven(self.cluster, self.taint, self.ours)
            if not staying or time.monotonic() > deadline:
                return [self._gone_from(node, staying) for node in self.nodes]
            time.sleep(0.05)

    def _gone_from(self, node: Node, staying: Sequence[Pod]) -> Piece:
        there = [pod.name for pod in staying if pod.node == node.in_cluster]
        said = f"still there: {', '.join(there)}" if there else "no pod that should go is there"
        return Piece("driven away", node.name, not there, said)

    def take_off(self) -> list[str]:
        """Take ours off."""
        return untaint(self.cluster, self.ours, self.taint)


def uncordon(cluster: Cluster, nodes: Sequence[str]) -> list[str]:
    """Uncordon each node whatever happens to the others; return those that still are cordoned."""

    def still(node: str) -> bool:
        cluster.uncordon(node)
        return cluster.is_cordoned(node)

    return _left(nodes, still)


def untaint(cluster: Cluster, nodes: Sequence[str], taint: taints.Taint) -> list[str]:
    """Take a taint off each node whatever happens to the others; those that still have it."""

    def still(node: str) -> bool:
        taints.remove(cluster, node, taint)
        return taint in taints.taints_of(cluster, node)

    return _left(nodes, still)


def _left(nodes: Sequence[str], still: Callable[[str], bool]) -> list[str]:
    """The nodes on which it is still, or that couldn't be asked."""
    left = []
    for name in nodes:
        try:
            if still(name):
                left.append(name)
        except AftershockError:
            left.append(name)
    return left


@undoes("cordon")
def undo_cordon(undo: Mapping[str, Any]) -> str:
    """Take a dead run's cordon back (for `recover`); returns a sentence about it."""
    names: list[str] = undo["nodes"]
    return take_back(
        undo,
        "cordon",
        ", ".join(names),
        lambda one: uncordon(one, names),
        there=lambda one: bool(_left(names, one.is_cordoned)),
    )


@undoes("taint")
def undo_taint(undo: Mapping[str, Any]) -> str:
    """Take a dead run's taint off (for `recover`); returns a sentence about it."""
    taint = taints.Taint(*undo["taint"])
    names: list[str] = undo["nodes"]
    return take_back(
        undo,
        "taint",
        ", ".join(names),
        lambda one: untaint(one, names, taint),
        there=lambda one: bool(_left(names, lambda name: taint in taints.taints_of(one, name))),
    )
