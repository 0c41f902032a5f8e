"""The emulated cluster: nodes, the objects on them, and the controllers that keep them in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aftershock.lab.kubernetes.autoscalers import Autoscalers, Metric
from aftershock.lab.kubernetes.controllers import Controllers
from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.heartbeats import Heartbeats
from aftershock.lab.kubernetes.kubelet import Kubelets
from aftershock.lab.kubernetes.nodes import node_object
from aftershock.lab.kubernetes.resources import NAMESPACES, NODES, by_kind
from aftershock.lab.kubernetes.runtime import PodRuntime
from aftershock.lab.kubernetes.status import Refusal
from aftershock.lab.kubernetes.store import Object, Store
from aftershock.lab.kubernetes.verbs import Verbs


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node to start with."""

    name: str
    zone: str
    address: str
    gpus: int = 1
    region: str = "lab"


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient the emulated kubelets are, in seconds."""

    readiness_period_s: float = 0.25
    backoff_first_s: float = 10.0
    backoff_most_s: float = 300.0
    autoscaler_period_s: float = 2.0  # a real one's default is 15
    lease_renewal_s: float = 10.0
    node_grace_s: float = 50.0


class Cluster:
    """A cluster within one asyncio loop. `start` before anything else, `stop` at the end."""

    def __init__(
        self,
        nodes: Sequence[NodeInfo],
        runtime: PodRuntime,
        timing: Timing | None = None,
        metric: Metric = lambda uid, name: None,
    ) -> None:
        self.store = Store()
        self.recorder = Recorder(self.store)
        self.verbs = Verbs(self.store, self.recorder)
        timing = timing or Timing()
        self.environment: dict[str, str] = {}  # of every pod: how the API is reached from there
        self.runtime = runtime
        self._nodes = nodes
        self._kubelets = Kubelets(
            self.store,
            runtime,
            self.recorder,
            self.environment,
            readiness_period_s=timing.readiness_period_s,
            backoff_first_s=timing.backoff_first_s,
            backoff_most_s=timing.backoff_most_s,
        )
        self.kubelets = self._kubelets
        self._heartbeats = Heartbeats(
            self.store, self.recorder, self._kubelets, timing.lease_renewal_s, timing.node_grace_s
        )
        self._controllers = Controllers(self.store, self.verbs, self.recorder)
        self.autoscalers = Autoscalers(
            self.store, self.verbs, self.recorder, metric, timing.autoscaler_period_s
        )

    async def start(self) -> Cluster:
        """Register the nodes and set the controllers going."""
        for name in ("default", "kube-node-lease", "kube-public", "kube-system"):
            self.verbs.create(NAMESPACES, "", {"metadata": {"name": name}})
        for node in self._nodes:
            self.store.create(
                NODES,
                node_object(node.name, node.zone, node.region, node.address, node.gpus),
            )
        self._kubelets.start()
        self._heartbeats.start()
        self._controllers.start()
        self.autoscalers.start()
        return self

    def apply(self, manifests: Sequence[Mapping[str, Any]]) -> list[Object]:
        """Create these objects, or replace the spec of those that exist; a namespace is made up
        for objects that name one that doesn't exist."""
        return [self._apply(dict(manifest)) for manifest in manifests]

    def _apply(self, manifest: dict[str, Any]) -> Object:
        resource = by_kind(manifest.get("apiVersion", ""), manifest.get("kind", ""))
        if resource is None:
            raise ValueError(f"no such kind: {manifest.get('apiVersion')} {manifest.get('kind')}")
        namespace = ""
        if resource.namespaced:
            namespace = manifest["metadata"].get("namespace", "default")
            if self.store.find(NAMESPACES, "", namespace) is None:
                self.verbs.create(NAMESPACES, "", {"metadata": {"name": namespace}})
        try:
            return self.verbs.create(resource, namespace, manifest)
        except Refusal as refusal:
            if refusal.reason != "AlreadyExists":
                raise
        return self.verbs.replace(resource, namespace, manifest["metadata"]["name"], manifest)

    async def stop(self) -> None:
        """Stop the controllers and end every pod's process at once."""
        await self.autoscalers.stop()
        await self._heartbeats.stop()
        await self._controllers.stop()
        await self._kubelets.stop()
