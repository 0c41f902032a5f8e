"""What a server fills in when a client leaves it out."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

from aftershock.lab.kubernetes.resources import Resource

_SILENT_NODE_S = 300


def fill(resource: Resource, item: dict[str, Any]) -> dict[str, Any]:
    """The object as it is stored."""
    item = copy.deepcopy(item)
    filler = _FILLERS.get(resource.plural)
    if filler:
        filler(item)
    return item


def _namespace(item: dict[str, Any]) -> None:
    labels = item["metadata"].setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = item["metadata"]["name"]
    item.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    item.setdefault("status", {"phase": "Active"})


def _pod(item: dict[str, Any]) -> None:
    spec = item["spec"]
    pod_spec(spec)
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", "default")
    _mount_credentials(item["metadata"]["name"], spec)
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(toleration.get("key") in (key, None) for toleration in tolerations):
            tolerations.append(
                {
                    "key": key,
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": _SILENT_NODE_S,
                }
            )
    spec.setdefault("priority", 0)
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    item["status"] = {"phase": "Pending", "qosClass": _quality(spec)}


def _mount_credentials(name: str, spec: dict[str, Any]) -> None:
    """The volume that every pod has; some clients cannot take a pod without volumes."""
    volumes = spec.setdefault("volumes", [])
    if any(volume["name"].startswith("kube-api-access-") for volume in volumes):
        return
    volume = "kube-api-access-" + hashlib.sha256(name.encode()).hexdigest()[:5]
    token = {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    volumes.append({"name": volume, "projected": {"sources": [token], "defaultMode": 420}})
    where = "/var/run/secrets/kubernetes.io/serviceaccount"
    for container in spec["containers"]:
        mounts = container.setdefault("volumeMounts", [])
        mounts.append({"name": volume, "readOnly": True, "mountPath": where})


def pod_spec(spec: dict[str, Any]) -> None:
    """Fill in a pod's or a template's spec."""
    for container in spec["containers"]:
        container.setdefault("resources", {})
        resources = container["resources"]
        if "limits" in resources:
            resources["requests"] = {**resources["limits"], **resources.get("requests", {})}
        for port in container.get("ports") or ():
            port.setdefault("protocol", "TCP")
        if probe := container.get("readinessProbe"):
            if "httpGet" in probe:
                probe["httpGet"].setdefault("path", "/")
                probe["httpGet"].setdefault("scheme", "HTTP")
            for key, value in _PROBE.items():
                probe.setdefault(key, value)
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("imagePullPolicy", "IfNotPresent")
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")


_PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}


def _quality(spec: dict[str, Any]) -> str:
    asked = [container["resources"] for container in spec["containers"]]
    if not any(resources.get("requests") or resources.get("limits") for resources in asked):
        return "BestEffort"
    full = all(
        {"cpu", "memory"} <= set(r.get("limits") or {}) and r.get("requests") == r.get("limits")
        for r in asked
    )
    return "Guaranteed" if full else "Burstable"


def _deployment(item: dict[str, Any]) -> None:
    spec = item["spec"]
    spec.setdefault("replicas", 1)
    pod_spec(spec["template"]["spec"])
    strategy = spec.setdefault("strategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    item.setdefault("status", {})


def _replicaset(item: dict[str, Any]) -> None:
    item["spec"].setdefault("replicas", 1)
    pod_spec(item["spec"]["template"]["spec"])
    item.setdefault("status", {"replicas": 0})


def _daemonset(item: dict[str, Any]) -> None:
    spec = item["spec"]
    spec.setdefault("revisionHistoryLimit", 10)
    strategy = spec.setdefault("updateStrategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    pod_spec(spec["template"]["spec"])
    numbers = ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled")
    item.setdefault("status", dict.fromkeys((*numbers, "numberReady"), 0))


def _statefulset(item: dict[str, Any]) -> None:
    spec = item["spec"]
    for key, value in (("replicas", 1), ("revisionHistoryLimit", 10)):
        spec.setdefault(key, value)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    spec.setdefault("updateStrategy", {"type": "RollingUpdate"})
    pod_spec(spec["template"]["spec"])
    item.setdefault("status", {"replicas": 0, "availableReplicas": 0})


def _service(item: dict[str, Any]) -> None:
    spec = item["spec"]
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])
    meta = item["metadata"]
    digest = hashlib.sha256(f"{meta.get('namespace')}/{meta['name']}".encode()).digest()
    spec.setdefault("clusterIP", f"10.96.{digest[0]}.{digest[1] or 1}")
    spec.setdefault("clusterIPs", [spec["clusterIP"]])
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    item.setdefault("status", {"loadBalancer": {}})


def _job(item: dict[str, Any]) -> None:
    spec = item["spec"]
    pod_spec(spec["template"]["spec"])
    for key, value in (("parallelism", 1), ("completions", 1), ("backoffLimit", 6)):
        spec.setdefault(key, value)
    item.setdefault("status", {})


def _cron_job(item: dict[str, Any]) -> None:
    """Kept and shown; nothing in the lab starts its Jobs."""
    spec = item["spec"]
    for key, value in (
        ("concurrencyPolicy", "Allow"),
        ("suspend", False),
        ("successfulJobsHistoryLimit", 3),
        ("failedJobsHistoryLimit", 1),
    ):
        spec.setdefault(key, value)
    pod_spec(spec["jobTemplate"]["spec"]["template"]["spec"])
    item.setdefault("status", {})


def _budget(item: dict[str, Any]) -> None:
    item.setdefault("spec", {})
    item.setdefault(
        "status",
        {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0},
    )


def _autoscaler(item: dict[str, Any]) -> None:
    item["spec"].setdefault("minReplicas", 1)
    item.setdefault("status", {"desiredReplicas": 0, "currentMetrics": None})


def _node(item: dict[str, Any]) -> None:
    item.setdefault("spec", {})
    item.setdefault("status", {})


_FILLERS = {
    "namespaces": _namespace,
    "nodes": _node,
    "pods": _pod,
    "deployments": _deployment,
    "replicasets": _replicaset,
    "statefulsets": _statefulset,
    "daemonsets": _daemonset,
    "services": _service,
    "jobs": _job,
    "cronjobs": _cron_job,
    "poddisruptionbudgets": _budget,
    "horizontalpodautoscalers": _autoscaler,
}
