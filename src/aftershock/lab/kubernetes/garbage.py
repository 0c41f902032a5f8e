"""What nobody owns any more goes: dependents, pods of deleted nodes, contents of namespaces."""

from __future__ import annotations

import copy

from aftershock.lab.kubernetes.resources import NAMESPACES, NODES, PODS, SERVED
from aftershock.lab.kubernetes.store import Object, Store
from aftershock.lab.kubernetes.verbs import Verbs

_FOREGROUND = "foregroundDeletion"


def collect_garbage(store: Store, verbs: Verbs) -> None:
    """One pass over owners, nodes and namespaces."""
    _collect_dependents(store, verbs)
    _collect_lost_pods(store, verbs)
    for namespace in store.all_of(NAMESPACES):
        if "deletionTimestamp" in namespace["metadata"]:
            _empty(store, verbs, namespace)


def _collect_dependents(store: Store, verbs: Verbs) -> None:
    every = [(resource, item) for resource in SERVED for item in store.all_of(resource)]
    alive = {item["metadata"]["uid"]: item for _, item in every}
    owned: set[str] = set()
    for resource, item in every:
        meta = item["metadata"]
        owners = meta.get("ownerReferences") or ()
        if not owners:
            continue
        living = [alive[owner["uid"]] for owner in owners if owner["uid"] in alive]
        going = [owner for owner in living if _FOREGROUND in _finalizers(owner)]
        owned |= {owner["metadata"]["uid"] for owner in living}
        if "deletionTimestamp" not in meta and len(going) == len(living):
            policy = {"propagationPolicy": "Foreground"} if going else {}
            if store.find(resource, meta.get("namespace", ""), meta["name"]):
                verbs.delete(resource, meta.get("namespace", ""), meta["name"], policy)
    for resource, item in every:
        if _FOREGROUND in _finalizers(item) and item["metadata"]["uid"] not in owned:
            freed = copy.deepcopy(item)
            left = [name for name in _finalizers(item) if name != _FOREGROUND]
            freed["metadata"]["finalizers"] = left
            store.update(resource, freed)


def _finalizers(item: Object) -> list[str]:
    return item["metadata"].get("finalizers") or []


def _collect_lost_pods(store: Store, verbs: Verbs) -> None:
    nodes = {node["metadata"]["name"] for node in store.all_of(NODES)}
    for pod in store.all_of(PODS):
        if pod["spec"].get("nodeName", "") not in nodes | {""}:
            meta = pod["metadata"]
            verbs.delete(PODS, meta["namespace"], meta["name"], {"gracePeriodSeconds": 0})


def _empty(store: Store, verbs: Verbs, namespace: Object) -> None:
    name, left = namespace["metadata"]["name"], 0
    seen: set[str] = set()
    for resource in SERVED:
        if not resource.namespaced or resource.key in seen:
            continue
        seen.add(resource.key)
        for item in store.all_of(resource, name):
            if "deletionTimestamp" not in item["metadata"]:
                verbs.delete(resource, name, item["metadata"]["name"])
        left += len(store.all_of(resource, name))
    if not left and (namespace.get("spec") or {}).get("finalizers"):
        store.update(NAMESPACES, {**namespace, "spec": {}})
