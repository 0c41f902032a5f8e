"""Could the other zones take what runs in this one? Requests against what nodes have left.

What the scheduler would ask is asked here: requests of CPU, memory and whatever else pods want
(nvidia.com/gpu), the nodes' own limit of pods, cordons, readiness, taints, node selectors and
required node affinity. Pods are placed one by one, the greediest first, each on the node that it
leaves the least room on. Not asked: affinity and spread between pods, volumes bound to a zone, and
what a preemption or a cluster autoscaler would make room for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from aftershock.cluster.readings import zone_of
from aftershock.cluster.rest import Json, Rest
from aftershock.errors import InvalidInput

Amounts = dict[str, Decimal]
NOT_ASKED = ("affinity and spread between pods", "volumes bound to a zone")
_OVER = ("Succeeded", "Failed")


@dataclass(slots=True)
class _Place:
    """A node that may take pods, and what it has left."""

    node: Json
    zone: str
    free: Amounts


def without_zone(rest: Rest, zone: str, selector: str) -> Json:
    """What would become of a zone's pods (of the selector) if it were lost.

    Returns {fits, pods, placed: {pod: node}, left: {pod: why}, free: {zone: {resource: amount}},
    not_asked}. Reads nodes and the pods of all namespaces: what else runs there counts too.
    `InvalidInput` where no node is in that zone, `HostUnreachable` where reading is refused.
    """
    nodes = list(rest.items(rest.core.list_node))
    zones = {node["metadata"]["name"]: zone_of(node, rest.zone_label) for node in nodes}
    if zone not in zones.values():
        known = ", ".join(sorted({one for one in zones.values() if one})) or "no zone at all"
        raise InvalidInput(f"no node is in zone {zone!r}: there is {known}")
    used: dict[str, Amounts] = {}
    fields = {"field_selector": "status.phase!=Succeeded,status.phase!=Failed"}
    for pod in rest.items(rest.core.list_pod_for_all_namespaces, **fields):
        where = (pod.get("spec") or {}).get("nodeName")
        if where:
            used[where] = _plus(used.get(where, {}), requests(pod))
    chosen = {"label_selector": selector}
    own = rest.items(rest.core.list_namespaced_pod, rest.namespace, **chosen)
    leaving = [pod for pod in own if zones.get((pod.get("spec") or {}).get("nodeName")) == zone]
    return weighed(leaving, nodes, used, zone, zones)


def weighed(
    leaving: Sequence[Json],
    nodes: Sequence[Json],
    used: Mapping[str, Amounts],
    zone: str,
    zones: Mapping[str, str],
) -> Json:
    """The same from objects alone; `zones`: node → its zone."""
    places = [
        _Place(node, zones[name], _left(node, used.get(name, {})))
        for node in nodes
        if zones[name := node["metadata"]["name"]] != zone
    ]
    alive = [pod for pod in leaving if (pod.get("status") or {}).get("phase") not in _OVER]
    staying: dict[str, str] = {}
    placed: dict[str, str] = {}
    for pod in sorted(alive, key=_greed, reverse=True):
        name, wants = pod["metadata"]["name"], requests(pod)
        reasons = {id(place): _refusal(pod, wants, place) for place in places}
        fitting = [place for place in places if not reasons[id(place)]]
        if not fitting:
            counted = Counter(reasons.values())
            told = ", ".join(f"{count} {why}" for why, count in sorted(counted.items()))
            staying[name] = told or "there is no node in another zone"
            continue
        best = min(fitting, key=lambda place: _rest_after(place, wants))
        best.free = _plus(best.free, wants, -1)
        placed[name] = best.node["metadata"]["name"]
    return {
        "fits": not staying,
        "pods": len(alive),
        "placed": placed,
        "left": staying,
        "free": _free_by_zone(places, {name for pod in alive for name in requests(pod)}),
        "not_asked": list(NOT_ASKED),
    }


def requests(pod: Mapping[str, Any]) -> Amounts:
    """What a pod reserves on its node, by the scheduler's rule.

    The sum of its containers and sidecars, or the largest init container beside the sidecars before
    it if that is more, or what the pod as a whole asks for; and its overhead; and 1 of `pods`.
    """
    spec = pod.get("spec") or {}
    total: Amounts = {}
    for container in spec.get("containers") or ():
        total = _plus(total, _wanted(container))
    sidecars: Amounts = {}
    most: Amounts = {}
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars = _plus(sidecars, _wanted(container))
            most = _most(most, sidecars)
        else:
            most = _most(most, _plus(sidecars, _wanted(container)))
    total = _most(_plus(total, sidecars), most)
    total |= _amounts((spec.get("resources") or {}).get("requests") or {})
    return {**_plus(total, _amounts(spec.get("overhead") or {})), "pods": Decimal(1)}


def _wanted(container: Mapping[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    return _amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _amounts(told: Mapping[str, Any]) -> Amounts:
    from kubernetes.utils import quantity

    parse: Callable[[Any], Decimal] = quantity.parse_quantity
    return {name: parse(value) for name, value in told.items()}


def _plus(one: Mapping[str, Decimal], other: Mapping[str, Decimal], sign: int = 1) -> Amounts:
    zero = Decimal(0)
    names = dict.fromkeys((*one, *other))
    return {name: one.get(name, zero) + sign * other.get(name, zero) for name in names}


def _most(one: Mapping[str, Decimal], other: Mapping[str, Decimal]) -> Amounts:
    zero = Decimal(0)
    return {n: max(one.get(n, zero), other.get(n, zero)) for n in dict.fromkeys((*one, *other))}


def _left(node: Json, used: Amounts) -> Amounts:
    room = _amounts((node.get("status") or {}).get("allocatable") or {})
    return {name: amount - used.get(name, Decimal(0)) for name, amount in room.items()}


def _greed(pod: Json) -> tuple[Decimal, Decimal, Decimal]:
    wants = requests(pod)
    zero = Decimal(0)
    special = sum((v for k, v in wants.items() if "/" in k), zero)
    return special, wants.get("memory", zero), wants.get("cpu", zero)


def _rest_after(place: _Place, wants: Amounts) -> tuple[Decimal, Decimal, str]:
    left = _plus(place.free, wants, -1)
    special = sum((v for k, v in left.items() if "/" in k), Decimal(0))
    return special, left.get("cpu", Decimal(0)), str(place.node["metadata"]["name"])


def _refusal(pod: Json, wants: Amounts, place: _Place) -> str:
    """Why a node cannot take a pod, in the scheduler's words; empty: it can."""
    spec = place.node.get("spec") or {}
    if not selected(pod, place.node):
        return "node(s) didn't match Pod's node affinity/selector"
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if spec.get("unschedulable") and not tolerates(pod, cordon):
        return "node(s) were unschedulable"
    for taint in spec.get("taints") or ():
        if taint["effect"] != "PreferNoSchedule" and not tolerates(pod, taint):
            return f"node(s) had untolerated taint(s) {{{taint['key']}}}"
    conditions = (place.node.get("status") or {}).get("conditions") or ()
    if not any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
        return "node(s) were not ready"
    short = [name for name, amount in wants.items() if amount > place.free.get(name, Decimal(0))]
    return f"Insufficient {short[0]}" if short else ""


