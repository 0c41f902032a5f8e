"""Pods killed or evicted through the Kubernetes API."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aftershock.capacity.base import ApiFault
from aftershock.capacity.choosing import Choice, check_namespace, check_owners, choose
from aftershock.cluster import Cluster, Pod, pods
from aftershock.cluster.permissions import Permission
from aftershock.errors import AftershockError, InvalidFault, NotApplied
from aftershock.evidence import Piece
from aftershock.inventory import Limits, Node

GONE_WITHIN_S = 10.0
OWN_GRACE = -1  # the seconds between a pod's warning and its end are its own
_LONGEST_GRACE_S = 24 * 3600
_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Ending:
    """How pods end.

    `grace_s`: seconds between the warning and the end, 0 for at once, -1 for the pod's own.
    `deadline_s`: what is not gone after so many seconds is ended at once; 0: nothing is.
    """

    grace_s: int = 0
    deadline_s: float = 0.0

    def __post_init__(self) -> None:
        if not OWN_GRACE <= self.grace_s <= _LONGEST_GRACE_S:
            raise InvalidFault(f"grace_s is {self.grace_s}: seconds, 0: at once, -1: the pod's own")
        if not 0 <= self.deadline_s <= _LONGEST_GRACE_S:
            raise InvalidFault(f"deadline_s is {self.deadline_s:g}: seconds, 0 for none")

    @property
    def told_s(self) -> int | None:
        """The grace as the API is told."""
        return None if self.grace_s == OWN_GRACE else self.grace_s

    @property
    def patience_s(self) -> float:
        """How long an end is waited for that nobody hurries."""
        return GONE_WITHIN_S + (60.0 if self.grace_s == OWN_GRACE else self.grace_s)


class PodFault(ApiFault):
    """What chosen pods on some nodes share: the choice, its limits, and who is gone."""

    verb = "kill"
    momentary = True

    def __init__(
        self,
        cluster: Cluster,
        nodes: Sequence[Node],
        choice: Choice,
        *,
        namespace: str = "",
        limits: Limits | None = None,
    ) -> None:
        super().__init__(cluster, nodes)
        self.choice = choice
        self.namespace = namespace or cluster.namespace
        self.limits = limits or Limits(max_owner_share=1.0)
        self.pods: list[Pod] = []
        self.reverted = True  # a dead pod has nothing to take back: its controller replaces it
        self._everywhere = self.nodes
        self._zones = {node.in_cluster: node.zone for node in self.nodes}
        self._failed: Mapping[str, AftershockError] = {}

    def permissions(self) -> list[Permission]:
        """To list pods, to look one up, and to end it."""
        return [Permission(verb, "pods", self.namespace) for verb in ("get", "list", "delete")]

    def parameters(self) -> dict[str, Any]:
        """What was asked for, and the pods that were chosen."""
        chosen = {pod.name: pod.uid for pod in self.pods}
        return {"namespace": self.namespace, **self.choice.to_dict(), "pods": chosen}

    def check(self) -> None:
        """Choose, once for a look: a choice that is empty or too large is refused here."""
        check_namespace(self.namespace, self.limits)
        super().check()
        self._settle()

    def arm(self) -> None:
        """Choose from what is there now."""
        self._settle()

    def _settle(self) -> None:
        self.pods = self._chosen(self.choice)
        if self.momentary:  # what goes on may be on any of them later
            on = {pod.node for pod in self.pods}
            self.nodes = tuple(node for node in self._everywhere if node.in_cluster in on)

    def _chosen(self, choice: Choice) -> list[Pod]:
        matching = pods.listed(self.cluster, self.namespace, choice.selector)
        everyone = pods.listed(self.cluster, self.namespace) if choice.selector else matching
        tolls = self.taken(self.namespace, everyone)
        chosen = choose(choice, matching, everyone, self._zones, tolls)
        check_owners(chosen, everyone, self.limits, tolls)
        return chosen

    @property
    def ended(self) -> Sequence[Pod]:
        """Those that were chosen, once it has fired."""
        return self.pods if self.fired_at is not None else ()

    def touches(self) -> list[str]:
        """Each pod, with where it is and whose it is."""
        return [
            f"{self.verb} pod {pod.namespace}/{pod.name} "
            f"({pod.owner}, node {pod.node}, {self._zones.get(pod.node, 'no zone')})"
            for pod in self.pods
        ]

    def _look(self, left: Sequence[Pod]) -> dict[str, Any]:
        self.pieces = [self._piece(node, left) for node in self.nodes]
        return self.evidence

    def _piece(self, node: Node, left: Sequence[Pod]) -> Piece:
        own = [pod for pod in self.pods if pod.node == node.in_cluster]
        there = [self._staying(pod) for pod in own if pod in left]
        if not own:
            return Piece("gone", node.name, None, "no pod was chosen here")
        if there:
            return Piece("gone", node.name, False, f"still there: {', '.join(there)}")
        return Piece("gone", node.name, True, f"gone: {', '.join(pod.name for pod in own)}")

    def _staying(self, pod: Pod) -> str:
        error = self._failed.get(pod.uid)
        return f"{pod.name} ({error})" if error else pod.name

    @property
    def bit(self) -> bool:
        """Whether at least one pod is gone and none of those chosen lives on."""
        return any(piece.ok for piece in self.pieces) and all(
            piece.ok is not False for piece in self.pieces
        )

    def revert(self) -> None:
        """Nothing: the pods' controller replaces them."""


