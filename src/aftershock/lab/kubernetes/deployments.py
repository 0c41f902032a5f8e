"""Deployments: a replica set per template, and the way from one to the next."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from typing import Any

from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.owners import counted, is_dying, owned_by, reference
from aftershock.lab.kubernetes.resources import DEPLOYMENTS, REPLICASETS
from aftershock.lab.kubernetes.store import Object, Store, timestamp
from aftershock.lab.kubernetes.verbs import NAME_LETTERS, Verbs

_NAME = "deployment-controller"
_HASH = "pod-template-hash"
_REVISION = "deployment.kubernetes.io/revision"
_DESIRED = "deployment.kubernetes.io/desired-replicas"
_MOST = "deployment.kubernetes.io/max-replicas"


def keep_deployments(store: Store, verbs: Verbs, recorder: Recorder) -> None:
    """One pass over all deployments."""
    for found in store.all_of(DEPLOYMENTS):
        deployment = found
        sets = owned_by(store, REPLICASETS, deployment)
        if not is_dying(deployment) and not deployment["spec"].get("paused"):
            current, deployment = _current_set(store, verbs, deployment, sets)
            others = [s for s in sets if s["metadata"]["uid"] != current["metadata"]["uid"]]
            for item, replicas in _steps(deployment, current, others):
                _resize(store, recorder, deployment, item, replicas)
            _forget(store, deployment, others)
            sets = owned_by(store, REPLICASETS, deployment)
        _report(store, deployment, sets)


def _current_set(
    store: Store, verbs: Verbs, deployment: Object, sets: list[Object]
) -> tuple[Object, Object]:
    """The replica set with the deployment's template, made if there is none."""
    template = deployment["spec"]["template"]
    found = next((s for s in sets if _bare(s["spec"]["template"]) == template), None)
    newest = max((_revision(s) for s in sets), default=0)
    if found is None:
        found = verbs.create(
            REPLICASETS, deployment["metadata"]["namespace"], _new_set(deployment, newest + 1)
        )
    elif _revision(found) < newest:
        changed = copy.deepcopy(found)
        changed["metadata"]["annotations"][_REVISION] = str(newest + 1)
        found = store.update(REPLICASETS, changed)
    revision = str(_revision(found))
    if (deployment["metadata"].get("annotations") or {}).get(_REVISION) != revision:
        changed = copy.deepcopy(deployment)
        changed["metadata"].setdefault("annotations", {})[_REVISION] = revision
        deployment = store.update(DEPLOYMENTS, changed)
    return found, deployment


def _bare(template: dict[str, Any]) -> dict[str, Any]:
    bare = copy.deepcopy(template)
    bare["metadata"]["labels"].pop(_HASH, None)
    return bare


def _revision(item: Object) -> int:
    return int((item["metadata"].get("annotations") or {}).get(_REVISION, 0))


