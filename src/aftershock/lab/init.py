"""`python -m aftershock.lab.init`: PID 1 of a lab, the process that everything in it dies with.

Standard input and output are one socket to the controller, a JSON line a message:

    init → {"hello": 1}      the kernel tells the controller who wrote it: init's PID outside
    init ← {"settings": …, "lab_dir": …, "libraries": …}
    init → {"ready": {…}} or {"failed": "…"}
    init ← {"detach": 1}                 from here on the controller may go

Unless detached, the end of that socket is the end of the lab.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aftershock import cudashim
from aftershock.errors import AftershockError
from aftershock.lab import gateway, network
from aftershock.lab.cgroups import NodeGroups
from aftershock.lab.children import Child, Children
from aftershock.lab.pods import ProcessRuntime
from aftershock.lab.settings import LabFailed, LabSettings
from aftershock.lab.volumes import Volumes
from aftershock.lab.workload import Workload

POLL_S = 0.05
MOST_FILES = 65536


class World:
    """What init builds, in order: mounts, network, gateway, workload."""

    def __init__(self, settings: LabSettings, lab_dir: Path, libraries: str) -> None:
        self.settings = settings
        self.lab_dir = lab_dir
        self.libraries = libraries
        self.log_dir = lab_dir / "log"

    async def build(self) -> dict[str, Any]:
        """Build it all; return once every replica is up behind the gateway."""
        started = time.monotonic()
        mount_private()
        raise_file_limit()
        self.log_dir.mkdir(exist_ok=True)
        network.build(self.settings.places())
        volumes = Volumes(self.settings, self.lab_dir)
        volumes.build()
        children = Children()
        groups = NodeGroups(self.lab_dir) if self.settings.has_cgroups else None
        runtime = ProcessRuntime(
            self.settings.places(),
            children,
            self.libraries,
            self.log_dir,
            volumes,
            groups,
            self.settings.gpus_per_node,
            str(cudashim.build()),
        )
        runtime.kubelets.start()
        proxy = self._start_gateway(children)
        workload = Workload(self.settings, runtime, self.lab_dir)
        kubeconfig = await workload.start()
        try:
            async with asyncio.timeout(self.settings.up_within_s):
                await self._all_up(workload, proxy)
        except TimeoutError:
            raise LabFailed(
                f"not all {self.settings.replicas} replicas were up within "
                f"{self.settings.up_within_s:g} s{self._last_words()}"
            ) from None
        runtime.spoil = self.settings.spoiled_answers
        return {"kubeconfig": kubeconfig, "seconds": round(time.monotonic() - started, 3)}

    def _start_gateway(self, children: Children) -> Child:
        path = self.lab_dir / "haproxy.cfg"
        path.write_text(gateway.config(self.settings))
        command = ["haproxy", "-db", "-f", str(path)]
        return children.spawn(command, os.environ, self.log_dir / "haproxy.log")

    async def _all_up(self, workload: Workload, proxy: Child) -> None:
        while True:
            if proxy.ended.done():
                raise LabFailed(f"haproxy did not start{self._last_words('haproxy')}")
            up = min(workload.ready_replicas(), self._slots_up())
            if up >= self.settings.replicas:
                return
            await asyncio.sleep(POLL_S)

    def _slots_up(self) -> int:
        try:
            slots = gateway.read_slots(gateway.STATS_SOCKET, self.settings.places())
        except LabFailed:
            return 0
        return sum(slot.up for slot in slots)

    def _last_words(self, stem: str = "*") -> str:
        words = []
        for log in sorted(self.log_dir.glob(f"{stem}.log")):
            if lines := log.read_text(errors="replace").strip().splitlines():
                words.append(f"{log.stem}: {' / '.join(lines[-2:])}")
        return "; " + "; ".join(words) if words else ""


def mount_private() -> None:
    """Namespaces and GPU ledgers go with this mount namespace."""
    Path("/run/netns").mkdir(exist_ok=True)
    for place in ("/run/netns", "/dev/shm"):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "mode=1777", "aftershock-lab", place], check=True
        )


def raise_file_limit() -> None:
    """HAProxy and the servers take as many connections as they may have files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, MOST_FILES), hard))


def say(**message: Any) -> None:
    """One line to the controller."""
    os.write(1, json.dumps(message).encode() + b"\n")


async def listen() -> asyncio.StreamReader:
    """The controller's lines."""
    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(os.dup(0), "rb", buffering=0)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


async def serve() -> int:
    """The life of a lab; returns when it is to end."""
    controller = await listen()
    say(hello=1)
    if not (line := await controller.readline()):
        return 1
    order = json.loads(line)
    lab_dir = Path(order["lab_dir"])
    world = World(LabSettings.from_dict(order["settings"]), lab_dir, order["libraries"])
    building = asyncio.create_task(world.build())
    hearing = asyncio.create_task(controller.readline())
    await asyncio.wait([building, hearing], return_when=asyncio.FIRST_COMPLETED)
    if not building.done():
        building.cancel()
    else:
        try:
            say(ready=building.result())
        except (AftershockError, OSError, subprocess.CalledProcessError) as why:
            say(failed=str(why))
        if await hearing:
            await asyncio.Event().wait()
    shutil.rmtree(lab_dir, ignore_errors=True)
    return 0


def main() -> None:
    """Ends at once when the lab is over: the kernel ends everyone else in it."""
    os.chdir("/")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os._exit(asyncio.run(serve()))


if __name__ == "__main__":
    if os.getpid() != 1:
        sys.exit("aftershock.lab.init is started by `aftershock lab up`, as PID 1 of its namespace")
    main()
