"""What a client may do to objects: create, replace, patch, delete, evict and scale."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from aftershock.lab.kubernetes import defaults, patch, status, validation
from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.podsecurity import check_security
from aftershock.lab.kubernetes.resources import BUDGETS, NAMESPACES, PODS, SERVED, Resource
from aftershock.lab.kubernetes.selectors import labels_match, labels_of
from aftershock.lab.kubernetes.status import Cause, bad_request
from aftershock.lab.kubernetes.store import Object, Store, timestamp

# What a real server draws the random part of names from: no vowels, so no words.
NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_SERVER_OWNED = (
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
)
_PROPAGATION = ("Foreground", "Background", "Orphan")
PATCHES = {
    "application/merge-patch+json": patch.merge,
    "application/strategic-merge-patch+json": patch.strategic,
    "application/json-patch+json": patch.json_patch,
    "application/apply-patch+yaml": patch.strategic,
}


class Verbs:
    """The changes a client may ask for, each checked as a real server would."""

    def __init__(
        self, store: Store, recorder: Recorder, chance: random.Random | None = None
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._chance = chance or random.Random()

    def random_suffix(self) -> str:
        return "".join(self._chance.choices(NAME_LETTERS, k=5))

    def create(
        self, resource: Resource, namespace: str, body: Object, dry_run: bool = False
    ) -> Object:
        validation.check_shape(resource, body)
        _check_kind(resource, body)
        item: Object = {**body, "metadata": dict(body.get("metadata") or {})}
        meta = item["metadata"]
        if resource.namespaced:
            if meta.setdefault("namespace", namespace) != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on "
                    "the request"
                )
        else:
            meta.pop("namespace", None)
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + self.random_suffix()
        if resource.namespaced:
            self._check_namespace(resource, namespace, meta.get("name", ""))
        validation.check(resource, item)
        if resource is PODS:
            check_security(self._store.get(NAMESPACES, "", namespace), item)
        item = defaults.fill(resource, item)
        if dry_run:
            if self._store.find(resource, namespace, meta["name"]):
                raise status.already_exists(resource, meta["name"])
            item = self._store.born(resource, item)
            del item["metadata"]["resourceVersion"]
            return item
        return self._store.create(resource, item)

    def _check_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        found = self._store.get(NAMESPACES, "", namespace)
        if "deletionTimestamp" in found["metadata"]:
            raise status.namespace_terminating(resource, name, namespace)

    def replace(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Object,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        validation.check_shape(resource, body)
        _check_kind(resource, body)
        before = self._store.get(resource, namespace, name)
        meta = dict(body.get("metadata") or {})
        if meta.get("name", name) != name:
            raise bad_request(
                f"the name of the object ({meta['name']}) does not match the name on the URL "
                f"({name})"
            )
        uid = before["metadata"]["uid"]
        if meta.get("uid", uid) != uid:
            why = f"Precondition failed: UID in precondition: {meta['uid']}, "
            why += f"UID in object meta: {uid}"
            raise status.conflict(resource, name, why)
        item = _changed(resource, before, body, meta, subresource)
        if subresource != "status":
            validation.check(resource, item, before)
            item = _defaulted(resource, item)
        expected = meta.get("resourceVersion")
        if expected and expected != before["metadata"]["resourceVersion"]:
            raise status.conflict(resource, name)
        return item if dry_run else self._store.update(resource, item)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        kind: str,
        body: Any,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        before = self._store.get(resource, namespace, name)
        change = PATCHES.get(kind)
        if change is None:
            raise status.unsupported_patch()
        patched = change(before, body)
        asked = (body.get("metadata") or {}) if isinstance(body, Mapping) else {}
        patched["metadata"] = dict(patched.get("metadata") or {})
        patched["metadata"]["resourceVersion"] = (
            asked.get("resourceVersion") or before["metadata"]["resourceVersion"]
        )
        return self.replace(resource, namespace, name, patched, subresource, dry_run)

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        options: Mapping[str, Any] | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Delete, or begin to; the answer is the object, or a Status when it is gone at once."""
        options = options or {}
        before = self._store.get(resource, namespace, name)
        _check_options(resource, before, options)
        meta = before["metadata"]
        if resource.plural == "pods":
            item = _dying_pod(before, options.get("gracePeriodSeconds"))
        elif resource.plural == "namespaces":
            item = _dying(before, 0)
            item["status"] = {**(item.get("status") or {}), "phase": "Terminating"}
        else:
            policy = options.get("propagationPolicy", "Background")
            if policy == "Orphan" and not dry_run:
                self._orphan(meta["uid"])
            if policy != "Foreground" and not meta.get("finalizers"):
                if not dry_run:
                    self._store.remove(resource, namespace, name)
                return before if resource.plural == "services" else _gone(resource, meta)
            item = _dying(before, 0)
            if policy == "Foreground":
                among = set(meta.get("finalizers") or ())
                item["metadata"]["finalizers"] = sorted(among | {"foregroundDeletion"})
        return item if dry_run else self._store.update(resource, item)

    def _orphan(self, uid: str) -> None:
        for resource in SERVED:
            for item in self._store.all_of(resource):
                owners = item["metadata"].get("ownerReferences") or []
                kept = [owner for owner in owners if owner["uid"] != uid]
                if len(kept) != len(owners):
                    freed = copy.deepcopy(item)
                    freed["metadata"]["ownerReferences"] = kept
                    self._store.update(resource, freed)

    def disrupt(self, pod: Object, reason: str, message: str) -> None:
        """Mark a pod as about to be deleted by someone other than its owner."""
        marked = copy.deepcopy(pod)
        conditions = marked["status"].setdefault("conditions", [])
        if any(condition["type"] == "DisruptionTarget" for condition in conditions):
            return
        condition = {
            "type": "DisruptionTarget",
            "observedGeneration": pod["metadata"].get("generation", 1),
            "status": "True",
            "lastProbeTime": None,
            "lastTransitionTime": timestamp(),
            "reason": reason,
            "message": message,
        }
        marked["status"]["conditions"] = [condition, *conditions]
        self._store.update(PODS, marked)

    def evict(self, namespace: str, name: str, body: Object, dry_run: bool = False) -> Object:
        """Delete a pod unless a budget forbids it."""
        pod = self._store.get(PODS, namespace, name)
        if ((body.get("metadata") or {}).get("name") or name) != name:
            raise bad_request("name in URL does not match name in Eviction object")
        options = body.get("deleteOptions") or {}
        _check_options(PODS, pod, options)
        if "deletionTimestamp" not in pod["metadata"] and _counts(pod):
            self._charge_budgets(pod, dry_run)
        if not dry_run:
            if "deletionTimestamp" not in pod["metadata"]:
                self.disrupt(pod, "EvictionByEvictionAPI", "Eviction API: evicting")
            self.delete(PODS, namespace, name, options)
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "code": 201,
        }

    def _charge_budgets(self, pod: Object, dry_run: bool) -> None:
        charged = []
        for budget in self._store.all_of(BUDGETS, pod["metadata"]["namespace"]):
            if not labels_match((budget.get("spec") or {}).get("selector"), labels_of(pod)):
                continue
            stands = budget["status"]
            if stands.get("disruptionsAllowed", 0) < 1:
                needed, healthy = stands.get("desiredHealthy", 0), stands.get("currentHealthy", 0)
                raise status.budget_exceeded(budget["metadata"]["name"], needed, healthy)
            charged.append(budget)
        for budget in charged if not dry_run else ():
            paid = copy.deepcopy(budget)
            paid["status"]["disruptionsAllowed"] -= 1
            self._store.update(BUDGETS, paid)

    def scale(self, resource: Resource, namespace: str, name: str) -> Object:
        return scale_of(self._store.get(resource, namespace, name))

    def rescale(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Any,
        kind: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Put (no `kind`) or patch a Scale."""
        before = self._store.get(resource, namespace, name)
        wanted = change
        if kind:
            if kind not in PATCHES:
                raise status.unsupported_patch()
            wanted = PATCHES[kind](scale_of(before), change)
        replicas = (wanted.get("spec") or {}).get("replicas", 0)
        if not isinstance(replicas, int) or isinstance(replicas, bool):
            raise bad_request("json: cannot unmarshal value into ScaleSpec.replicas of type int32")
        if replicas < 0:
            message = f"Invalid value: {replicas}: must be greater than or equal to 0"
            cause = Cause("FieldValueInvalid", message, "spec.replicas")
            raise status.invalid("Scale", "autoscaling", name, [cause])
        expected = (wanted.get("metadata") or {}).get("resourceVersion")
        if expected and expected != before["metadata"]["resourceVersion"]:
            raise status.conflict(resource, name)
        item = {**before, "spec": {**before["spec"], "replicas": replicas}}
        return scale_of(item if dry_run else self._store.update(resource, item))


def scale_of(item: Mapping[str, Any]) -> Object:
    """The Scale of a deployment or replica set."""
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    labels = (item["spec"].get("selector") or {}).get("matchLabels") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: item["metadata"][key] for key in kept},
        "spec": {"replicas": item["spec"]["replicas"]},
        "status": {
            "replicas": (item.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def _check_kind(resource: Resource, body: Mapping[str, Any]) -> None:
    kind = body.get("kind", resource.kind)
    if kind != resource.kind:
        version = body.get("apiVersion", resource.api_version)
        raise bad_request(
            f'{kind} in version "{version}" cannot be handled as a {resource.kind}: '
            "unknown conversion"
        )


def _changed(
    resource: Resource, before: Object, body: Object, meta: Mapping[str, Any], subresource: str
) -> Object:
    """The object after a write: what the server owns stays, and /status changes only the status."""
    if subresource == "status":
        item = {**before, "status": body.get("status") or {}}
        return copy.deepcopy(item)
    kept = {key: before["metadata"][key] for key in _SERVER_OWNED if key in before["metadata"]}
    asked = {key: meta[key] for key in meta if key not in _SERVER_OWNED and meta[key] is not None}
    base = {
        key: before["metadata"][key] for key in ("name", "namespace") if key in before["metadata"]
    }
    known = before["metadata"]
    merged = {**asked, **base, **kept, "resourceVersion": known["resourceVersion"]}
    ordered = {key: merged[key] for key in known if key in merged}
    item = {
        **{key: value for key, value in body.items() if key != "status"},
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "metadata": {**ordered, **{k: v for k, v in merged.items() if k not in ordered}},
    }
    if resource.has_status:
        item["status"] = before.get("status") or {}
    elif "status" in body:
        item["status"] = body["status"]
    return copy.deepcopy({key: item[key] for key in (*before, *item) if key in item})


def _defaulted(resource: Resource, item: Object) -> Object:
    if resource.plural != "pods":
        return defaults.fill(resource, item)
    stands = item["status"]
    return {**defaults.fill(resource, item), "status": stands}


def _dying(before: Object, grace_s: int) -> Object:
    item = copy.deepcopy(before)
    meta = item["metadata"]
    if "deletionTimestamp" not in meta and "generation" in meta:
        meta["generation"] += 1
    moment = datetime.now(UTC) + timedelta(seconds=grace_s)
    when = {"deletionTimestamp": timestamp(moment), "deletionGracePeriodSeconds": grace_s}
    head: Object = {}
    for key, value in meta.items():
        if key not in when:
            head[key] = value
        if key == "creationTimestamp":
            head |= when
    item["metadata"] = head
    return item


def _dying_pod(before: Object, asked_s: int | None) -> Object:
    """A pod with its end set; a grace period once set can only be shortened."""
    grace_s = (
        before["spec"].get("terminationGracePeriodSeconds", 30) if asked_s is None else asked_s
    )
    if grace_s < 0:
        grace_s = 1
    if not _counts(before):
        grace_s = 0
    meta = before["metadata"]
    if "deletionTimestamp" in meta and grace_s >= meta.get("deletionGracePeriodSeconds", 0):
        return before
    return _dying(before, grace_s)


def _counts(pod: Mapping[str, Any]) -> bool:
    """Whether a kubelet has something to end there."""
    terminal = pod["status"].get("phase") in ("Succeeded", "Failed")
    return bool(pod["spec"].get("nodeName")) and not terminal


def _check_options(resource: Resource, before: Object, options: Mapping[str, Any]) -> None:
    policy = options.get("propagationPolicy")
    if policy is not None and policy not in _PROPAGATION:
        supported = ", ".join(f'"{one}"' for one in (*_PROPAGATION, "nil"))
        message = f'Unsupported value: "{policy}": supported values: {supported}'
        cause = Cause("FieldValueNotSupported", message, "propagationPolicy")
        raise status.invalid("DeleteOptions", "meta.k8s.io", "", [cause])
    meta = before["metadata"]
    wanted = options.get("preconditions") or {}
    if wanted.get("uid", meta["uid"]) != meta["uid"]:
        raise status.uid_mismatch(resource, meta["name"], wanted["uid"], meta["uid"])
    if wanted.get("resourceVersion", meta["resourceVersion"]) != meta["resourceVersion"]:
        raise status.conflict(resource, meta["name"])


def _gone(resource: Resource, meta: Mapping[str, Any]) -> Object:
    details = {"name": meta["name"]} | ({"group": resource.group} if resource.group else {})
    details |= {"kind": resource.plural, "uid": meta["uid"]}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }
