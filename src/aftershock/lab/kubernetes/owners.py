"""Who owns what, and which pods count as what."""

from __future__ import annotations

from typing import Any

from aftershock.lab.kubernetes.resources import Resource
from aftershock.lab.kubernetes.store import Object, Store


def reference(owner: Object) -> dict[str, Any]:
    """The entry that makes `owner` an object's controller."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owned_by(store: Store, resource: Resource, owner: Object) -> list[Object]:
    """The objects whose controller `owner` is."""
    uid, namespace = owner["metadata"]["uid"], owner["metadata"]["namespace"]
    return [
        item
        for item in store.all_of(resource, namespace)
        if any(ref["uid"] == uid for ref in item["metadata"].get("ownerReferences") or ())
    ]


def is_dying(item: Object) -> bool:
    """Whether its deletion has begun."""
    return "deletionTimestamp" in item["metadata"]


def is_over(pod: Object) -> bool:
    """Whether its processes have ended for good."""
    return pod["status"].get("phase") in ("Succeeded", "Failed")


def is_ready(pod: Object) -> bool:
    """Whether it passes its readiness probe."""
    conditions = pod["status"].get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def counted(**numbers: int) -> dict[str, int]:
    """The numbers of a status; zeros are left out, as a real server does."""
    return {name: number for name, number in numbers.items() if number}
