"""Tables: what `kubectl get` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from aftershock.lab.kubernetes.resources import Resource
from aftershock.lab.kubernetes.store import Object

Row = list[Any]
# Name, type, priority (1: only with -o wide).
Column = tuple[str, str, int]


def _columns(plain: str, wide: str = "", whole: Sequence[str] = ()) -> tuple[Column, ...]:
    kinds = dict.fromkeys(whole, "integer")
    first = [(name, kinds.get(name, "string"), 0) for name in plain.split(",")]
    return (*first, *((name, "string", 1) for name in wide.split(",") if name))


def age(since: str | None) -> str:
    """The time since then as kubectl shows it."""
    if not since:
        return "<unknown>"
    form = "%Y-%m-%dT%H:%M:%S.%fZ" if "." in since else "%Y-%m-%dT%H:%M:%SZ"
    then = datetime.strptime(since, form).replace(tzinfo=UTC)
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{days}d"


def _age(item: Object) -> str:
    return age(item["metadata"].get("creationTimestamp"))


def _pod(item: Object) -> Row:
    spec, status = item["spec"], item["status"]
    containers = status.get("containerStatuses") or []
    ready = sum(container["ready"] for container in containers)
    restarts = sum(container["restartCount"] for container in containers)
    ends = [c["lastState"].get("terminated", {}).get("finishedAt") for c in containers]
    last = max(filter(None, ends), default=None)
    told = f"{restarts} ({age(last)} ago)" if restarts and last else str(restarts)
    return [
        item["metadata"]["name"],
        f"{ready}/{len(spec['containers'])}",
        pod_reason(item),
        told,
        _age(item),
        status.get("podIP", "<none>"),
        spec.get("nodeName", "<none>"),
        "<none>",
        "<none>",
    ]


def pod_reason(pod: Object) -> str:
    """What kubectl shows as a pod's status."""
    if "deletionTimestamp" in pod["metadata"]:
        over = pod["status"].get("phase") in ("Succeeded", "Failed")
        return "Terminating" if not over else _state_reason(pod)
    return _state_reason(pod)


def _state_reason(pod: Object) -> str:
    status = pod["status"]
    for container in status.get("containerStatuses") or ():
        state = container["state"]
        for kind in ("waiting", "terminated"):
            if kind in state:
                return str(state[kind].get("reason") or status["phase"])
    return str(status.get("reason") or status.get("phase", "Unknown"))


def _node(item: Object) -> Row:
    status = item.get("status") or {}
    info = status.get("nodeInfo") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    state = {"True": "Ready", "False": "NotReady"}.get(conditions.get("Ready", ""), "NotReady")
    if (item.get("spec") or {}).get("unschedulable"):
        state += ",SchedulingDisabled"
    addresses = {a["type"]: a["address"] for a in status.get("addresses") or ()}
    return [
        item["metadata"]["name"],
        state,
        "<none>",
        _age(item),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", "<none>"),
        "<none>",
        info.get("osImage", "<unknown>"),
        f"{info.get('kernelVersion', '<unknown>')} ({info.get('architecture', '')})",
        info.get("containerRuntimeVersion", "<unknown>"),
    ]


def _containers(item: Object) -> tuple[str, str, str]:
    containers = item["spec"]["template"]["spec"]["containers"]
    labels = (item["spec"].get("selector") or {}).get("matchLabels") or {}
    return (
        ",".join(container["name"] for container in containers),
        ",".join(container["image"] for container in containers),
        ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
    )


def _deployment(item: Object) -> Row:
    status = item.get("status") or {}
    ready = f"{status.get('readyReplicas', 0)}/{item['spec']['replicas']}"
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    name = item["metadata"]["name"]
    return [name, ready, updated, available, _age(item), *_containers(item)]


def _replicaset(item: Object) -> Row:
    status = item.get("status") or {}
    numbers = (item["spec"]["replicas"], status.get("replicas", 0), status.get("readyReplicas", 0))
    return [item["metadata"]["name"], *numbers, _age(item), *_containers(item)]


def _statefulset(item: Object) -> Row:
    ready = f"{(item.get('status') or {}).get('readyReplicas', 0)}/{item['spec']['replicas']}"
    return [item["metadata"]["name"], ready, _age(item), *_containers(item)[:2]]


