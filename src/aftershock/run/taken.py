"""What a run's injections have taken of a namespace's pods: the limits hold for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from aftershock.capacity import Scaled, radius
from aftershock.capacity.base import ApiFault
from aftershock.capacity.containers import ContainerKill
from aftershock.capacity.toll import Toll, Tolls
from aftershock.cluster import Pod
from aftershock.cluster.pods import by_owner
from aftershock.injection import Injection
from aftershock.inventory import Inventory


class Account:
    """Asked with the pods that are there now; remembers how many of each owner were ready.

    `made`: every injection of the run so far.
    """

    def __init__(
        self, inventory: Callable[[], Inventory], made: Callable[[], Iterable[Any]]
    ) -> None:
        self._inventory, self._made = inventory, made
        self._most: dict[tuple[str, str], int] = {}

    def __call__(self, namespace: str, everyone: Sequence[Pod]) -> Tolls:
        """What is taken of each owner in a namespace."""
        made = list(self._made())
        held = self._held(made, everyone)
        ended = list(_ended(made, namespace, everyone))
        scaled = {
            str(one.workload): one
            for one in made
            if isinstance(one, Scaled) and one.lost and one.workload.namespace == namespace
        }
        return {
            owner: Toll(
                held={pod.uid: held[pod.uid] for pod in own if pod.uid in held},
                ended=tuple((pod, why) for pod, why in ended if pod.owner == owner),
                scaled=scaled[owner].lost if owner in scaled else 0,
                by_scale=scaled[owner].told if owner in scaled else "",
                most=self._most_of(namespace, owner, own),
            )
            for owner, own in by_owner(everyone).items()
        }

    def _most_of(self, namespace: str, owner: str, own: Sequence[Pod]) -> int:
        ready = sum(pod.ready and pod.runs for pod in own)
        most = max(ready, self._most.get((namespace, owner), 0))
        self._most[namespace, owner] = most
        return most

    def _held(self, made: Iterable[Any], everyone: Sequence[Pod]) -> dict[str, str]:
        """Pods under a fault that goes on, by UID, with its kind."""
        found: dict[str, str] = {}
        for one in made:
            if is_over(one):
                continue
            if isinstance(one, ContainerKill) and one.times > 1:
                found |= dict.fromkeys((target.uid for target in one.targets), one.kind)
            if isinstance(one, Injection):
                found |= dict.fromkeys((ref.uid for ref in one.pods), one.fault.name)
                if not one.pods and radius.loses(self._inventory(), one.fault, one.nodes):
                    lost = {node.in_cluster for node in one.nodes}
                    there = (pod.uid for pod in everyone if pod.node in lost)
                    found |= dict.fromkeys(there, one.fault.name)
        return found


def _ended(
    made: Iterable[Any], namespace: str, everyone: Sequence[Pod]
) -> Iterator[tuple[Pod, str]]:
    """What was ended so far, with the fault's kind; a container that restarts is its own pod."""
    by_uid = {pod.uid: pod for pod in everyone}
    for one in made:
        if isinstance(one, ContainerKill) and one.fired_at is not None:
            yield from ((by_uid[of.uid], one.kind) for of in one.targets if of.uid in by_uid)
        elif isinstance(one, ApiFault):
            yield from ((pod, one.kind) for pod in one.ended if pod.namespace == namespace)


def is_over(injection: Any) -> bool:
    """Whether it was healed."""
    if isinstance(injection, Injection):
        return injection.aftermath is not None and injection.aftermath.reverted
    if isinstance(injection, ApiFault):
        return injection.reverted
    return bool(injection.to_dict()["reverted"])
