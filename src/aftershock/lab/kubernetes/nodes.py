"""How a node looks, and what its taints mean for pods."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from typing import Any

from aftershock.lab.kubernetes.store import timestamp

GPU = "nvidia.com/gpu"
KUBELET_VERSION = "v1.36.2"
_PODS = 110
_STOPPED = "Kubelet stopped posting node status."
_CONDITIONS = (
    (
        "MemoryPressure",
        "False",
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
    ),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
)


def node_object(name: str, zone: str, region: str, address: str, gpus: int) -> dict[str, Any]:
    """A node as its kubelet registers it."""
    memory_kib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
    capacity = {
        "cpu": str(os.cpu_count() or 1),
        "ephemeral-storage": "104857600Ki",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        "memory": f"{memory_kib}Ki",
        GPU: str(gpus),
        "pods": str(_PODS),
    }
    labels = {
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/region": region,
        "topology.kubernetes.io/zone": zone,
    }
    if gpus:
        labels["nvidia.com/gpu.present"] = "true"
    return {
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {
                "node.alpha.kubernetes.io/ttl": "0",
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            },
        },
        "spec": {},
        "status": {
            "capacity": capacity,
            "allocatable": dict(capacity),
            "conditions": [_condition(*condition) for condition in _CONDITIONS],
            "addresses": [
                {"type": "InternalIP", "address": address},
                {"type": "Hostname", "address": name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": _node_info(),
            "images": [],
        },
    }


def conditions(silent: bool, before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A node's conditions, as its kubelet has them or as they are when it is silent."""
    made = []
    for kind, *known in _CONDITIONS:
        status, reason, message = ("Unknown", "NodeStatusUnknown", _STOPPED) if silent else known
        one = _condition(kind, status, reason, message)
        was = before.get(kind, {})
        if silent and was:
            one["lastHeartbeatTime"] = was["lastHeartbeatTime"]
        if was.get("status") == status:
            one["lastTransitionTime"] = was["lastTransitionTime"]
        made.append(one)
    return made


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    now = timestamp()
    return {
        "type": kind,
        "status": status,
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
        "reason": reason,
        "message": message,
    }


def _node_info() -> dict[str, Any]:
    return {
        "machineID": "0" * 32,
        "systemUUID": "0" * 32,
        "bootID": "00000000-0000-0000-0000-000000000000",
        "kernelVersion": platform.release(),
        "osImage": "Linux",
        "containerRuntimeVersion": "process://1",
        "kubeletVersion": KUBELET_VERSION,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": "amd64",
    }


def ready(node: Mapping[str, Any]) -> bool:
    """Whether the node says so."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def zone_of(node: Mapping[str, Any] | None) -> str:
    """The node's zone; empty when it has none."""
    labels: Mapping[str, str] = ((node or {}).get("metadata") or {}).get("labels") or {}
    return labels.get("topology.kubernetes.io/zone", "")


def taints_of(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The node's taints."""
    return (node.get("spec") or {}).get("taints") or []


def tolerations_for(pod: Mapping[str, Any], taint: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The pod's tolerations that cover the taint; none: it is not tolerated."""
    tolerations: Iterable[Mapping[str, Any]] = pod["spec"].get("tolerations") or ()
    return [toleration for toleration in tolerations if _covers(toleration, taint)]


def _covers(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("key") and toleration["key"] != taint["key"]:
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    same = (toleration.get("value") or "") == (taint.get("value") or "")
    return bool(toleration.get("key")) and same


def wants_node(pod: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether the pod's required node affinity, if it has one, lets it be on the node."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    labels = node["metadata"].get("labels") or {}
    fields = {"metadata.name": node["metadata"]["name"]}
    return any(
        all(_meets(one, labels) for one in term.get("matchExpressions") or ())
        and all(_meets(one, fields) for one in term.get("matchFields") or ())
        for term in required["nodeSelectorTerms"]
    )


def _meets(one: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(one["key"]), one.get("values") or ()
    match one["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False  # Gt and Lt: nothing of ours asks for them


def gpus_asked(pod: Mapping[str, Any]) -> int:
    """How many GPUs the pod needs."""
    asked = 0
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        want = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
        asked += int(want.get(GPU, 0))
    return asked