_DAEMONS = {
    "Desired": "desiredNumberScheduled",
    "Current": "currentNumberScheduled",
    "Ready": "numberReady",
    "Up-to-date": "updatedNumberScheduled",
    "Available": "numberAvailable",
}


def _daemonset(item: Object) -> Row:
    status, spec = item.get("status") or {}, item["spec"]["template"]["spec"]
    numbers = [status.get(key, 0) for key in _DAEMONS.values()]
    chosen = ",".join(f"{k}={v}" for k, v in sorted((spec.get("nodeSelector") or {}).items()))
    return [item["metadata"]["name"], *numbers, chosen or "<none>", _age(item), *_containers(item)]


def _service(item: Object) -> Row:
    spec = item["spec"]
    ports = [f"{port['port']}/{port['protocol']}" for port in spec.get("ports") or ()]
    selector = ",".join(f"{k}={v}" for k, v in sorted((spec.get("selector") or {}).items()))
    name = item["metadata"]["name"]
    shown = ",".join(ports) or "<none>"
    return [
        name,
        spec["type"],
        spec["clusterIP"],
        "<none>",
        shown,
        _age(item),
        selector or "<none>",
    ]


def _endpoints(item: Object) -> Row:
    found = [
        f"{address['ip']}:{port['port']}"
        for subset in item.get("subsets") or ()
        for port in subset.get("ports") or ()
        for address in subset.get("addresses") or ()
    ]
    more = f" + {len(found) - 3} more..." if len(found) > 3 else ""
    return [item["metadata"]["name"], (",".join(found[:3]) + more) or "<none>", _age(item)]


def _slice(item: Object) -> Row:
    ports = ",".join(str(port["port"]) for port in item.get("ports") or ()) or "<unset>"
    found = [a for endpoint in item.get("endpoints") or () for a in endpoint["addresses"]]
    more = f" + {len(found) - 3} more..." if len(found) > 3 else ""
    shown = (",".join(found[:3]) + more) or "<unset>"
    return [item["metadata"]["name"], item["addressType"], ports, shown, _age(item)]


def _namespace(item: Object) -> Row:
    return [item["metadata"]["name"], item["status"]["phase"], _age(item)]


def _budget(item: Object) -> Row:
    spec = item.get("spec") or {}
    least, most = str(spec.get("minAvailable", "N/A")), str(spec.get("maxUnavailable", "N/A"))
    allowed = item["status"].get("disruptionsAllowed", 0)
    return [item["metadata"]["name"], least, most, allowed, _age(item)]


def _autoscaler(item: Object) -> Row:
    spec, status = item["spec"], item.get("status") or {}
    metric = spec["metrics"][0]["pods"]
    current = ((status.get("currentMetrics") or [{}])[0].get("pods") or {}).get("current") or {}
    return [
        item["metadata"]["name"],
        f"{spec['scaleTargetRef']['kind']}/{spec['scaleTargetRef']['name']}",
        f"{current.get('averageValue', '<unknown>')}/{metric['target']['averageValue']}",
        str(spec["minReplicas"]),
        spec["maxReplicas"],
        status.get("currentReplicas", 0),
        _age(item),
    ]


def _event(item: Object) -> Row:
    about = item["involvedObject"]
    source = item.get("source") or {}
    component = source.get("component") or item.get("reportingComponent", "")
    host = source.get("host") or item.get("reportingInstance", "")
    first = item.get("firstTimestamp") or item.get("eventTime")
    last = item.get("lastTimestamp") or first
    return [
        age(last),
        item.get("type", ""),
        item.get("reason", ""),
        f"{about['kind'].lower()}/{about['name']}",
        about.get("fieldPath", ""),
        f"{component}, {host}" if host else component,
        item.get("message", ""),
        age(first),
        item.get("count", 1),
        item["metadata"]["name"],
    ]


def _data(item: Object) -> Row:
    return [item["metadata"]["name"], len(item.get("data") or {}), _age(item)]


def _lease(item: Object) -> Row:
    holder = (item.get("spec") or {}).get("holderIdentity", "")
    return [item["metadata"]["name"], holder, _age(item)]


def _cron_job(item: Object) -> Row:
    spec, active = item["spec"], (item.get("status") or {}).get("active") or ()
    zone, suspended = spec.get("timeZone", "<none>"), str(spec.get("suspend", False))
    row = [item["metadata"]["name"], spec["schedule"], zone, suspended, len(active)]
    return [*row, "<none>", _age(item)]


