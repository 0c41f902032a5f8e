"""Stateful sets: pods with names that come again, made and ended one after the other."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.owners import (
    counted,
    is_dying,
    is_over,
    is_ready,
    owned_by,
    reference,
)
from aftershock.lab.kubernetes.resources import PODS, STATEFULSETS
from aftershock.lab.kubernetes.store import Object, Store
from aftershock.lab.kubernetes.verbs import NAME_LETTERS, Verbs

_NAME = "statefulset-controller"
_REVISION = "controller-revision-hash"


def keep_statefulsets(store: Store, verbs: Verbs, recorder: Recorder) -> None:
    """One pass: report what is there, then make or end what is missing or too much."""
    for found in store.all_of(STATEFULSETS):
        pods = {_ordinal(pod): pod for pod in owned_by(store, PODS, found)}
        current = _report(store, found, list(pods.values()))
        if is_dying(current):
            continue
        for pod in _too_many(current, pods):
            meta = pod["metadata"]
            if store.find(PODS, meta["namespace"], meta["name"]):
                verbs.delete(PODS, meta["namespace"], meta["name"])
                told = f"delete Pod {meta['name']} in StatefulSet {current['metadata']['name']}"
                recorder.record(current, "SuccessfulDelete", f"{told} successful", _NAME)
        for ordinal in _missing(current, pods):
            pod = verbs.create(PODS, current["metadata"]["namespace"], _pod(current, ordinal))
            told = f"create Pod {pod['metadata']['name']} in StatefulSet"
            recorder.record(
                current,
                "SuccessfulCreate",
                f"{told} {current['metadata']['name']} successful",
                _NAME,
            )


def _missing(item: Object, pods: dict[int, Object]) -> list[int]:
    """The ordinals to make now: one, once all before it are ready, unless all may come at once."""
    wanted = []
    for ordinal in range(item["spec"]["replicas"]):
        pod = pods.get(ordinal)
        if pod is None:
            wanted.append(ordinal)
        if _in_order(item) and (pod is None or is_dying(pod) or not is_ready(pod)):
            break
    return wanted


def _too_many(item: Object, pods: dict[int, Object]) -> list[Object]:
    """The pods to end now: over ones, then the last beyond the count, then one of old make."""
    if over := [pod for pod in pods.values() if is_over(pod) and not is_dying(pod)]:
        return over
    going = any(map(is_dying, pods.values()))
    beyond = [pods[n] for n in sorted(pods, reverse=True) if n >= item["spec"]["replicas"]]
    living = [pod for pod in beyond if not is_dying(pod)]
    if not _in_order(item):
        return living
    if going or living:
        return [] if going else living[:1]
    whole = len(pods) == item["spec"]["replicas"] and all(map(is_ready, pods.values()))
    make = _revision(item)
    old = [
        pods[n]
        for n in sorted(pods, reverse=True)
        if pods[n]["metadata"]["labels"][_REVISION] != make
    ]
    return old[:1] if whole and item["spec"]["updateStrategy"]["type"] == "RollingUpdate" else []


def _in_order(item: Object) -> bool:
    return bool(item["spec"]["podManagementPolicy"] == "OrderedReady")


def _ordinal(pod: Object) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])


def _revision(item: Object) -> str:
    text = json.dumps(item["spec"]["template"], sort_keys=True).encode()
    digest = hashlib.sha256(text).digest()
    code = "".join(NAME_LETTERS[byte % len(NAME_LETTERS)] for byte in digest[:9])
    return f"{item['metadata']['name']}-{code}"


def _report(store: Store, item: Object, pods: list[Object]) -> Object:
    make = _revision(item)
    ready = sum(is_ready(pod) and not is_dying(pod) for pod in pods)
    new = sum(pod["metadata"]["labels"][_REVISION] == make for pod in pods)
    status: dict[str, Any] = {
        "observedGeneration": item["metadata"].get("generation", 1),
        "replicas": len(pods),
        **counted(readyReplicas=ready, updatedReplicas=new, currentReplicas=new),
        "availableReplicas": ready,
        "updateRevision": make,
        "collisionCount": 0,
    }
    if new == len(pods):
        status["currentRevision"] = make
    elif before := (item.get("status") or {}).get("currentRevision"):
        status["currentRevision"] = before
    return store.update(STATEFULSETS, {**item, "status": status})


def _pod(owner: Object, ordinal: int) -> Object:
    template = copy.deepcopy(owner["spec"]["template"])
    meta, name = template.get("metadata") or {}, f"{owner['metadata']['name']}-{ordinal}"
    labels = {
        **(meta.get("labels") or {}),
        "apps.kubernetes.io/pod-index": str(ordinal),
        _REVISION: _revision(owner),
        "statefulset.kubernetes.io/pod-name": name,
    }
    notes = {"annotations": meta["annotations"]} if "annotations" in meta else {}
    head = {"name": name, "generateName": f"{owner['metadata']['name']}-", "labels": labels}
    spec = {**template["spec"], "hostname": name, "subdomain": owner["spec"].get("serviceName", "")}
    return {
        "metadata": {**head, **notes, "ownerReferences": [reference(owner)]},
        "spec": {key: value for key, value in spec.items() if value != ""},
    }
