"""Faults that live in a Kubernetes API: a zone's pods killed, and its replacements kept out.

Both have the life of every injection (arm, fire, evidence, revert) and write to the ledger first.
What a cordon needs to be undone lives in the API and outlasts us: the ledger holds it, so that
`aftershock recover` takes it back when the controller could not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from aftershock.cluster import Cluster, Pod
from aftershock.errors import AftershockError, HostUnreachable, NotApplied, NotReverted
from aftershock.evidence import Piece, bites
from aftershock.inventory import Node
from aftershock.ledger import Ledger, undoes


class _ApiFault:
    """What a pod kill and a cordon share: when they fired and how they are told."""

    kind = ""

    def __init__(self, cluster: Cluster, nodes: Sequence[Node]) -> None:
        self.cluster = cluster
        self.nodes = tuple(nodes)
        self.fired_at: float | None = None
        self.skew_ms = 0.0
        self.reverted = False
        self.pieces: list[Piece] = []
        self._fired_at_utc: str | None = None

    @property
    def bit(self) -> bool:
        """Whether the effect was observed on every node."""
        return bites(self.pieces)

    def _note_firing(self, started: float) -> float:
        self.fired_at = started
        took = timedelta(seconds=time.monotonic() - started)
        self._fired_at_utc = (datetime.now(UTC) - took).isoformat(timespec="milliseconds")
        self.skew_ms = took.total_seconds() * 1000
        return started

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the journal, in the words of every injection."""
        return {
            "fault": self.kind,
            "parameters": self.parameters(),
            "hosts": [node.name for node in self.nodes],
            "fired_at": self._fired_at_utc,
            "fired_at_monotonic_s": self.fired_at,
            "skew_ms": round(self.skew_ms, 3),
            "bit": self.bit,
            "evidence": self.evidence,
            "ordered": True if self.reverted else None,
            "reverted": self.reverted,
            "healed_early": False,
            "clean": self.reverted,
        }

    @property
    def evidence(self) -> dict[str, Any]:
        """What was seen of the effect when it was last looked for."""
        return {"bit": self.bit, "pieces": [piece.to_dict() for piece in self.pieces]}

    def parameters(self) -> dict[str, Any]:
        """What the fault was told."""
        return {}


class PodKill(_ApiFault):
    """Delete the pods of some nodes with a grace period, 0 by default: they are gone at once."""

    kind = "pod-kill"

    def __init__(
        self, cluster: Cluster, nodes: Sequence[Node], selector: str, grace_s: int = 0
    ) -> None:
        super().__init__(cluster, nodes)
        self.selector = selector
        self.grace_s = grace_s
        self.pods: list[Pod] = []
        self.reverted = True  # a killed pod has nothing to take back: its controller replaces it

    def parameters(self) -> dict[str, Any]:
        """The selector, the grace and the pods it found."""
        pods = {pod.name: pod.uid for pod in self.pods}
        return {"selector": self.selector, "grace_s": self.grace_s, "pods": pods}

    def arm(self) -> None:
        """Look up the pods. None is no error here: without effect there will be no PASS."""
        found = self.cluster.pods(self.selector, [node.name for node in self.nodes])
        self.pods = [pod for pod in found if not pod.terminating]

    def fire(self) -> float:
        """Delete the pods; return the moment before the first deletion."""
        started = time.monotonic()
        self.cluster.kill(self.pods, self.grace_s)
        return self._note_firing(started)

    def observe(self) -> dict[str, Any]:
        """Which UIDs are really gone, looked up anew."""
        left = self.cluster.wait_gone(self.pods) if self.pods else []
        self.pieces = [self._piece(node, left) for node in self.nodes]
        return self.evidence

    def _piece(self, node: Node, left: Sequence[Pod]) -> Piece:
        own = [pod for pod in self.pods if pod.node == node.name]
        there = [pod.name for pod in own if pod in left]
        if not own:
            # A node without a pod is no failure, unless no node of the zone has one.
            found = None if self.pods else False
            return Piece("gone", node.name, found, f"no pod matched {self.selector!r}")
        if there:
            return Piece("gone", node.name, False, f"still there: {', '.join(there)}")
        return Piece("gone", node.name, True, f"gone: {', '.join(pod.name for pod in own)}")

    @property
    def bit(self) -> bool:
        """Whether at least one pod was killed and none of those chosen lives on."""
        return any(piece.ok for piece in self.pieces) and all(
            piece.ok is not False for piece in self.pieces
        )

    def revert(self) -> None:
        """Nothing: the pods' controller replaces them."""


