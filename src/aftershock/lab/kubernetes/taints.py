"""Taints: a cordoned node gets one, and NoExecute taints drive pods away."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.nodes import taints_of, tolerations_for
from aftershock.lab.kubernetes.resources import NODES, PODS
from aftershock.lab.kubernetes.store import Object, Store, timestamp
from aftershock.lab.kubernetes.verbs import Verbs

_CORDONED = "node.kubernetes.io/unschedulable"


def keep_taints(store: Store, verbs: Verbs, recorder: Recorder) -> float | None:
    """One pass; the answer is when (in seconds) a tolerated taint drives a pod away next."""
    waits: list[float] = []
    nodes = {node["metadata"]["name"]: _mark_cordon(store, node) for node in store.all_of(NODES)}
    for pod in store.all_of(PODS):
        node = nodes.get(pod["spec"].get("nodeName", ""))
        if node is None or "deletionTimestamp" in pod["metadata"]:
            continue
        left = _time_left(pod, node)
        if left is not None and left <= 0:
            _drive_away(verbs, recorder, pod)
        elif left is not None:
            waits.append(left)
    return min(waits, default=None)


def _mark_cordon(store: Store, node: Object) -> Object:
    """Keep the taint that goes with `spec.unschedulable`."""
    cordoned = bool((node.get("spec") or {}).get("unschedulable"))
    taints = taints_of(node)
    if cordoned == any(taint["key"] == _CORDONED for taint in taints):
        return _dated(store, node)
    changed = copy.deepcopy(node)
    kept = [taint for taint in taints if taint["key"] != _CORDONED]
    if cordoned:
        kept.append({"key": _CORDONED, "effect": "NoSchedule", "timeAdded": timestamp()})
    changed["spec"]["taints"] = kept
    if not kept:
        del changed["spec"]["taints"]
    return store.update(NODES, changed)


def _dated(store: Store, node: Object) -> Object:
    """Write down when a NoExecute taint came, so that its tolerations can run out."""
    late = [t for t in taints_of(node) if t["effect"] == "NoExecute" and not t.get("timeAdded")]
    if not late:
        return node
    changed = copy.deepcopy(node)
    for taint in changed["spec"]["taints"]:
        if taint["effect"] == "NoExecute":
            taint.setdefault("timeAdded", timestamp())
    return store.update(NODES, changed)


def _time_left(pod: Object, node: Object) -> float | None:
    """Seconds until the node's taints end the pod; None: never."""
    left: list[float] = []
    for taint in taints_of(node):
        if taint["effect"] != "NoExecute":
            continue
        tolerations = tolerations_for(pod, taint)
        if not tolerations:
            return 0.0
        limits = [t["tolerationSeconds"] for t in tolerations if "tolerationSeconds" in t]
        if limits and len(limits) == len(tolerations):
            left.append(min(limits) - _age_s(taint))
    return min(left, default=None)


def _age_s(taint: dict[str, Any]) -> float:
    since = datetime.strptime(taint["timeAdded"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return (datetime.now(UTC) - since).total_seconds()


def _drive_away(verbs: Verbs, recorder: Recorder, pod: Object) -> None:
    meta = pod["metadata"]
    told = f"Marking for deletion Pod {meta['namespace']}/{meta['name']}"
    recorder.record(pod, "TaintManagerEviction", told, "taint-eviction-controller")
    verbs.disrupt(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
    verbs.delete(PODS, meta["namespace"], meta["name"])
