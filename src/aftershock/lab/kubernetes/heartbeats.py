"""Nodes' leases, and what becomes of a node whose kubelet is silent.

A kubelet that listens renews its node's lease. When it doesn't for the grace period, the node's
conditions become Unknown, it is tainted as unreachable and its pods count as unready; what they run
runs on. When it listens again, all of that is taken back, and the kubelet tells what it missed.
"""

from __future__ import annotations

import asyncio
import copy
from datetime import UTC, datetime
from typing import Any

from aftershock.lab.kubernetes.events import Recorder
from aftershock.lab.kubernetes.kubelet import Kubelets
from aftershock.lab.kubernetes.nodes import conditions, taints_of
from aftershock.lab.kubernetes.resources import LEASES, NODES, PODS
from aftershock.lab.kubernetes.runtime import NodeRuntime
from aftershock.lab.kubernetes.store import Object, Store, timestamp

_LOOK_S = 0.25
_NAMESPACE = "kube-node-lease"
_DURATION_S = 40
_UNREACHABLE = "node.kubernetes.io/unreachable"


class Heartbeats:
    """Looks after every node, several times a second."""

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        kubelets: Kubelets,
        renew_s: float,
        grace_s: float,
    ) -> None:
        self._store, self._recorder, self._kubelets = store, recorder, kubelets
        self._renew_s, self._grace_s = renew_s, grace_s
        self._renewed: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="heartbeats")

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        runtime = self._kubelets.runtime
        while True:
            now = asyncio.get_running_loop().time()
            for node in self._store.all_of(NODES):
                name = node["metadata"]["name"]
                if not isinstance(runtime, NodeRuntime) or runtime.listens(name):
                    self._kubelets.hear(name)
                    if now - self._renewed.get(name, -self._renew_s) >= self._renew_s:
                        self._renewed[name] = now
                        self._renew(node)
                    self._recover(node)
                else:
                    self._kubelets.silence(name)
                    if now - self._renewed.get(name, now) > self._grace_s:
                        self._lose(node)
            await asyncio.sleep(_LOOK_S)

    def _renew(self, node: Object) -> None:
        name = node["metadata"]["name"]
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": _DURATION_S, "renewTime": moment}
        if lease := self._store.find(LEASES, _NAMESPACE, name):
            self._store.update(LEASES, {**lease, "spec": spec})
            return
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"]["uid"]}
        meta = {"name": name, "namespace": _NAMESPACE, "ownerReferences": [owner]}
        self._store.create(LEASES, {"metadata": meta, "spec": spec})

    def _lose(self, node: Object) -> None:
        if _ready(node) == "Unknown":
            return
        self._write(node, "Unknown")
        name = node["metadata"]["name"]
        self._recorder.record(
            node, "NodeNotReady", f"Node {name} status is now: NodeNotReady", "node-controller"
        )
        for pod in self._store.all_of(PODS):
            if pod["spec"].get("nodeName") == name:
                self._unready(pod)

    def _recover(self, node: Object) -> None:
        if _ready(node) == "Unknown":
            self._write(node, "True")

    def _write(self, node: Object, ready: str) -> None:
        changed = copy.deepcopy(node)
        before = {one["type"]: one for one in node["status"]["conditions"]}
        changed["status"]["conditions"] = conditions(ready == "Unknown", before)
        kept = [taint for taint in taints_of(node) if taint["key"] != _UNREACHABLE]
        if ready == "Unknown":
            kept += [
                {"key": _UNREACHABLE, "effect": effect, "timeAdded": timestamp()}
                for effect in ("NoSchedule", "NoExecute")
            ]
        changed["spec"]["taints"] = kept
        if not kept:
            del changed["spec"]["taints"]
        self._store.update(NODES, changed)

    def _unready(self, pod: Object) -> None:
        changed = copy.deepcopy(pod)
        for one in (changed.get("status") or {}).get("conditions") or ():
            if one["type"] == "Ready" and one["status"] == "True":
                one |= {"status": "False", "lastTransitionTime": timestamp()}
        if self._store.update(PODS, changed) is not pod:
            self._recorder.record(
                pod, "NodeNotReady", "Node is not ready", "node-controller", warning=True
            )


def _ready(node: Object) -> Any:
    found = (node.get("status") or {}).get("conditions") or ()
    return next((one["status"] for one in found if one["type"] == "Ready"), None)
