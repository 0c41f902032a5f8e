"""Daemon sets: a pod on every node that it may be on, cordoned ones, too.

Its pods tolerate what Kubernetes adds for them (`_TOLERATED`), so that a node which is cordoned or
in trouble keeps its daemons. Each is bound by the scheduler to the node that its affinity names.
"""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.nodes import taints_of, tolerations_for, wants_node
from aftershock.lab.kubernetes.owners import (
    counted,
    is_dying,
    is_over,
    is_ready,
    owned_by,
    reference,
)
from aftershock.lab.kubernetes.resources import DAEMONSETS, NODES, PODS
from aftershock.lab.kubernetes.store import Object, Store
from aftershock.lab.kubernetes.verbs import NAME_LETTERS, Verbs

_NAME = "daemonset-controller"
_REVISION, _GENERATION = "controller-revision-hash", "pod-template-generation"
_PREFIX = "node.kubernetes.io/"
_TOLERATED = (
    ("not-ready", "NoExecute"),
    ("unreachable", "NoExecute"),
    ("disk-pressure", "NoSchedule"),
    ("memory-pressure", "NoSchedule"),
    ("pid-pressure", "NoSchedule"),
    ("unschedulable", "NoSchedule"),
)
_ON_HOSTS = (("network-unavailable", "NoSchedule"),)  # only where it is in the host's network


def keep_daemonsets(store: Store, verbs: Verbs, recorder: Recorder) -> None:
    """One pass: report what is there, then make what is missing and end what must not be."""
    nodes = {node["metadata"]["name"]: node for node in store.all_of(NODES)}
    for found in store.all_of(DAEMONSETS):
        pods: dict[str, list[Object]] = {}
        for pod in owned_by(store, PODS, found):
            pods.setdefault(_node_of(pod), []).append(pod)
        may = {name: _may_be_on(found, node) for name, node in nodes.items()}
        current = _report(store, found, pods, [name for name in may if may[name][0]])
        if is_dying(current):
            continue
        for pod in _to_end(current, pods, may):
            meta = pod["metadata"]
            verbs.delete(PODS, meta["namespace"], meta["name"])
            recorder.record(current, "SuccessfulDelete", f"Deleted pod: {meta['name']}", _NAME)
        for name, (should_run, _) in may.items():
            if should_run and name not in pods:
                made = _pod(verbs, current, name)
                pod = verbs.create(PODS, current["metadata"]["namespace"], made)
                told = f"Created pod: {pod['metadata']['name']}"
                recorder.record(current, "SuccessfulCreate", told, _NAME)


def _may_be_on(item: Object, node: Object) -> tuple[bool, bool]:
    """Whether a pod should be begun on the node, and whether one that is there may stay."""
    asks = {"spec": _spec(item)}
    labels = node["metadata"].get("labels") or {}
    wanted = asks["spec"].get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in wanted.items()) or not wants_node(asks, node):
        return False, False
    kept_off = {one["effect"] for one in taints_of(node) if not tolerations_for(asks, one)}
    return not kept_off & {"NoSchedule", "NoExecute"}, "NoExecute" not in kept_off


def _to_end(
    item: Object, pods: dict[str, list[Object]], may: dict[str, tuple[bool, bool]]
) -> list[Object]:
    """Those that are over, on the wrong node or too many there; then those of old make."""
    ending: list[Object] = []
    for name, there in pods.items():
        living = [pod for pod in there if not is_dying(pod)]
        stays = may.get(name, (False, False))[1]
        keep = [pod for pod in living if stays and not is_over(pod)][:1]
        ending += [pod for pod in living if pod not in keep]
    if ending or item["spec"]["updateStrategy"]["type"] != "RollingUpdate":
        return ending
    flat = [pod for there in pods.values() for pod in there]
    unavailable = sum(may[name][0] and not _serves(pods.get(name, [])) for name in may)
    most = _most_unavailable(item, sum(should for should, _ in may.values()))
    old = [pod for pod in flat if not is_dying(pod) and not _is_new(item, pod)]
    # One that does not serve is no loss.
    idle, busy = [p for p in old if not is_ready(p)], [p for p in old if is_ready(p)]
    return [*idle, *busy[: max(0, most - unavailable)]]


def _most_unavailable(item: Object, wanted: int) -> int:
    told = item["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"]
    if isinstance(told, str):
        return max(1, -(-int(told.rstrip("%")) * wanted // 100))
    return int(told)


def _serves(pods: list[Object]) -> bool:
    return any(is_ready(pod) and not is_dying(pod) for pod in pods)


def _is_new(item: Object, pod: Object) -> bool:
    return bool(pod["metadata"]["labels"].get(_REVISION) == _revision(item))


def _report(store: Store, item: Object, pods: dict[str, list[Object]], wanted: list[str]) -> Object:
    living = {name: [one for one in there if not is_dying(one)] for name, there in pods.items()}
    here = [living[name][0] for name in wanted if living.get(name)]
    ready, new = sum(map(is_ready, here)), sum(_is_new(item, pod) for pod in here)
    status: dict[str, Any] = {
        "currentNumberScheduled": len(here),
        "numberMisscheduled": sum(bool(living[name]) for name in living if name not in wanted),
        "desiredNumberScheduled": len(wanted),
        "numberReady": ready,
        "observedGeneration": item["metadata"].get("generation", 1),
        **counted(
            updatedNumberScheduled=new,
            numberAvailable=ready,
            numberUnavailable=len(wanted) - ready,
        ),
    }
    return store.update(DAEMONSETS, {**item, "status": status})


def _node_of(pod: Object) -> str:
    """The node that it is on, or is meant for."""
    if name := pod["spec"].get("nodeName"):
        return str(name)
    affinity = pod["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return str(term["matchFields"][0]["values"][0])


def _spec(item: Object) -> dict[str, Any]:
    """The template's, with the tolerations that daemons have."""
    spec: dict[str, Any] = copy.deepcopy(item["spec"]["template"]["spec"])
    added = (*_TOLERATED, *(_ON_HOSTS if spec.get("hostNetwork") else ()))
    tolerations = spec.setdefault("tolerations", [])
    for name, effect in added:
        one = {"key": f"{_PREFIX}{name}", "operator": "Exists", "effect": effect}
        if one not in tolerations:
            tolerations.append(one)
    return spec


def _revision(item: Object) -> str:
    text = json.dumps(item["spec"]["template"], sort_keys=True).encode()
    digest = hashlib.sha256(text).digest()
    return "".join(NAME_LETTERS[byte % len(NAME_LETTERS)] for byte in digest[:9])


def _pod(verbs: Verbs, owner: Object, node: str) -> Object:
    meta = copy.deepcopy(owner["spec"]["template"].get("metadata") or {})
    prefix, spec = f"{owner['metadata']['name']}-", _spec(owner)
    notes = {"annotations": meta["annotations"]} if "annotations" in meta else {}
    generation = str(owner["metadata"].get("generation", 1))
    labels = {_REVISION: _revision(owner), _GENERATION: generation}
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    term = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    affinity = {**(spec.get("affinity") or {})}
    affinity["nodeAffinity"] = {
        **(affinity.get("nodeAffinity") or {}),
        "requiredDuringSchedulingIgnoredDuringExecution": term,
    }
    return {
        "metadata": {
            "name": prefix + verbs.random_suffix(),
            "generateName": prefix,
            "labels": {**(meta.get("labels") or {}), **labels},
            **notes,
            "ownerReferences": [reference(owner)],
        },
        "spec": {**spec, "affinity": affinity},
    }