def _new_set(deployment: Object, revision: int) -> Object:
    template = copy.deepcopy(deployment["spec"]["template"])
    text = json.dumps(template, sort_keys=True).encode()
    digest = hashlib.sha256(text).digest()
    code = "".join(NAME_LETTERS[byte % len(NAME_LETTERS)] for byte in digest[:9])
    labels = dict(sorted({**template["metadata"]["labels"], _HASH: code}.items()))
    template["metadata"]["labels"] = labels
    selector = copy.deepcopy(deployment["spec"]["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), _HASH: code}
    return {
        "metadata": {
            "name": f"{deployment['metadata']['name']}-{code}",
            "labels": labels,
            "annotations": {**_sizes(deployment), _REVISION: str(revision)},
            "ownerReferences": [reference(deployment)],
        },
        "spec": {"replicas": 0, "selector": selector, "template": template},
    }


def _sizes(deployment: Object) -> dict[str, str]:
    desired = deployment["spec"]["replicas"]
    return {_DESIRED: str(desired), _MOST: str(desired + _surge(deployment)[0])}


def _surge(deployment: Object) -> tuple[int, int]:
    """How many pods more and fewer than desired a rollout may have."""
    desired = deployment["spec"]["replicas"]
    rolling = deployment["spec"]["strategy"].get("rollingUpdate") or {}
    more = _share(rolling.get("maxSurge", "25%"), desired, math.ceil)
    fewer = _share(rolling.get("maxUnavailable", "25%"), desired, math.floor)
    return more, fewer if more or fewer else 1


def _share(value: int | str, total: int, rounded: Any) -> int:
    if isinstance(value, int):
        return value
    return int(rounded(int(value.rstrip("%")) * total / 100))


def _steps(deployment: Object, current: Object, others: list[Object]) -> list[tuple[Object, int]]:
    """The sizes that the replica sets should have now."""
    desired, old = deployment["spec"]["replicas"], [s for s in others if s["spec"]["replicas"]]
    if deployment["spec"]["strategy"]["type"] == "Recreate":
        gone = not any((s.get("status") or {}).get("replicas") for s in others) and not old
        return [(s, 0) for s in old] + ([(current, desired)] if gone else [])
    if not old:
        return [(current, desired)]
    more, fewer = _surge(deployment)
    size = current["spec"]["replicas"]
    total = size + sum(s["spec"]["replicas"] for s in old)
    grown = max(min(size, desired), min(desired, size + desired + more - total))
    steps = [(current, grown)]
    available = sum((s.get("status") or {}).get("availableReplicas", 0) for s in (current, *old))
    removable = max(0, available - (desired - fewer))
    for item in old:
        # Pods that don't serve can go without anyone missing them.
        idle = item["spec"]["replicas"] - (item.get("status") or {}).get("availableReplicas", 0)
        cut = min(item["spec"]["replicas"], removable + max(0, idle))
        removable -= max(0, cut - max(0, idle))
        steps.append((item, item["spec"]["replicas"] - cut))
    return steps


def _resize(
    store: Store, recorder: Recorder, deployment: Object, item: Object, replicas: int
) -> None:
    changed = copy.deepcopy(item)
    before = changed["spec"]["replicas"]
    changed["spec"]["replicas"] = replicas
    changed["metadata"].setdefault("annotations", {}).update(_sizes(deployment))
    store.update(REPLICASETS, changed)
    if replicas != before:
        way = "up" if replicas > before else "down"
        name = item["metadata"]["name"]
        told = f"Scaled {way} replica set {name} from {before} to {replicas}"
        recorder.record(deployment, "ScalingReplicaSet", told, _NAME)


def _forget(store: Store, deployment: Object, others: list[Object]) -> None:
    limit = deployment["spec"].get("revisionHistoryLimit", 10)
    idle = [s for s in others if not s["spec"]["replicas"] and not _replicas(s)]
    for item in sorted(idle, key=_revision)[: max(0, len(idle) - limit)]:
        store.remove(REPLICASETS, item["metadata"]["namespace"], item["metadata"]["name"])


def _replicas(item: Object) -> int:
    return int((item.get("status") or {}).get("replicas", 0))


def _report(store: Store, deployment: Object, sets: list[Object]) -> None:
    template, desired = deployment["spec"]["template"], deployment["spec"]["replicas"]
    current = next((s for s in sets if _bare(s["spec"]["template"]) == template), None)
    stands = [s.get("status") or {} for s in sets]
    replicas = sum(s.get("replicas", 0) for s in stands)
    ready = sum(s.get("readyReplicas", 0) for s in stands)
    available = sum(s.get("availableReplicas", 0) for s in stands)
    updated = _replicas(current) if current else 0
    status = {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        **counted(
            replicas=replicas,
            updatedReplicas=updated,
            readyReplicas=ready,
            availableReplicas=available,
            unavailableReplicas=max(0, desired - available),
        ),
        "terminatingReplicas": sum(s.get("terminatingReplicas", 0) for s in stands),
    }
    name = current["metadata"]["name"] if current else ""
    complete = updated == desired == available == replicas
    status["conditions"] = _conditions(deployment, name, available, complete)
    store.update(DEPLOYMENTS, {**deployment, "status": status})


def _conditions(
    deployment: Object, name: str, available: int, complete: bool
) -> list[dict[str, Any]]:
    before = {c["type"]: c for c in (deployment.get("status") or {}).get("conditions") or ()}
    enough = available >= deployment["spec"]["replicas"] - _surge(deployment)[1]
    progress = before.get("Progressing")
    settled = progress is not None and progress["reason"] == "NewReplicaSetAvailable"
    told = f'ReplicaSet "{name}"'
    # A set that once was complete stays "available", whatever its pods do later.
    if complete or (settled and progress and told in progress["message"]):
        reason, message = "NewReplicaSetAvailable", f"{told} has successfully progressed."
    else:
        reason, message = "ReplicaSetUpdated", f"{told} is progressing."
    serving = (
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        if enough
        else (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    )
    made = {
        "Available": _condition(before.get("Available"), "Available", *serving),
        "Progressing": _condition(progress, "Progressing", "True", reason, message),
    }
    order = [*before, *(kind for kind in made if kind not in before)]
    return [made[kind] for kind in order if kind in made]


def _condition(
    before: dict[str, Any] | None, kind: str, status: str, reason: str, message: str
) -> dict[str, Any]:
    same = before is not None and before["status"] == status
    if before and same and before["reason"] == reason and before["message"] == message:
        return before
    return {
        "type": kind,
        "status": status,
        "lastUpdateTime": timestamp(),
        "lastTransitionTime": before["lastTransitionTime"] if before and same else timestamp(),
        "reason": reason,
        "message": message,
    }