def tolerates(pod: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Whether a pod puts up with a taint."""
    for one in (pod.get("spec") or {}).get("tolerations") or ():
        if one.get("effect") not in (None, "", taint["effect"]):
            continue
        key, exists = one.get("key"), one.get("operator", "Equal") == "Exists"
        if (not key and exists) or (key == taint["key"] and exists):
            return True
        if key == taint["key"] and (one.get("value") or "") == (taint.get("value") or ""):
            return True
    return False


def selected(pod: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether a node has what a pod's nodeSelector and required node affinity ask for."""
    spec, labels = pod.get("spec") or {}, node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms")
    if terms is None:
        return True
    names = {"metadata.name": node["metadata"]["name"]}
    return any(
        _all(term.get("matchExpressions") or (), labels)
        and _all(term.get("matchFields") or (), names)
        for term in terms
        if term.get("matchExpressions") or term.get("matchFields")
    )


def _all(expressions: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> bool:
    return all(_holds(expression, labels) for expression in expressions)


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    operator = expression["operator"]
    if operator in ("In", "NotIn"):
        return (value in values) is (operator == "In")
    if operator in ("Exists", "DoesNotExist"):
        return (value is not None) is (operator == "Exists")
    if value is None or not value.isdigit():
        return False
    return int(value) > int(values[0]) if operator == "Gt" else int(value) < int(values[0])


def _free_by_zone(places: Sequence[_Place], asked: Iterable[str]) -> dict[str, dict[str, float]]:
    """What is left of what is asked for, where pods may go, once all that fit are placed."""
    found: dict[str, dict[str, float]] = {}
    for place in places:
        if not (place.node.get("spec") or {}).get("unschedulable"):
            zone = found.setdefault(place.zone or "no zone", {})
            for name in sorted(asked):
                zone[name] = zone.get(name, 0.0) + float(place.free.get(name, Decimal(0)))
    return found
