"""Objects of our own in a cluster (leases, config maps, jobs, their pods), as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aftershock.cluster.api import Cluster

_APIS = {
    "lease": "CoordinationV1Api",
    "job": "BatchV1Api",
    "config_map": "CoreV1Api",
    "pod": "CoreV1Api",
}
Plain = dict[str, Any]


def create(cluster: Cluster, kind: str, body: Mapping[str, Any]) -> Plain:
    """Create an object in the namespace that its metadata names; the object as it is then."""
    namespace = body["metadata"]["namespace"]
    return _plain(cluster, cluster.call(_method(cluster, "create", kind), namespace, dict(body)))


def get(cluster: Cluster, kind: str, place: Mapping[str, str]) -> Plain | None:
    """An object by namespace and name, or None when there is none."""
    found = cluster.call(
        _method(cluster, "read", kind), place["name"], place["namespace"], gone_is_fine=True
    )
    return None if found is None else _plain(cluster, found)


def patch(cluster: Cluster, kind: str, place: Mapping[str, str], body: Plain) -> bool:
    """Change an object; False when it is gone."""
    method = _method(cluster, "patch", kind)
    answer = cluster.call(method, place["name"], place["namespace"], body, gone_is_fine=True)
    return answer is not None


def patch_version(cluster: Cluster, kind: str, place: Mapping[str, str], body: Plain) -> None:
    """Change the very version of an object that the body names; `Refused` (409) if it has moved."""
    cluster.call(_method(cluster, "patch", kind), place["name"], place["namespace"], body)


def delete(cluster: Cluster, kind: str, place: Mapping[str, str]) -> None:
    """Delete an object and what belongs to it; one that is gone is fine."""
    words: Plain = {"propagation_policy": "Background", "gone_is_fine": True}
    if kind == "pod":
        words["grace_period_seconds"] = 0
    cluster.call(_method(cluster, "delete", kind), place["name"], place["namespace"], **words)


def listed(cluster: Cluster, kind: str, namespace: str, selector: str = "") -> list[Plain]:
    """The objects of a namespace that match a label selector."""
    found = cluster.call(_method(cluster, "list", kind), namespace, label_selector=selector)
    return [_plain(cluster, item) for item in found.items]


def _method(cluster: Cluster, verb: str, kind: str) -> Any:
    from kubernetes import client

    return getattr(getattr(client, _APIS[kind])(cluster.api_client), f"{verb}_namespaced_{kind}")


def _plain(cluster: Cluster, found: Any) -> Plain:
    plain: Plain = cluster.api_client.sanitize_for_serialization(found)
    return plain
