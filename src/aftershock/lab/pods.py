"""Pods as processes: one in its node's network namespace, with that node's GPU and address."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from aftershock.errors import InvalidInput
from aftershock.lab import gpu
from aftershock.lab.children import Child, Children
from aftershock.lab.kubernetes.runtime import PodSpec
from aftershock.lab.netns import entered, path_of
from aftershock.lab.settings import SERVER_PORT, Place

MODEL_IMAGE = "aftershock/model-server"
SLEEP_IMAGES = ("aftershock/sleep", "registry.k8s.io/pause", "pause", "busybox")
PROBE_TIMEOUT_S = 1.0


class UnknownImage(InvalidInput):
    """An image that the lab has no program for: what a node calls ErrImagePull."""


class ProcessRuntime:
    """The `PodRuntime` of the lab: a pod is a real process on its node."""

    def __init__(
        self, places: Iterable[Place], children: Children, libraries: str, log_dir: Path
    ) -> None:
        self._places = {place.name: place for place in places}
        self._children = children
        self._libraries = libraries
        self._log_dir = log_dir
        self._pods: dict[str, tuple[PodSpec, Child]] = {}

    async def start(self, pod: PodSpec) -> str:
        """Start the pod's process on its node and return the pod's IP address."""
        place = self._places[pod.node]
        command = ["nsenter", f"--net={path_of(place.name)}", *self._program(pod, place)]
        env = {**os.environ, **gpu.environment(self._libraries, place.ledger), **pod.env}
        child = self._children.spawn(command, env, self.log(pod.name))
        self._pods[pod.uid] = (pod, child)
        return place.ipv4

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

    async def stop(self, uid: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s` (at once when 0); return when it is gone."""
        if entry := self._pods.get(uid):
            await entry[1].stop(grace_s)

    def log(self, pod_name: str) -> Path:
        """What the pod of that name wrote."""
        return self._log_dir / f"{pod_name}.log"

    def _program(self, pod: PodSpec, place: Place) -> list[str]:
        if is_model_server(pod.image):
            listen = ["--host", place.ipv4, "--port", str(SERVER_PORT)]
            return [sys.executable, "-P", "-m", "aftershock.lab.model_server", *listen, *pod.args]
        if repository(pod.image) in SLEEP_IMAGES:
            seconds = pod.args[-1] if pod.args and pod.args[-1].isdecimal() else "infinity"
            return ["sleep", seconds]
        known = ", ".join((MODEL_IMAGE, *SLEEP_IMAGES))
        raise UnknownImage(f"the lab cannot pull {pod.image!r}: it knows {known}")


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
