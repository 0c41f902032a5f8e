"""Workloads and their autoscalers: how many replicas are asked for, and within which bounds.

Each write names the version that was read, and is tried again when only something else changed: a
number that somebody else set meanwhile is never overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aftershock.cluster.api import Cluster
from aftershock.cluster.pods import checked
from aftershock.cluster.refusals import Refused
from aftershock.errors import InvalidInput, NotApplied

_PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets"}
_SHORT = {"deploy": "Deployment", "sts": "StatefulSet"}
_ABSENT = 404
_TRIES = 10

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or a StatefulSet."""

    kind: str
    name: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def plural(self) -> str:
        """The resource, as a Role names it."""
        return _PLURALS[self.kind]

    @property
    def path(self) -> str:
        """Where its scale is in the API."""
        place = f"namespaces/{self.namespace}/{self.plural}/{self.name}"
        return f"/apis/apps/v1/{place}/scale"


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas are asked for, and the label selector of its pods."""

    replicas: int
    selector: str
    version: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between how many replicas an autoscaler scales."""

    name: str
    least: int
    most: int
    version: str = ""

    def plain(self) -> dict[str, int]:
        """In the API's words."""
        return {"minReplicas": self.least, "maxReplicas": self.most}


def parsed(words: str, namespace: str) -> Workload:
    """A workload from words such as `Deployment/web`; `InvalidInput` for what is none."""
    kind, slash, name = words.strip().partition("/")
    known = {**_SHORT, **{one.lower(): one for one in _PLURALS}}
    known |= {plural: one for one, plural in _PLURALS.items()}
    if not slash or not name or "/" in name or kind.lower() not in known:
        raise InvalidInput(f"workload {words!r}: Deployment/NAME or StatefulSet/NAME")
    return Workload(known[kind.lower()], name, namespace)


def scale_of(cluster: Cluster, workload: Workload) -> Scale:
    """The scale as it is now; `InvalidInput` where there is no such workload."""
    return _scale(_ask(cluster, workload, "read"))


def rescale(cluster: Cluster, workload: Workload, was: int, to: int) -> bool:
    """Ask for `to` replicas, if it is `was` that is asked for; False where it is neither."""
    for _ in range(_TRIES):
        found = scale_of(cluster, workload)
        if found.replicas == to:
            return True
        if found.replicas != was:
            return False
        body = {"metadata": {"resourceVersion": found.version}, "spec": {"replicas": to}}
        if _ask(cluster, workload, "patch", body):
            return True
    raise NotApplied(f"{workload}: it changed {_TRIES} times while it was scaled: try again")


def bounds_of(cluster: Cluster, workload: Workload) -> Bounds | None:
    """The bounds of the autoscaler that scales a workload; None where there is none."""
    from kubernetes import client

    call = client.AutoscalingV2Api(cluster.api_client).list_namespaced_horizontal_pod_autoscaler
    # Kubernetes before 1.23 doesn't serve autoscaling/v2, and can be scaled all the same.
    answer = cluster.call(checked(call), workload.namespace, gone_is_fine=True)
    for item in json.loads(answer.data)["items"] if answer is not None else ():
        target = item["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) == (workload.kind, workload.name):
            return _bounds(item)
    return None


def bounds_by_name(cluster: Cluster, namespace: str, name: str) -> Bounds | None:
    """An autoscaler's bounds; None where it is gone."""
    from kubernetes import client

    call = client.AutoscalingV2Api(cluster.api_client).read_namespaced_horizontal_pod_autoscaler
    answer = cluster.call(checked(call), name, namespace, gone_is_fine=True)
    return None if answer is None else _bounds(json.loads(answer.data))


def rebound(cluster: Cluster, namespace: str, was: Bounds, to: Bounds) -> bool:
    """Change an autoscaler's bounds, if they are `was`; False where they are neither."""
    from kubernetes import client

    call = client.AutoscalingV2Api(cluster.api_client).patch_namespaced_horizontal_pod_autoscaler
    for _ in range(_TRIES):
        found = bounds_by_name(cluster, namespace, was.name)
        if found is None or found.plain() == to.plain():
            return found is not None
        if found.plain() != was.plain():
            return False
        body = {"metadata": {"resourceVersion": found.version}, "spec": to.plain()}
        if cluster.call(checked(call), was.name, namespace, body, conflict_is_fine=True):
            return True
    raise NotApplied(f"autoscaler {was.name}: it changed {_TRIES} times meanwhile: try again")


def _scale(plain: Mapping[str, Any]) -> Scale:
    replicas = int((plain.get("spec") or {}).get("replicas") or 0)
    selector = (plain.get("status") or {}).get("selector") or ""
    return Scale(replicas, selector, plain["metadata"]["resourceVersion"])


def _bounds(item: Mapping[str, Any]) -> Bounds:
    meta, spec = item["metadata"], item["spec"]
    least, most = int(spec.get("minReplicas") or 1), int(spec["maxReplicas"])
    return Bounds(meta["name"], least, most, meta["resourceVersion"])


def _ask(cluster: Cluster, workload: Workload, verb: str, *body: Json) -> Json:
    """Read or patch a scale; empty where somebody else was faster."""
    from kubernetes import client

    apps = client.AppsV1Api(cluster.api_client)
    kind = "deployment" if workload.kind == "Deployment" else "stateful_set"
    call: Callable[..., Any] = getattr(apps, f"{verb}_namespaced_{kind}_scale")
    place = (workload.name, workload.namespace)
    try:
        answer = cluster.call(checked(call), *place, *body, conflict_is_fine=True)
    except Refused as error:
        if error.status != _ABSENT:
            raise
        raise InvalidInput(f"there is no {workload} in namespace {workload.namespace}") from None
    found: Json = {} if answer is None else json.loads(answer.data)
    return found
