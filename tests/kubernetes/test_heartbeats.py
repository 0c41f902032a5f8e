"""What the lab's API makes of a node whose kubelet is silent, as recorded from a real one."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from aftershock.lab.kubernetes import Cluster, NodeInfo, Timing
from aftershock.lab.kubernetes.resources import LEASES, NODES, PODS

from .conftest import SleepRuntime

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
RECORDED = SHARED / "kubernetes" / "23-node-silent.json"


class Listening(SleepRuntime):
    """Kubelets that fall silent when they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: set[str] = set()

    def listens(self, node: str) -> bool:
        return node not in self.silent


async def silence() -> dict[str, Any]:
    """A node's life: well, silent, and well again."""
    runtime = Listening()
    timing = Timing(readiness_period_s=0.05, lease_renewal_s=0.2, node_grace_s=0.6)
    cluster = await Cluster([NodeInfo("node-a-2", "az-a", "10.0.1.2")], runtime, timing).start()
    store = cluster.store
    spec = {"nodeName": "node-a-2", "containers": [{"name": "main", "image": "x"}]}
    cluster.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}])

    def look() -> dict[str, Any]:
        node, pod = store.get(NODES, "", "node-a-2"), store.get(PODS, "default", "p")
        lease = store.get(LEASES, "kube-node-lease", "node-a-2")
        return {"node": node, "lease": lease, "ready": _ready(pod), "readyNode": _ready(node)}

    told = {}
    await asyncio.sleep(0.6)
    told["before"] = look()
    runtime.silent.add("node-a-2")
    await asyncio.sleep(0.4)
    told["at first"] = look()
    await asyncio.sleep(1.0)
    told["silent"] = look()
    runtime.silent.clear()
    await asyncio.sleep(0.6)
    told["after"] = look()
    await cluster.stop()
    return told


def _ready(item: dict[str, Any]) -> str:
    return next(one["status"] for one in item["status"]["conditions"] if one["type"] == "Ready")


def test_a_silent_node_becomes_unknown_and_comes_back() -> None:
    told = asyncio.run(silence())
    states = {when: (one["ready"], one["readyNode"]) for when, one in told.items()}
    assert states == {
        "before": ("True", "True"),
        "at first": ("True", "True"),
        "silent": ("False", "Unknown"),
        "after": ("True", "True"),
    }
    assert told["silent"]["lease"]["spec"] == told["at first"]["lease"]["spec"]
    assert (
        told["after"]["lease"]["spec"]["renewTime"] > told["silent"]["lease"]["spec"]["renewTime"]
    )
    assert "taints" not in told["after"]["node"]["spec"]
    if not RECORDED.exists():
        pytest.skip("the recordings of a real API server are not here to compare with")
    exchanges = json.loads(RECORDED.read_text())["exchanges"]
    real = {one["id"]: one["response"].get("body") for one in exchanges}
    kept = ("type", "status", "reason", "message")
    assert _plain(told["silent"]["node"]["status"]["conditions"], kept) == _plain(
        real["node-unknown"]["status"]["conditions"], kept
    )
    kept = ("key", "effect")
    assert _plain(told["silent"]["node"]["spec"]["taints"], kept) == _plain(
        real["node-unknown"]["spec"]["taints"], kept
    )
    assert set(told["silent"]["lease"]["spec"]) == set(real["lease"]["spec"])


def _plain(items: list[dict[str, Any]], kept: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{key: one[key] for key in kept} for one in items]
