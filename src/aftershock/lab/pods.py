"""Pods as processes: one in its node's network namespace, with that node's GPU and address."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from aftershock import cudashim
from aftershock.errors import InvalidInput
from aftershock.lab import containers, gpu
from aftershock.lab.cgroups import NodeGroups
from aftershock.lab.children import Child, Children
from aftershock.lab.gpu.ledger import utilisation_percent
from aftershock.lab.kubelets import KubeletProcesses
from aftershock.lab.kubernetes.podstatus import container_id
from aftershock.lab.kubernetes.runtime import PodSpec
from aftershock.lab.netns import entered, path_of
from aftershock.lab.settings import SERVER_PORT, Place
from aftershock.lab.volumes import Volumes

MODEL_IMAGE = "aftershock/model-server"
AGENT_IMAGE = "aftershock/node-agent"
SLEEP_IMAGES = ("aftershock/sleep", "registry.k8s.io/pause", "pause", "busybox")
PROBE_TIMEOUT_S = 1.0
# aiohttp reads every certificate of the system when it is imported: a third of a server's start.
_NO_CERTIFICATES = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
GPU_UTILISATION = "DCGM_FI_DEV_GPU_UTIL"


class UnknownImage(InvalidInput):
    """An image that the lab has no program for: what a node calls ErrImagePull."""


class ProcessRuntime:
    """The `PodRuntime` of the lab: a pod is a real process on its node."""

    def __init__(
        self,
        places: Iterable[Place],
        children: Children,
        libraries: str,
        log_dir: Path,
        volumes: Volumes,
        groups: NodeGroups | None = None,
        gpus: int = 1,
        shim: str = "",
    ) -> None:
        self._shim = shim  # the library that makes CUDA calls fail
        self._gpus = gpus  # of each node
        self._volumes, self._groups = volumes, groups
        self._places = {place.name: place for place in places}
        self._children = children
        self._libraries = libraries
        self._log_dir = log_dir
        self._pods: dict[str, tuple[PodSpec, Child]] = {}
        self._runs: Counter[str] = Counter()
        self.spoil = ""  # how model servers that start from now on spoil their answers
        self.kubelets = KubeletProcesses(self._places.values(), children, log_dir)

    async def start(self, pod: PodSpec) -> str:
        """Start the pod's process on its node and return the pod's IP address."""
        place = self._places[pod.node]
        self._runs[pod.uid] += 1
        command = [*_on(place), *self._program(pod, place)]
        child = self._children.spawn(command, self._environment(pod), self.log(pod.name))
        self._volumes.enter(place, child.pid)
        self._pods[pod.uid] = (pod, child)
        name = container_id(pod.uid, self._runs[pod.uid] - 1)
        if self._groups:  # then its cgroup's own path says whose it is
            self._groups.enter(child.pid, place, pod.uid, name.rpartition("//")[2])
        else:
            containers.mark(child.pid, pod.uid, name)
        return place.ipv4

    async def exec(
        self, uid: str, command: Sequence[str], streams: tuple[int, int, int], terminal: str
    ) -> asyncio.Future[int]:
        """Run a further command in a pod: on its node, with its environment."""
        pod, _ = self._pods[uid]
        place = self._places[pod.node]
        words = [*_on(place), *command]
        child = self._children.join(words, self._environment(pod), streams, terminal)
        self._volumes.enter(place, child.pid)
        return child.ended

    def _environment(self, pod: PodSpec) -> dict[str, str]:
        place = self._places[pod.node]
        cards = gpu.environment(self._libraries, place.ledger, self._gpus)
        # What an image of ours has as `python3` is here the one that runs the lab.
        path = f"{Path(sys.executable).parent}:{cards['PATH']}"
        faulty = cudashim.environment(self._shim, place.cuda_orders)
        trust = _NO_CERTIFICATES if is_model_server(pod.image) else {}
        own = {**os.environ, **cards, **faulty, **trust, "PATH": path, **pod.env}
        return {**own, containers.MARK: pod.uid}

    def was_oom_killed(self, uid: str) -> bool:
        """Whether the kernel killed for memory in the container that ended last."""
        return self._groups is not None and self._groups.was_oom_killed(uid)

    def listens(self, node: str) -> bool:
        """Whether the process that stands for the node's kubelet does its work."""
        return self.kubelets.listens(node)

    async def wait(self, uid: str) -> int:
        """Wait for the process to end; its exit status as Popen's."""
        return await asyncio.shield(self._pods[uid][1].ended)

    async def is_ready(self, uid: str) -> bool:
        """Ask `/health` on the pod's node, as a kubelet does; other programs are ready at once."""
        pod, child = self._pods.get(uid, (None, None))
        if pod is None or child is None or child.ended.done():
            return False
        if not is_model_server(pod.image):
            return True
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await _healthy(self._places[pod.node])
        except (OSError, TimeoutError):
            return False

    def metric(self, uid: str, name: str) -> float | None:
        """A pod's metric, as a metrics API would have it; None: there is none.

        `DCGM_FI_DEV_GPU_UTIL` is that of its node's GPU, in percent of the last second.
        """
        pod, _ = self._pods.get(uid, (None, None))
        if pod is None or name != GPU_UTILISATION:
            return None
        return utilisation_percent(self._places[pod.node].ledger)

    async def stop(self, uid: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s` (at once when 0); return when it is gone."""
        if entry := self._pods.get(uid):
            await entry[1].stop(grace_s)
            containers.kill(uid)

    def last_words(self, uid: str) -> str:
        """The last line that a pod's processes wrote."""
        text = self.log(self._pods[uid][0].name).read_text(errors="replace").strip()
        return text.rpartition("\n")[2]

    def log(self, pod_name: str) -> Path:
        """What the pod of that name wrote."""
        return self._log_dir / f"{pod_name}.log"

    def _program(self, pod: PodSpec, place: Place) -> list[str]:
        if is_model_server(pod.image):
            listen = ["--host", place.ipv4, "--port", str(SERVER_PORT)]
            return [
                sys.executable,
                "-P",
                "-m",
                "aftershock.lab.model_server",
                *listen,
                *self._volumes.arguments(place),
                *pod.args,
                *(("--spoil", self.spoil) if self.spoil else ()),
            ]
        if repository(pod.image) in SLEEP_IMAGES:
            seconds = pod.args[-1] if pod.args and pod.args[-1].isdecimal() else "infinity"
            return ["sleep", seconds]
        if repository(pod.image) == AGENT_IMAGE and pod.args:
            return list(pod.args)
        known = ", ".join((MODEL_IMAGE, AGENT_IMAGE, *SLEEP_IMAGES))
        raise UnknownImage(f"the lab cannot pull {pod.image!r}: it knows {known}")


def _on(place: Place) -> list[str]:
    return ["nsenter", f"--net={path_of(place.name)}", "--"]


def repository(image: str) -> str:
    """An image's name without tag and digest."""
    head, slash, tail = image.partition("@")[0].rpartition("/")
    return head + slash + tail.partition(":")[0]


def is_model_server(image: str) -> bool:
    """Whether the image stands for the lab's model server."""
    return repository(image) == MODEL_IMAGE


async def _healthy(place: Place) -> bool:
    loop = asyncio.get_running_loop()
    with _socket_on(place) as asking:
        await loop.sock_connect(asking, (place.ipv4, SERVER_PORT))
        await loop.sock_sendall(asking, b"GET /health HTTP/1.0\r\nHost: node\r\n\r\n")
        return b" 200 " in await loop.sock_recv(asking, 64)


def _socket_on(place: Place) -> socket.socket:
    with entered(path_of(place.name)):
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    return made
