"""Taints on nodes, put there and taken off one by one: a node's list of them is written as a whole.

So each change names the version of the node that it was made from, and is tried again when somebody
else was faster: a taint of theirs is never lost, nor brought back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aftershock.cluster.api import Cluster, Pod
from aftershock.errors import InvalidFault, NotApplied

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
OURS = "aftershock.dev/failed"
_TRIES = 10


class Taint(NamedTuple):
    """One taint: a node has at most one of each key and effect."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}"


def checked(effect: str, value: str) -> Taint:
    """A taint of ours; `InvalidFault` for an effect that Kubernetes doesn't know."""
    if effect not in EFFECTS:
        raise InvalidFault(f"taint effect {effect!r}: one of {', '.join(EFFECTS)}")
    return Taint(OURS, value, effect)


def taints_of(cluster: Cluster, node: str) -> list[Taint]:
    """Every taint that a node has now."""
    return [_read(plain) for plain in cluster.node(node)["spec"].get("taints") or ()]


def add(cluster: Cluster, node: str, taint: Taint) -> None:
    """Put a taint on a node; it is put anew where the node has one of that key and effect."""
    plain = taint._asdict()
    _change(cluster, node, lambda there: [*(one for one in there if not _same(one, taint)), plain])


def remove(cluster: Cluster, node: str, taint: Taint) -> None:
    """Take exactly this taint off a node; nothing happens where it isn't there."""
    _change(cluster, node, lambda there: [one for one in there if _read(one) != taint])


def driven(cluster: Cluster, taint: Taint, nodes: Sequence[str]) -> list[Pod]:
    """Pods on some nodes, in whatever namespace, that a NoExecute taint would end at once."""
    found = [(pod, tolerations) for name in nodes for pod, tolerations in cluster.pods_on(name)]
    return [
        pod for pod, some in found if not any(_tolerates(one, taint) for one in some) and pod.runs
    ]


def _tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """As the API's documentation of tolerations has it; one for a while counts, too."""
    if toleration.get("effect") not in (None, "", taint.effect):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint.key)
    value = toleration.get("value") or ""
    return (toleration.get("key"), value) == (taint.key, taint.value)


def _change(
    cluster: Cluster, node: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> None:
    for _ in range(_TRIES):
        found = cluster.node(node)
        before = found["spec"].get("taints") or []
        after = change(before)
        if after == before:
            return
        version = found["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "spec": {"taints": after or None}}
        if cluster.patch_node(node, body):
            return
    raise NotApplied(f"{node}: its taints changed {_TRIES} times while ours was written: try again")


def _same(plain: dict[str, Any], taint: Taint) -> bool:
    return (plain["key"], plain["effect"]) == (taint.key, taint.effect)


def _read(plain: dict[str, Any]) -> Taint:
    return Taint(plain["key"], plain.get("value") or "", plain["effect"])
