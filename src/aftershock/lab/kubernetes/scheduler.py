"""The scheduler: which node a pod goes to, or why none takes it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.nodes import (
    GPU,
    gpus_asked,
    ready,
    taints_of,
    tolerations_for,
    wants_node,
    zone_of,
)
from aftershock.lab.kubernetes.resources import NODES, PODS
from aftershock.lab.kubernetes.store import Object, Store, timestamp

_NAME = "default-scheduler"


class Scheduler:
    """Binds pending pods, one after the other, in the order in which they were created."""

    def __init__(self, store: Store, recorder: Recorder) -> None:
        self._store, self._recorder = store, recorder

    def run(self) -> None:
        """One pass over the pods that have no node yet."""
        pending = [pod for pod in self._store.all_of(PODS) if _is_pending(pod)]
        for pod in sorted(pending, key=lambda p: int(p["metadata"]["resourceVersion"])):
            self._place(pod)

    def _place(self, pod: Object) -> None:
        nodes = self._store.all_of(NODES)
        placed = [p for p in self._store.all_of(PODS) if p["spec"].get("nodeName")]
        reasons = {node["metadata"]["name"]: _refusal(pod, node, placed) for node in nodes}
        fitting = [node for node in nodes if not reasons[node["metadata"]["name"]]]
        if not fitting:
            self._postpone(pod, list(reasons.values()))
            return
        best = _emptiest(pod, fitting, nodes, placed)
        name = best["metadata"]["name"]
        bound = copy.deepcopy(pod)
        bound["spec"]["nodeName"] = name
        labels = bound["metadata"].setdefault("labels", {})
        for key in ("topology.kubernetes.io/region", "topology.kubernetes.io/zone"):
            if key in best["metadata"]["labels"]:
                labels[key] = best["metadata"]["labels"][key]
        bound["metadata"]["labels"] = dict(sorted(labels.items()))
        bound["status"]["conditions"] = [_scheduled(True)]
        # Binding is no change of the pod's wishes: its generation stays.
        self._store.update(PODS, bound, keep_generation=True)
        meta = pod["metadata"]
        told = f"Successfully assigned {meta['namespace']}/{meta['name']} to {name}"
        self._recorder.record(pod, "Scheduled", told, _NAME)

    def _postpone(self, pod: Object, reasons: Sequence[str]) -> None:
        total = len(reasons)
        counted = Counter(reasons)
        said = ", ".join(sorted(f"{count} {reason}" for reason, count in counted.items()))
        if not said:
            message = "no nodes available to schedule pods"
        else:
            message = f"0/{total} nodes are available: {said}. no new claims to deallocate, "
            message += f"preemption: 0/{total} nodes are available: "
            message += f"{total} Preemption is not helpful for scheduling."
        before = next(iter(pod["status"].get("conditions") or ()), None)
        if before and before.get("message") == message:
            return
        waiting = copy.deepcopy(pod)
        waiting["status"]["conditions"] = [
            _scheduled(False) | {"reason": "Unschedulable", "message": message}
        ]
        self._store.update(PODS, waiting)
        self._recorder.record(pod, "FailedScheduling", message, _NAME, warning=True)


def _is_pending(pod: Object) -> bool:
    return not pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]


def _scheduled(done: bool) -> Object:
    return {
        "type": "PodScheduled",
        "status": "True" if done else "False",
        "lastProbeTime": None,
        "lastTransitionTime": timestamp(),
    }


def _refusal(pod: Object, node: Object, placed: Sequence[Object]) -> str:  # noqa: PLR0911
    """Why the node cannot take the pod, in the scheduler's words; empty: it can."""
    labels = node["metadata"].get("labels") or {}
    wanted = pod["spec"].get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return "node(s) didn't match Pod's node affinity/selector"
    if not wants_node(pod, node):
        return "node(s) didn't match Pod's node affinity/selector"
    if (node.get("spec") or {}).get("unschedulable"):
        cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
        if not tolerations_for(pod, cordon):
            return "node(s) were unschedulable"
    for taint in taints_of(node):
        if taint["effect"] != "PreferNoSchedule" and not tolerations_for(pod, taint):
            value = taint.get("value") or ""
            return f"node(s) had untolerated taint(s) {{{taint['key']}: {value}}}"
    if not ready(node):
        return "node(s) were not ready"
    room = (node.get("status") or {}).get("allocatable") or {}
    here = [p for p in placed if p["spec"]["nodeName"] == node["metadata"]["name"]]
    using = [p for p in here if p["status"].get("phase") not in ("Succeeded", "Failed")]
    asked = gpus_asked(pod)
    if asked and sum(map(gpus_asked, using)) + asked > int(room.get(GPU, 0)):
        return f"Insufficient {GPU}"
    if len(using) >= int(room.get("pods", 110)):
        return "Too many pods"
    return ""


def _emptiest(
    pod: Object, fitting: Sequence[Object], nodes: Sequence[Object], placed: Sequence[Object]
) -> Object:
    """The node with the fewest siblings in its zone, then on it, then the fewest pods at all."""
    zones = {node["metadata"]["name"]: zone_of(node) for node in nodes}
    owner = _owner(pod)
    active = [p for p in placed if "deletionTimestamp" not in p["metadata"]]
    siblings = [p["spec"]["nodeName"] for p in active if _owner(p) == owner] if owner else []
    by_node, by_zone = Counter(siblings), Counter(zones.get(name, "") for name in siblings)
    everyone = Counter(p["spec"]["nodeName"] for p in active)

    def crowd(node: Object) -> tuple[int, int, int, str]:
        name = node["metadata"]["name"]
        return by_zone[zones[name]], by_node[name], everyone[name], name

    return min(fitting, key=crowd)


def _owner(pod: Object) -> str:
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), "")
