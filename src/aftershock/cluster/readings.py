"""What a Kubernetes API says right now: pods that wait, endpoints, nodes' conditions, budgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aftershock.cluster.api import ZONE_LABEL
from aftershock.cluster.rest import Json, Rest
from aftershock.errors import InvalidInput

SERVICE_LABEL = "kubernetes.io/service-name"
NO_ZONE = "no zone"


def pending(rest: Rest, selector: str) -> list[Json]:
    """Pods that wait: {pod, node, why, message}.

    Without a node it is the scheduler that tells why (`Unschedulable` and its sentence); with one,
    a container does (`ImagePullBackOff`, `CreateContainerError`).
    """
    chosen = {"label_selector": selector, "field_selector": "status.phase=Pending"}
    waiting = rest.items(rest.core.list_namespaced_pod, rest.namespace, **chosen)
    return [_waiting(pod) for pod in waiting if "deletionTimestamp" not in pod["metadata"]]


def _waiting(pod: Json) -> Json:
    status, node = pod.get("status") or {}, (pod.get("spec") or {}).get("nodeName") or ""
    found: Mapping[str, Any] = {}
    if node:
        states = [c.get("state") or {} for c in _containers(status)]
        found = next((s["waiting"] for s in states if "waiting" in s), {})
    else:
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                found = condition
    why = found.get("reason") or ("ContainerCreating" if node else "NotYetConsidered")
    message = found.get("message") or ""
    return {"pod": pod["metadata"]["name"], "node": node, "why": why, "message": message}


def failing(rest: Rest, selector: str) -> list[Json]:
    """Containers that ended in failure and are not ready again.

    {pod, node, container, why, restarts, exit_code, message}: `why` as kubectl shows it
    (CrashLoopBackOff, Error); `message` is the container's last, where its policy keeps one
    (terminationMessagePolicy: FallbackToLogsOnError).
    """
    pods = rest.items(rest.core.list_namespaced_pod, rest.namespace, label_selector=selector)
    return [
        _failure(pod, container, end)
        for pod in pods
        for container in _containers(pod.get("status") or {})
        if not container.get("ready") and (end := _end(container)) and end["exitCode"]
    ]


def _end(container: Json) -> Mapping[str, Any] | None:
    states = (container.get(key) or {} for key in ("state", "lastState"))
    return next((state["terminated"] for state in states if "terminated" in state), None)


def _failure(pod: Json, container: Json, end: Mapping[str, Any]) -> Json:
    waiting = (container.get("state") or {}).get("waiting") or {}
    return {
        "pod": pod["metadata"]["name"],
        "node": (pod.get("spec") or {}).get("nodeName") or "",
        "container": container["name"],
        "why": waiting.get("reason") or end.get("reason") or "Error",
        "restarts": container.get("restartCount", 0),
        "exit_code": end["exitCode"],
        "message": end.get("message") or "",
    }


def _containers(status: Mapping[str, Any]) -> list[Json]:
    kinds = ("initContainerStatuses", "containerStatuses")
    return [container for kind in kinds for container in status.get(kind) or ()]


def endpoints_by_zone(rest: Rest, service: str = "") -> dict[str, dict[str, int]]:
    """Zone → {ready, serving, terminating, not_ready}: how many pods of a service, by its slices.

    `serving` passes its probe, also while `terminating`; `ready` is serving and not terminating.
    Each pod counts once, in however many slices and address families it is. Without a name the
    namespace's only service with endpoints is meant. `InvalidInput` names those there are.
    """
    name = service or _only_service(rest)
    chosen = {"label_selector": f"{SERVICE_LABEL}={name}"}
    slices = list(
        rest.items(rest.discovery.list_namespaced_endpoint_slice, rest.namespace, **chosen)
    )
    if not slices:
        known = ", ".join(_services(rest)) or "none"
        raise InvalidInput(
            f"no service {name!r} has endpoints in {rest.namespace}: there is {known}"
        )
    zones: dict[str, str] | None = None
    if rest.zone_label != ZONE_LABEL:  # slices know only of that one
        nodes = rest.items(rest.core.list_node)
        zones = {node["metadata"]["name"]: zone_of(node, rest.zone_label) for node in nodes}
    pods: dict[str, tuple[str, Json]] = {}
    for item in slices:
        for endpoint in item.get("endpoints") or ():
            target = (endpoint.get("targetRef") or {}).get("uid") or endpoint["addresses"][0]
            told = endpoint.get("zone") if zones is None else zones.get(endpoint.get("nodeName"))
            pods[target] = (told or NO_ZONE, endpoint.get("conditions") or {})
    return _counted(pods)


def _counted(pods: Mapping[str, tuple[str, Json]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for zone, conditions in pods.values():
        names = ("ready", "serving", "terminating", "not_ready")
        count = found.setdefault(zone, dict.fromkeys(names, 0))
        ready = conditions.get("ready") is not False  # unknown counts as ready, by the API's rule
        count["ready" if ready else "not_ready"] += 1
        count["serving"] += conditions.get("serving", ready) is not False
        count["terminating"] += conditions.get("terminating") is True
    return found


def _services(rest: Rest) -> list[str]:
    slices = rest.items(rest.discovery.list_namespaced_endpoint_slice, rest.namespace)
    names = {(item["metadata"].get("labels") or {}).get(SERVICE_LABEL) for item in slices}
    return sorted(name for name in names if name)


def _only_service(rest: Rest) -> str:
    names = _services(rest)
    if len(names) != 1:
        told = ", ".join(names) or "none"
        raise InvalidInput(f"say which service: {rest.namespace} has endpoints of {told}")
    return names[0]


def node_conditions(rest: Rest, zone: str = "") -> dict[str, Json]:
    """Node → {zone, ready, conditions, unschedulable, taints}, of a zone or of all.

    `conditions`: type → True, False or None (Unknown: the node has gone silent). `InvalidInput`
    names the zones there are.
    """
    found = {}
    for node in rest.items(rest.core.list_node):
        spec = node.get("spec") or {}
        conditions = {
            c["type"]: {"True": True, "False": False}.get(c["status"])
            for c in (node.get("status") or {}).get("conditions") or ()
        }
        found[node["metadata"]["name"]] = {
            "zone": zone_of(node, rest.zone_label),
            "ready": conditions.get("Ready") is True,
            "conditions": conditions,
            "unschedulable": bool(spec.get("unschedulable")),
            "taints": [_taint(taint) for taint in spec.get("taints") or ()],
        }
    return chosen_zone(found, zone)


def chosen_zone(nodes: dict[str, Json], zone: str) -> dict[str, Json]:
    """Those of a zone; all without one. `InvalidInput` where no node has it."""
    chosen = {name: node for name, node in nodes.items() if not zone or node["zone"] == zone}
    if not chosen:
        zones = ", ".join(sorted({node["zone"] for node in nodes.values() if node["zone"]}))
        raise InvalidInput(f"no node is in zone {zone!r}: there is {zones or 'no zone at all'}")
    return chosen


def zone_of(node: Mapping[str, Any], label: str) -> str:
    """A node's zone by the cluster's zone label; empty where it has none."""
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    return labels.get(label, "")


def _taint(taint: Mapping[str, Any]) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"


def disruption_headroom(rest: Rest, budget: str = "") -> dict[str, Json]:
    """Budget → {allowed, healthy, desired, expected}: how many pods may be evicted now.

    Of one PodDisruptionBudget or of all in the namespace. `InvalidInput` where there is none such.
    """
    items = rest.items(rest.policy.list_namespaced_pod_disruption_budget, rest.namespace)
    found = {}
    for item in items:
        status = item.get("status") or {}
        found[item["metadata"]["name"]] = {
            "allowed": int(status.get("disruptionsAllowed") or 0),
            "healthy": int(status.get("currentHealthy") or 0),
            "desired": int(status.get("desiredHealthy") or 0),
            "expected": int(status.get("expectedPods") or 0),
        }
    if not found or (budget and budget not in found):
        known = ", ".join(sorted(found)) or "none"
        what = f"budget {budget!r}" if budget else "PodDisruptionBudget"
        raise InvalidInput(f"there is no {what} in {rest.namespace}: there is {known}")
    return {budget: found[budget]} if budget else found


def oom_kills(rest: Rest, selector: str) -> dict[str, int]:
    """Pod → containers whose present or last end was the OOM killer's; pods without any left out.

    An API remembers only the last end of a container; a watch counts them all.
    """
    found: dict[str, int] = {}
    for pod in rest.items(rest.core.list_namespaced_pod, rest.namespace, label_selector=selector):
        for container in _containers(pod.get("status") or {}):
            ends = [container.get("state") or {}, container.get("lastState") or {}]
            if any((end.get("terminated") or {}).get("reason") == "OOMKilled" for end in ends):
                name = pod["metadata"]["name"]
                found[name] = found.get(name, 0) + 1
    return found
