"""The lab's default workload: model servers, one a node, as a Deployment with a Service."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aftershock.lab.kubernetes import ApiServer, Cluster, NodeInfo
from aftershock.lab.kubernetes.resources import DEPLOYMENTS
from aftershock.lab.netns import entered, path_of
from aftershock.lab.pods import GPU_UTILISATION, MODEL_IMAGE, ProcessRuntime
from aftershock.lab.settings import EDGE_PLACE, MODEL, NAMESPACE, SERVER_PORT, LabSettings

DEPLOYMENT = "model"
LABELS = {"app": "model"}
GRACE_S = 30
OWN_NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "aftershock"}}


def _listening() -> socket.socket:
    """A socket on the bridge, which pods reach from their nodes."""
    with entered(path_of(EDGE_PLACE.name)):
        return socket.create_server((EDGE_PLACE.ipv4, 0))


def model_args(settings: LabSettings) -> list[str]:
    """The model server's arguments."""
    return [
        *("--served-model-name", MODEL),
        *("--seed", str(settings.seed)),
        *("--startup-s", str(settings.server_startup_s)),
        *("--gpu-memory-utilization", str(settings.gpu_memory_utilization)),
        *settings.model_args,
    ]


def manifests(settings: LabSettings) -> list[Mapping[str, Any]]:
    """What `kubectl apply` would be given."""
    meta = {"name": DEPLOYMENT, "namespace": NAMESPACE, "labels": LABELS}
    port = {"name": "http", "port": SERVER_PORT}
    scaled = [_autoscaler(settings)] if settings.autoscale_gpu_percent else []
    return [
        *scaled,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": settings.replicas,
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}, "spec": _pod(settings)},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": meta,
            "spec": {"selector": LABELS, "ports": [{**port, "targetPort": SERVER_PORT}]},
        },
    ]


def _autoscaler(settings: LabSettings) -> dict[str, Any]:
    """Between the replicas to start with and one a node, by the mean utilisation of their GPUs."""
    target = {"type": "AverageValue", "averageValue": f"{settings.autoscale_gpu_percent:g}"}
    pods = {"metric": {"name": GPU_UTILISATION}, "target": target}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": DEPLOYMENT, "namespace": NAMESPACE, "labels": LABELS},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": DEPLOYMENT},
            "minReplicas": settings.replicas,
            "maxReplicas": settings.zones * settings.nodes_per_zone,
            "metrics": [{"type": "Pods", "pods": pods}],
            # A second's utilisation is noisy: what two looks agree on counts.
            "behavior": {"scaleUp": {"stabilizationWindowSeconds": 3}},
        },
    }


def _pod(settings: LabSettings) -> dict[str, Any]:
    return {
        "terminationGracePeriodSeconds": GRACE_S,
        "containers": [
            {
                "name": "server",
                "image": MODEL_IMAGE,
                "args": model_args(settings),
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "ports": [{"name": "http", "containerPort": SERVER_PORT}],
                "resources": {"limits": {"nvidia.com/gpu": str(settings.gpus_per_node)}},
                "readinessProbe": {"httpGet": {"path": "/health", "port": SERVER_PORT}},
            }
        ],
    }


class Workload:
    """The Deployment, on a cluster of its own whose pods are the runtime's processes."""

    def __init__(self, settings: LabSettings, runtime: ProcessRuntime, lab_dir: Path) -> None:
        cards = settings.gpus_per_node
        nodes = [NodeInfo(one.name, one.zone, one.ipv4, cards) for one in settings.places()]
        self._settings = settings
        self._lab_dir = lab_dir
        self._cluster = Cluster(nodes, runtime, metric=runtime.metric)
        self._api = ApiServer(self._cluster, inside=_listening())

    async def start(self) -> str:
        """Start the cluster, its API and the pods; return the kubeconfig's path."""
        await self._cluster.start()
        self._cluster.apply([OWN_NAMESPACE, *manifests(self._settings)])
        await self._api.start()
        self._api.write_account(self._lab_dir / "account")
        return str(self._api.write_kubeconfig(self._lab_dir / "kubeconfig", NAMESPACE))

    def ready_replicas(self) -> int:
        """As the Deployment's status has it."""
        deployment = self._cluster.store.find(DEPLOYMENTS, NAMESPACE, DEPLOYMENT)
        return int(((deployment or {}).get("status") or {}).get("readyReplicas") or 0)
