"""Endpoints and endpoint slices: where a service's requests may go."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from aftershock.lab.kubernetes.nodes import zone_of
from aftershock.lab.kubernetes.owners import is_dying, is_over, is_ready, reference
from aftershock.lab.kubernetes.resources import ENDPOINTS, NODES, PODS, SERVICES, SLICES
from aftershock.lab.kubernetes.selectors import labels_match, labels_of
from aftershock.lab.kubernetes.store import Object, Store, timestamp
from aftershock.lab.kubernetes.verbs import Verbs

_CHANGED = "endpoints.kubernetes.io/last-change-trigger-time"


def keep_endpoints(store: Store, verbs: Verbs) -> None:
    """One pass over all services that select pods."""
    for service in store.all_of(SERVICES):
        selector = service["spec"].get("selector")
        if not selector or is_dying(service):
            continue
        namespace = service["metadata"]["namespace"]
        pods = [
            pod
            for pod in store.all_of(PODS, namespace)
            if labels_match({"matchLabels": selector}, labels_of(pod))
            and pod["status"].get("podIP")
            and not is_over(pod)
        ]
        _keep_slice(store, verbs, service, pods)
        _keep_endpoints(store, verbs, service, pods)
    _drop_orphans(store)


def _drop_orphans(store: Store) -> None:
    services = {(s["metadata"]["namespace"], s["metadata"]["name"]) for s in store.all_of(SERVICES)}
    for item in store.all_of(ENDPOINTS):
        place = (item["metadata"]["namespace"], item["metadata"]["name"])
        managed = (item["metadata"].get("labels") or {}).get("endpoints.kubernetes.io/managed-by")
        if managed and place not in services:
            store.remove(ENDPOINTS, *place)


def _target(pod: Object) -> dict[str, str]:
    meta = pod["metadata"]
    return {
        "kind": "Pod",
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
    }


def _ports(service: Object, pods: Sequence[Object]) -> list[tuple[str, int, str]]:
    """The service's ports as the pods have them: name, number, protocol."""
    named = {
        port["name"]: port["containerPort"]
        for pod in pods
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or ()
        if "name" in port
    }
    found = []
    for port in service["spec"].get("ports") or ():
        target = port.get("targetPort", port["port"])
        number = target if isinstance(target, int) else named.get(target)
        if number is not None:
            found.append((port.get("name", ""), number, port.get("protocol", "TCP")))
    return found


def _keep_slice(store: Store, verbs: Verbs, service: Object, pods: Sequence[Object]) -> None:
    meta = service["metadata"]
    namespace, name = meta["namespace"], meta["name"]
    found = [
        item
        for item in store.all_of(SLICES, namespace)
        if labels_of(item).get("kubernetes.io/service-name") == name
    ]
    known = [e["targetRef"]["uid"] for item in found for e in item["endpoints"] or ()]
    order = {uid: place for place, uid in enumerate(known)}
    ranked = sorted(pods, key=lambda pod: order.get(pod["metadata"]["uid"], len(order)))
    content = {
        "endpoints": [_endpoint(store, pod) for pod in ranked],
        "ports": [
            {"name": port, "protocol": protocol, "port": number}
            for port, number, protocol in _ports(service, pods)
        ],
    }
    if not found:
        labels = {
            **(meta.get("labels") or {}),
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            "kubernetes.io/service-name": name,
        }
        fresh: Object = {
            "metadata": {
                "generateName": f"{name}-",
                "labels": labels,
                "ownerReferences": [reference(service)],
            },
            "addressType": "IPv4",
            **content,
        }
        verbs.create(SLICES, namespace, fresh)
    elif any(found[0].get(key) != content[key] for key in content):
        changed = copy.deepcopy(found[0]) | content
        changed["metadata"].setdefault("annotations", {})[_CHANGED] = timestamp()
        changed["metadata"]["generation"] += 1
        store.update(SLICES, changed)


def _endpoint(store: Store, pod: Object) -> dict[str, Any]:
    ready, dying = is_ready(pod), is_dying(pod)
    node = pod["spec"]["nodeName"]
    endpoint = {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready and not dying, "serving": ready, "terminating": dying},
        "targetRef": _target(pod),
        "nodeName": node,
    }
    zone = zone_of(store.find(NODES, "", node))
    return {**endpoint, "zone": zone} if zone else endpoint


def _keep_endpoints(store: Store, verbs: Verbs, service: Object, pods: Sequence[Object]) -> None:
    meta = service["metadata"]
    staying = sorted(
        (pod for pod in pods if not is_dying(pod)), key=lambda p: ip_address(p["status"]["podIP"])
    )
    subset: dict[str, Any] = {}
    for key, wanted in (("addresses", True), ("notReadyAddresses", False)):
        among = [_address(pod) for pod in staying if is_ready(pod) is wanted]
        if among:
            subset[key] = among
    ports = [
        ({"name": name} if name else {}) | {"port": number, "protocol": protocol}
        for name, number, protocol in _ports(service, pods)
    ]
    subsets = [{**subset, "ports": ports}] if subset else []
    found = store.find(ENDPOINTS, meta["namespace"], meta["name"])
    if found is None:
        labels = {
            **(meta.get("labels") or {}),
            "endpoints.kubernetes.io/managed-by": "endpoint-controller",
        }
        fresh: Object = {"metadata": {"name": meta["name"], "labels": labels}}
        verbs.create(
            ENDPOINTS, meta["namespace"], fresh | ({"subsets": subsets} if subsets else {})
        )
    elif (found.get("subsets") or []) != subsets:
        changed = {key: value for key, value in found.items() if key != "subsets"}
        store.update(ENDPOINTS, changed | ({"subsets": subsets} if subsets else {}))


def _address(pod: Object) -> dict[str, Any]:
    return {
        "ip": pod["status"]["podIP"],
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": _target(pod),
    }
