"""A real API server over a real socket, whose pods are `sleep` processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock.lab.kubernetes import ApiServer, Cluster, NodeInfo, Timing
from aftershock.lab.kubernetes.runtime import PodSpec
from aftershock.ledger import Ledger

ZONES = ("az-a", "az-b", "az-c")


class SleepRuntime:
    """Pods as `sleep` processes; ready as soon as they run, unless told otherwise."""

    def __init__(self) -> None:
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.pids: set[int] = set()
        self.unready: set[str] = set()
        self._started = 0

    async def start(self, pod: PodSpec) -> str:
        command = pod.args or ("sleep", "1000")
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **pod.env})
        self.processes[pod.uid] = process
        self.pids.add(process.pid)
        self._started += 1
        return f"10.1.0.{self._started}"

    async def wait(self, uid: str) -> int:
        return await self.processes[uid].wait()

    async def is_ready(self, uid: str) -> bool:
        return uid not in self.unready and self.processes[uid].returncode is None

    async def stop(self, uid: str, grace_s: float) -> None:
        process = self.processes.get(uid)
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM if grace_s else signal.SIGKILL)
        try:
            async with asyncio.timeout(grace_s or None):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


class Lab:
    """A cluster in a thread of its own, and ways to talk to it."""

    timing = Timing(readiness_period_s=0.05, backoff_first_s=0.3)

    def __init__(self, folder: Path, runtime: SleepRuntime | None = None) -> None:
        self.runtime: Any = runtime or SleepRuntime()
        self.kubeconfig = folder / "kubeconfig"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.cluster: Cluster
        self.server: ApiServer
        self.do(self._up())

    def do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _up(self) -> None:
        nodes = [
            NodeInfo(f"node-{zone[-1]}-{n}", zone, f"10.0.{z}.{n}", gpus=2)
            for z, zone in enumerate(ZONES, 1)
            for n in (1, 2)
        ]
        self.cluster = await Cluster(nodes, self.runtime, self.timing).start()
        self.server = await ApiServer(self.cluster).start()
        self.server.write_kubeconfig(self.kubeconfig, namespace="shop")
        self.server.write_account(self.kubeconfig.with_name("service-account"))

    async def _apply(self, manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self.cluster.apply(manifests)

    def apply(self, *manifests: dict[str, Any]) -> list[dict[str, Any]]:
        return self.do(self._apply(list(manifests)))

    def kubectl(self, *arguments: str, code: int = 0, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=40,
            input=stdin,
            env={**os.environ, "KUBECACHEDIR": str(self.kubeconfig.parent / "cache")},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def down(self) -> None:
        self.do(self.server.stop())
        self.do(self.cluster.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


def until(truth: Callable[[], Any], within_s: float = 30.0) -> Any:
    """Wait until it is true; a busy machine has plenty of time."""
    end = time.monotonic() + within_s
    while not (found := truth()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
    return found


def deployment(name: str = "web", replicas: int = 6, **spec: Any) -> dict[str, Any]:
    labels = {"app": name, "tier": "front"}
    container = {
        "name": "web",
        "image": "example.local/web:1",
        "command": ["sleep", "1000"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {
            "requests": {"cpu": "10m", "memory": "8Mi"},
            "limits": {"nvidia.com/gpu": "1"},
        },
        "readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1},
    }
    pod = {"containers": [container], "terminationGracePeriodSeconds": 10, **spec}
    template = {"metadata": {"labels": labels}, "spec": pod}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": template,
        },
    }


def service(name: str = "web") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ledgers lie in the test's own folder."""
    monkeypatch.setenv("AFTERSHOCK_STATE", str(tmp_path / "state"))


@pytest.fixture
def book(state: None) -> Iterator[Ledger]:
    book = Ledger.open("run-1")
    yield book
    book.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    port = int(lab.server.url.rsplit(":", 1)[1])
    try:
        yield lab
    finally:
        lab.down()
    assert not [pid for pid in lab.runtime.pids if Path(f"/proc/{pid}").exists()]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Any]:
    """A namespace of the lab, or of the genuine cluster that these tests were told of."""
    from .sites import site_in

    with site_in(tmp_path) as made:
        yield made


@pytest.fixture
def core(lab: Lab) -> Iterator[Any]:
    from kubernetes import client, config

    settings = client.Configuration()
    config.load_kube_config(str(lab.kubeconfig), client_configuration=settings)
    with client.ApiClient(settings) as api:
        yield client.CoreV1Api(api)
        api.rest_client.pool_manager.clear()


@pytest.fixture
def apps(core: Any) -> Any:
    from kubernetes import client

    return client.AppsV1Api(core.api_client)


@pytest.fixture
def web(lab: Lab, core: Any) -> Lab:
    """The lab with six ready replicas behind a service."""
    lab.apply(deployment(), service())
    until(lambda: len(ready_pods(core)) == 6)
    return lab


def ready_pods(core: Any, selector: str = "app=web") -> list[Any]:
    pods = core.list_namespaced_pod("shop", label_selector=selector).items
    return [
        pod
        for pod in pods
        if pod.metadata.deletion_timestamp is None
        and any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ())
    ]


needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is absent")
