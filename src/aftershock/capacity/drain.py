"""Nodes emptied as `kubectl drain` does it: their pods are evicted, once a `Cordon` closed them.

What it leaves is what kubectl leaves (pods of DaemonSets, mirror pods, finished ones), and pods of
namespaces that are never touched. That each pod is gone is looked up anew on its node.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aftershock.capacity.base import ApiFault
from aftershock.capacity.choosing import NothingMatches, check_owners
from aftershock.capacity.pods import OWN_GRACE, Ending
from aftershock.cluster import Cluster, Pod, pods
from aftershock.cluster.permissions import Permission
from aftershock.errors import AftershockError, InvalidFault, NotApplied
from aftershock.evidence import Piece
from aftershock.inventory import Limits, Node

EVICTED, HELD, GONE = "evicted", "held", "gone"
_LOOK_S = 0.25
_ASK_S = 0.5
_MOST_STEPS = 2000


@dataclass(frozen=True, slots=True)
class Step:
    """What became of a pod: `evicted` (its end was granted), `held` (by a budget), or `gone`.

    `at` is CLOCK_MONOTONIC; `left` is how many of the `total` pods are still on the node then.
    """

    at: float
    node: str
    pod: str
    what: str
    left: int
    total: int


class Drain(ApiFault):
    """Evict all that runs on some nodes; a PodDisruptionBudget may refuse, and is asked again.

    `deadline_s`: for all of it; what is there then stays, and is said to. `override` deletes the
    pods without asking any budget. `force` takes those, too, that nobody would bring back. `heard`
    is called with every step.
    """

    kind = "drain"
    momentary = True

    def __init__(
        self,
        cluster: Cluster,
        nodes: Sequence[Node],
        *,
        deadline_s: float = 60.0,
        grace_s: int = OWN_GRACE,
        override: bool = False,
        force: bool = False,
        limits: Limits | None = None,
        heard: Callable[[Step], None] = lambda step: None,
    ) -> None:
        super().__init__(cluster, nodes)
        self.ending = Ending(grace_s, deadline_s)
        if not deadline_s:
            raise InvalidFault("deadline_s is 0: say how long a drain may take")
        self.override, self.force = override, force
        self.limits = limits or Limits(max_owner_share=1.0)
        self.pods: list[Pod] = []
        self.kept: dict[str, str] = {}  # pod → why it is left
        self.steps: list[Step] = []
        self.refusals = 0
        self.reverted = True  # what is gone comes back by its owner, elsewhere
        self._heard = heard
        self._zones = {node.in_cluster: node.zone for node in self.nodes}
        self._there: dict[str, Pod] = {}  # by UID: not gone yet
        self._asking: dict[str, Pod] = {}  # by UID: not granted yet
        self._failed: dict[str, AftershockError] = {}
        self._came: list[Pod] = []

    def permissions(self) -> list[Permission]:
        """To list the pods of all namespaces, and to end them."""
        ends = ("delete", "pods") if self.override else ("create", "pods/eviction")
        return [Permission("list", "pods"), Permission(*ends)]

    def parameters(self) -> dict[str, Any]:
        """What was asked for, which pods were there and which were left, and step by step."""
        began = self.fired_at or 0.0
        return {
            "deadline_s": self.ending.deadline_s,
            "grace_s": self.ending.grace_s,
            "budgets": "override" if self.override else "honour",
            "pods": {_name(pod): pod.uid for pod in self.pods},
            "left": dict(self.kept),
            "refusals": self.refusals,
            "steps": [
                {"after_s": round(one.at - began, 3), "node": one.node, "pod": one.pod}
                | {"what": one.what}
                for one in self.steps
            ],
        }

    def check(self) -> None:
        """Refuse what is more than the limits allow, and pods that would be gone for good."""
        super().check()
        self._settle()
        alone = [_name(pod) for pod in self.pods if pod.owner.startswith("Pod/")]
        if alone and not self.force:
            raise InvalidFault(
                f"drain: nobody would bring {', '.join(alone)} back: say force, or choose other "
                "nodes"
            )
        if not self.pods:
            left = "; ".join(f"{name} is left: {why}" for name, why in self.kept.items())
            raise NothingMatches(
                f"drain: nothing to evict runs on {', '.join(self._zones)}"
                f"{f' ({left})' if left else ''}"
            )
        for namespace in {pod.namespace for pod in self.pods}:
            own = [pod for pod in self.pods if pod.namespace == namespace]
            everyone = pods.listed(self.cluster, namespace)
            check_owners(own, everyone, self.limits, self.taken(namespace, everyone))

    @property
    def ended(self) -> Sequence[Pod]:
        """What was to be evicted, once it has fired."""
        return self.pods if self.fired_at is not None else ()

    def arm(self) -> None:
        """Nothing: what is on the nodes is known once they are closed."""

    def touches(self) -> list[str]:
        """Each pod that would be evicted, and those that would be left."""
        verb = "delete" if self.override else "evict"
        told = [
            f"{verb} pod {_name(pod)} ({pod.owner}, node {pod.node}, {self._zones[pod.node]})"
            for pod in self.pods
        ]
        return [*told, *(f"leave pod {name}: {why}" for name, why in self.kept.items())]

    def fire(self) -> float:
        """Ask for each pod once; the moment before. A budget's refusal is no failure yet."""
        self._settle()  # anew: until the cordon more may have come
        started = time.monotonic()
        self.fired_at = started
        self._there = {pod.uid: pod for pod in self.pods}
        self._asking = {pod.uid: pod for pod in self.pods if not pod.terminating}
        self._ask()
        hard = [error for error in self._failed.values() if not pods.is_budget(error)]
        if hard and len(hard) == len(self.pods):
            self.fired_at = None
            raise NotApplied(f"{self.kind}: {hard[0]}")
        return self._note_firing(started)

    def observe(self) -> dict[str, Any]:
        """Ask again and look until all are gone or the deadline is over; then what is there."""
        until = (self.fired_at or time.monotonic()) + self.ending.deadline_s
        asked = time.monotonic()
        while True:
            self._look()
            if not self._there or time.monotonic() > until:
                break
            time.sleep(_LOOK_S)
            if self._asking and time.monotonic() - asked >= _ASK_S:
                asked = time.monotonic()
                self._ask()
        self.pieces = [self._piece(node) for node in self.nodes]
        return self.evidence

    @property
    def bit(self) -> bool:
        """Whether at least one node was emptied and none holds a pod that was to go."""
        told = [piece.ok for piece in self.pieces]
        return any(told) and all(ok is not False for ok in told)

    def revert(self) -> None:
        """Nothing: the pods' owners replace them, and the cordon is taken back by itself."""

    def _settle(self) -> None:
        self.pods, self.kept = [], {}
        for pod in pods.on_nodes(self.cluster, list(self._zones)):
            if why := self._why_left(pod):
                self.kept[_name(pod)] = why
            elif not pod.over:
                self.pods.append(pod)

    def _why_left(self, pod: Pod) -> str:
        if pod.owner.startswith("DaemonSet/"):
            return f"of {pod.owner}, which would bring it back there"
        if pod.namespace in self.limits.never and not pod.spared:
            return f"namespace {pod.namespace} is never touched"
        return pod.spared

    def _ask(self) -> None:
        wanted = list(self._asking.values())
        if self.override:
            errors = pods.kill(self.cluster, wanted, self.ending.told_s)
        else:
            errors = pods.evict(self.cluster, wanted, self.ending.told_s)
        self.refusals += sum(pods.is_budget(error) for error in errors.values())
        for pod in wanted:
            error, known = errors.get(pod.uid), self._failed.pop(pod.uid, None)
            if error is None:
                self._tell(pod, EVICTED)
            else:
                self._failed[pod.uid] = error
                if known is None and pods.is_budget(error):
                    self._tell(pod, HELD)
            if error is None or not pods.is_budget(error):
                del self._asking[pod.uid]

    def _look(self) -> None:
        """Which of them are gone from their nodes, and who came there meanwhile."""
        busy = sorted({pod.node for pod in self._there.values()})
        now = pods.on_nodes(self.cluster, busy)
        uids, known = {pod.uid for pod in now}, {pod.uid for pod in self.pods}
        for uid in set(self._there) - uids:
            pod = self._there.pop(uid)
            self._asking.pop(uid, None)
            self._failed.pop(uid, None)
            self._tell(pod, GONE)
        came = [p for p in now if p.uid not in known and not p.over and not self._why_left(p)]
        self._came = [p for p in self._came if p.node not in busy] + came

    def _tell(self, pod: Pod, what: str) -> None:
        left = Counter(one.node for one in self._there.values())[pod.node]
        total = sum(one.node == pod.node for one in self.pods)
        step = Step(time.monotonic(), pod.node, _name(pod), what, left, total)
        if len(self.steps) < _MOST_STEPS:
            self.steps.append(step)
        self._heard(step)

    def _piece(self, node: Node) -> Piece:
        name = node.in_cluster
        own = [pod for pod in self.pods if pod.node == name]
        there = [self._staying(pod) for pod in own if pod.uid in self._there]
        came = [_name(pod) for pod in self._came if pod.node == name]
        more = f"; came meanwhile, tolerating the cordon: {', '.join(came)}" if came else ""
        if not own:
            return Piece("drained", node.name, None, f"nothing to evict was here{more}")
        if there:
            return Piece("drained", node.name, False, f"still there: {', '.join(there)}{more}")
        last = max((one.at for one in self.steps if one.node == name), default=0.0)
        took = f" within {last - (self.fired_at or last):.1f} s"
        return Piece("drained", node.name, True, f"all {len(own)} pods gone{took}{more}")

    def _staying(self, pod: Pod) -> str:
        error: AftershockError | None = self._failed.get(pod.uid)
        return f"{_name(pod)} ({error})" if error else f"{_name(pod)} (it takes its time to end)"


def _name(pod: Pod) -> str:
    return f"{pod.namespace}/{pod.name}"


def progress(step: Step) -> Mapping[str, str]:
    """A step in words, by who reads it: `log` for every one, `console` for what matters of them."""
    count = f"{step.total - step.left} of {step.total} pods gone"
    told = {"log": f"drain {step.node}: {step.pod} {step.what}, {count}"}
    if step.what == HELD:
        told["console"] = f"{step.node}: a budget holds {step.pod}; it is asked again"
    elif step.what == GONE:
        told["console"] = f"{step.node}: {count}{'' if step.left else ', drained'}"
    return told