class PodKill(PodFault):
    """Delete chosen pods: at once by default, or with a grace and a deadline."""

    kind = "pod-kill"

    def __init__(
        self,
        cluster: Cluster,
        nodes: Sequence[Node],
        choice: Choice,
        ending: Ending | None = None,
        **more: Any,
    ) -> None:
        super().__init__(cluster, nodes, choice, **more)
        self.ending = ending or Ending()

    def parameters(self) -> dict[str, Any]:
        """The choice, and how its pods end."""
        told = {"grace_s": self.ending.grace_s}
        late = {"deadline_s": self.ending.deadline_s} if self.ending.deadline_s else {}
        return {**super().parameters(), **told, **late}

    def fire(self) -> float:
        """Delete the pods; return the moment before the first deletion."""
        started = time.monotonic()
        self._failed = pods.kill(self.cluster, self.pods, self.ending.told_s)
        if len(self._failed) == len(self.pods):
            raise NotApplied(f"{self.kind}: {next(iter(self._failed.values()))}")
        return self._note_firing(started)

    def observe(self) -> dict[str, Any]:
        """Which UIDs are really gone, looked up anew; what is late is ended at the deadline."""
        deadline_s, told = self.ending.deadline_s, self.fired_at
        if not deadline_s or told is None:
            return self._look(pods.wait_gone(self.cluster, self.pods, self.ending.patience_s))
        spent = time.monotonic() - told
        left = pods.wait_gone(self.cluster, self.pods, max(0.0, deadline_s - spent))
        self._failed = pods.kill(self.cluster, left, 0)
        return self._look(pods.wait_gone(self.cluster, left, GONE_WITHIN_S))


class PodEviction(PodFault):
    """Evict chosen pods as a drain does: a PodDisruptionBudget may refuse, and is asked again.

    `deadline_s`: how long it is asked; what a budget still holds then stays, and is said to.
    """

    kind = "pod-eviction"
    verb = "evict"

    def __init__(
        self,
        cluster: Cluster,
        nodes: Sequence[Node],
        choice: Choice,
        *,
        grace_s: int = OWN_GRACE,
        deadline_s: float = 60.0,
        **more: Any,
    ) -> None:
        super().__init__(cluster, nodes, choice, **more)
        self.ending = Ending(grace_s, deadline_s)
        self.refusals = 0
        self._asking: list[Pod] = []

    def permissions(self) -> list[Permission]:
        """To list pods, to look one up, and to evict it."""
        looks = [Permission(verb, "pods", self.namespace) for verb in ("get", "list")]
        return [*looks, Permission("create", "pods/eviction", self.namespace)]

    def parameters(self) -> dict[str, Any]:
        """The choice, how long was asked, and how often a budget refused."""
        told = {"grace_s": self.ending.grace_s, "deadline_s": self.ending.deadline_s}
        return {**super().parameters(), **told, "refusals": self.refusals}

    def fire(self) -> float:
        """Ask for each pod once; return the moment before. A budget's refusal is no failure yet."""
        started = time.monotonic()
        self._asking = list(self.pods)
        self._ask()
        hard = [error for error in self._failed.values() if not pods.is_budget(error)]
        if hard and len(hard) == len(self.pods):
            raise NotApplied(f"{self.kind}: {hard[0]}")
        return self._note_firing(started)

    def observe(self) -> dict[str, Any]:
        """Ask again until all were taken or the deadline is over; then who is really gone."""
        until = (self.fired_at or time.monotonic()) + self.ending.deadline_s
        while self._asking and time.monotonic() < until:
            time.sleep(min(_RETRY_S, max(0.0, until - time.monotonic())))
            self._ask()
        taken = [pod for pod in self.pods if pod.uid not in self._failed]
        left = pods.wait_gone(self.cluster, taken, self.ending.patience_s)
        refused = [pod for pod in self.pods if pod.uid in self._failed]
        return self._look([*left, *pods.still_there(self.cluster, refused)])

    def _ask(self) -> None:
        errors = pods.evict(self.cluster, self._asking, self.ending.told_s)
        self.refusals += len(errors)
        self._failed = {
            **{uid: e for uid, e in self._failed.items() if uid not in self._uids()},
            **errors,
        }
        self._asking = [
            pod
            for pod in self._asking
            if (error := errors.get(pod.uid)) is not None and pods.is_budget(error)
        ]

    def _uids(self) -> set[str]:
        return {pod.uid for pod in self._asking}
