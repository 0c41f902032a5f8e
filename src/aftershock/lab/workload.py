"""The lab's default workload: model servers, one a node, as a Deployment with a Service."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aftershock.lab.kubernetes import ApiServer, Cluster, NodeInfo
from aftershock.lab.kubernetes.resources import DEPLOYMENTS
from aftershock.lab.kubernetes.runtime import PodRuntime
from aftershock.lab.pods import MODEL_IMAGE
from aftershock.lab.settings import MODEL, NAMESPACE, SERVER_PORT, LabSettings

DEPLOYMENT = "model"
LABELS = {"app": "model"}
GRACE_S = 30


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
    return [
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


def _pod(settings: LabSettings) -> dict[str, Any]:
    return {
        "terminationGracePeriodSeconds": GRACE_S,
        "containers": [
            {
                "name": "server",
                "image": MODEL_IMAGE,
                "args": model_args(settings),
                "ports": [{"name": "http", "containerPort": SERVER_PORT}],
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
                "readinessProbe": {"httpGet": {"path": "/health", "port": SERVER_PORT}},
            }
        ],
    }


class Workload:
    """The Deployment, on a cluster of its own whose pods are the runtime's processes."""

    def __init__(self, settings: LabSettings, runtime: PodRuntime, lab_dir: Path) -> None:
        nodes = [NodeInfo(place.name, place.zone, place.ipv4) for place in settings.places()]
        self._settings = settings
        self._lab_dir = lab_dir
        self._cluster = Cluster(nodes, runtime)
        self._api = ApiServer(self._cluster)

    async def start(self) -> str:
        """Start the cluster, its API and the pods; return the kubeconfig's path."""
        await self._cluster.start()
        self._cluster.apply(manifests(self._settings))
        await self._api.start()
        return str(self._api.write_kubeconfig(self._lab_dir / "kubeconfig", NAMESPACE))

    def ready_replicas(self) -> int:
        """As the Deployment's status has it."""
        deployment = self._cluster.store.find(DEPLOYMENTS, NAMESPACE, DEPLOYMENT)
        return int(((deployment or {}).get("status") or {}).get("readyReplicas") or 0)