class Cordon(_ApiFault):
    """Keep replacements off some nodes; only what we cordoned is uncordoned."""

    kind = "cordon"

    def __init__(self, cluster: Cluster, nodes: Sequence[Node], ledger: Ledger) -> None:
        super().__init__(cluster, nodes)
        self.ledger = ledger
        self.ours: list[str] = []
        self._entry: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Which of the nodes we cordoned: the others were already."""
        return {"cordoned_by_us": self.ours}

    def arm(self) -> None:
        """Note which nodes are ours to cordon, on disk, before the first one is."""
        self.ours = [n.name for n in self.nodes if not self.cluster.is_cordoned(n.name)]
        self._entry = self.ledger.intend_undo("cordon", undo_of(self.cluster, self.ours))

    def fire(self) -> float:
        """Cordon the nodes; when one refuses, those before it are let go again."""
        started = time.monotonic()
        try:
            for name in self.ours:
                self.cluster.cordon(name)
        except AftershockError as error:
            self.revert()
            raise NotApplied(f"cordon: {error}") from error
        return self._note_firing(started)

    def observe(self) -> dict[str, Any]:
        """Whether each node is unschedulable now, read back."""
        states = {node.name: self.cluster.is_cordoned(node.name) for node in self.nodes}
        self.pieces = [
            Piece("unschedulable", name, held, "cordoned" if held else "schedulable")
            for name, held in states.items()
        ]
        return self.evidence

    def revert(self) -> None:
        """Uncordon what we cordoned, and check that it is. Idempotent."""
        if self.reverted:
            return
        left = uncordon(self.cluster, self.ours)
        if left:
            raise NotReverted(f"still cordoned: {', '.join(left)}; run: aftershock recover")
        self.reverted = True
        if self._entry:
            self.ledger.undone(self._entry)


def undo_of(cluster: Cluster, nodes: Sequence[str]) -> dict[str, Any]:
    """What `recover` needs to take a cordon back."""
    return {
        "kubeconfig": cluster.kubeconfig,
        "namespace": cluster.namespace,
        "nodes": list(nodes),
        "emulated": cluster.emulated,
    }


def uncordon(cluster: Cluster, nodes: Sequence[str]) -> list[str]:
    """Uncordon each node whatever happens to the others; return those that still are cordoned."""
    left = []
    for name in nodes:
        try:
            cluster.uncordon(name)
            if cluster.is_cordoned(name):
                left.append(name)
        except AftershockError:
            left.append(name)
    return left


@undoes("cordon")
def undo_cordon(undo: Mapping[str, Any]) -> str:
    """Take a dead run's cordon back (for `recover`); returns a sentence about it."""
    names = ", ".join(undo["nodes"])
    try:
        cluster = Cluster(undo["kubeconfig"], undo["namespace"])
        try:
            cluster.pods("")  # a dead API says so once, not once a node
            left = uncordon(cluster, undo["nodes"])
        finally:
            cluster.close()
    except HostUnreachable:
        if not undo.get("emulated"):
            raise
        return f"the lab is gone, and the cordon of {names} with it"
    if left:
        raise NotReverted(f"still cordoned: {', '.join(left)}")
    return f"uncordoned {names}"
