"""Replica sets: as many pods as were asked for."""

from __future__ import annotations

import copy

from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.owners import (
    counted,
    is_dying,
    is_over,
    is_ready,
    owned_by,
    reference,
)
from aftershock.lab.kubernetes.resources import PODS, REPLICASETS
from aftershock.lab.kubernetes.store import Object, Store
from aftershock.lab.kubernetes.verbs import Verbs

_NAME = "replicaset-controller"


def keep_replicasets(store: Store, verbs: Verbs, recorder: Recorder) -> None:
    """One pass: report what is there, then create or delete what is missing or too much."""
    for found in store.all_of(REPLICASETS):
        pods = owned_by(store, PODS, found)
        living = [pod for pod in pods if not is_dying(pod) and not is_over(pod)]
        dying = [pod for pod in pods if is_dying(pod) and not is_over(pod)]
        current = _report(store, found, living, len(dying))
        if is_dying(current):
            continue
        wanted = current["spec"]["replicas"]
        for _ in range(wanted - len(living)):
            pod = verbs.create(PODS, current["metadata"]["namespace"], _pod(verbs, current))
            told = f"Created pod: {pod['metadata']['name']}"
            recorder.record(current, "SuccessfulCreate", told, _NAME)
        for pod in sorted(living, key=_worth)[: max(0, len(living) - wanted)]:
            meta = pod["metadata"]
            verbs.delete(PODS, meta["namespace"], meta["name"])
            told = f"Deleted pod: {meta['name']}"
            recorder.record(current, "SuccessfulDelete", told, _NAME)


def _report(store: Store, item: Object, living: list[Object], dying: int) -> Object:
    ready = sum(map(is_ready, living))
    status = {
        "replicas": len(living),
        **counted(fullyLabeledReplicas=len(living), readyReplicas=ready, availableReplicas=ready),
        "terminatingReplicas": dying,
        "observedGeneration": item["metadata"].get("generation", 1),
    }
    return store.update(REPLICASETS, {**item, "status": status})


def _pod(verbs: Verbs, owner: Object) -> Object:
    template = copy.deepcopy(owner["spec"]["template"])
    meta = template.get("metadata") or {}
    prefix = f"{owner['metadata']['name']}-"
    asked = {key: meta[key] for key in ("labels", "annotations") if key in meta}
    return {
        "metadata": {
            "name": prefix + verbs.random_suffix(),
            "generateName": prefix,
            **asked,
            "ownerReferences": [reference(owner)],
        },
        "spec": template["spec"],
    }


def _worth(pod: Object) -> tuple[bool, bool, bool, int]:
    """Sorts the least worth keeping first: unbound, pending, not ready, youngest."""
    return (
        bool(pod["spec"].get("nodeName")),
        pod["status"].get("phase") == "Running",
        is_ready(pod),
        -int(pod["metadata"]["resourceVersion"]),
    )