_WIDE_WORKLOAD = "Containers,Images,Selector"
_TABLES: dict[str, tuple[tuple[Column, ...], Callable[[Object], Row]]] = {
    "pods": (
        _columns("Name,Ready,Status,Restarts,Age", "IP,Node,Nominated Node,Readiness Gates"),
        _pod,
    ),
    "nodes": (
        _columns(
            "Name,Status,Roles,Age,Version",
            "Internal-IP,External-IP,OS-Image,Kernel-Version,Container-Runtime",
        ),
        _node,
    ),
    "deployments": (_columns("Name,Ready,Up-to-date,Available,Age", _WIDE_WORKLOAD), _deployment),
    "replicasets": (
        _columns("Name,Desired,Current,Ready,Age", _WIDE_WORKLOAD, ("Desired", "Current", "Ready")),
        _replicaset,
    ),
    "daemonsets": (
        _columns(f"Name,{','.join(_DAEMONS)},Node Selector,Age", _WIDE_WORKLOAD, (*_DAEMONS,)),
        _daemonset,
    ),
    "statefulsets": (_columns("Name,Ready,Age", "Containers,Images"), _statefulset),
    "services": (_columns("Name,Type,Cluster-IP,External-IP,Port(s),Age", "Selector"), _service),
    "endpoints": (_columns("Name,Endpoints,Age"), _endpoints),
    "endpointslices": (_columns("Name,AddressType,Ports,Endpoints,Age"), _slice),
    "namespaces": (_columns("Name,Status,Age"), _namespace),
    "poddisruptionbudgets": (
        _columns(
            "Name,Min Available,Max Unavailable,Allowed Disruptions,Age",
            whole=("Allowed Disruptions",),
        ),
        _budget,
    ),
    "horizontalpodautoscalers": (
        _columns(
            "Name,Reference,Targets,MinPods,MaxPods,Replicas,Age", whole=("MaxPods", "Replicas")
        ),
        _autoscaler,
    ),
    "cronjobs": (
        _columns("Name,Schedule,Timezone,Suspend,Active,Last Schedule,Age", whole=("Active",)),
        _cron_job,
    ),
    "configmaps": (_columns("Name,Data,Age"), _data),
    "leases": (_columns("Name,Holder,Age"), _lease),
}
_EVENT_COLUMNS: tuple[Column, ...] = (
    *_columns("Last Seen,Type,Reason,Object"),
    *_columns("Subobject,Source"),
    *_columns("Message"),
    *_columns("First Seen,Count,Name"),
)
_WIDE_EVENT = ("Subobject", "Source", "First Seen", "Count", "Name")
_TABLES["events"] = (
    tuple((name, kind, int(name in _WIDE_EVENT)) for name, kind, _ in _EVENT_COLUMNS),
    _event,
)
_PLAIN = (_columns("Name,Age"), lambda item: [item["metadata"]["name"], _age(item)])


def table(
    resource: Resource,
    items: Sequence[Object],
    meta: dict[str, Any],
    include: str = "Metadata",
    with_columns: bool = True,
) -> Object:
    """The Table of these objects; a watch names the columns in its first event only."""
    columns, row = _TABLES.get(resource.plural, _PLAIN)
    definitions = [
        {
            "name": name,
            "type": kind,
            "format": "name" if name == "Name" else "",
            "description": f"{name} of the {resource.kind}",
            "priority": priority,
        }
        for name, kind, priority in columns
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": definitions if with_columns else None,
        "rows": [_row(row(item), item, include) for item in items],
    }


def _row(cells: Row, item: Object, include: str) -> Object:
    made: Object = {"cells": cells}
    phase = (item.get("status") or {}).get("phase")
    if item["kind"] == "Pod" and phase in ("Succeeded", "Failed"):
        told = "has completed successfully" if phase == "Succeeded" else "failed"
        condition = {"type": "Completed", "status": "True", "reason": phase}
        made["conditions"] = [{**condition, "message": f"The pod {told}."}]
    if include == "Object":
        return {**made, "object": item}
    if include == "None":
        return {**made, "object": None}
    return {**made, "object": partial(item)}


def partial(item: Object) -> Object:
    """An object's metadata alone."""
    head = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    return {**head, "metadata": item["metadata"]}
