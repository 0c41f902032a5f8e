"""A process for each node's kubelet, on the node: whoever stops it makes the node silent.

The emulated kubelets are in the API's process. So that one of them can be frozen or killed as on a
real node, each listens only while its stand-in, a shell called `kubelet`, echoes what it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from aftershock.lab.children import Child, Children
from aftershock.lab.netns import path_of
from aftershock.lab.settings import Place

_ASK_S = 0.25
_SILENT_S = 2.0
_ECHO = "while read -r line; do echo; done"


class KubeletProcesses:
    """The stand-ins; `start` once the network is there."""

    def __init__(self, places: Iterable[Place], children: Children, folder: Path) -> None:
        self._places, self._children = list(places), children
        self._program = folder / "kubelet"  # a process is called as the file that it was started by
        self._heard: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start one on every node."""
        self._program.symlink_to(shutil.which("sh") or "/bin/sh")
        for place in self._places:
            self._heard[place.name] = asyncio.get_running_loop().time()
            self._tasks.append(asyncio.create_task(self._keep(place)))

    def listens(self, node: str) -> bool:
        """Whether it answered lately."""
        now = asyncio.get_running_loop().time()
        return now - self._heard.get(node, now) < _SILENT_S

    async def _keep(self, place: Place) -> None:
        """Ask it again and again; one that was killed is started anew, as systemd would."""
        while True:
            ours, theirs, child = self._spawn(place)
            loop = asyncio.get_running_loop()
            loop.add_reader(ours, self._hear, place.name, ours)
            try:
                while not child.ended.done():
                    with contextlib.suppress(OSError):
                        os.write(theirs, b"\n")
                    await asyncio.sleep(_ASK_S)
            finally:
                loop.remove_reader(ours)
                os.close(ours)
                os.close(theirs)

    def _hear(self, node: str, source: int) -> None:
        with contextlib.suppress(OSError):
            if os.read(source, 4096):
                self._heard[node] = asyncio.get_running_loop().time()

    def _spawn(self, place: Place) -> tuple[int, int, Child]:
        """Our ends of what it says and reads, and the process."""
        reads, writes = os.pipe()
        answers, says = os.pipe()
        nothing = os.open(os.devnull, os.O_WRONLY)
        command = ["nsenter", f"--net={path_of(place.name)}", "--", str(self._program), "-c", _ECHO]
        child = self._children.join(command, os.environ, (reads, says, nothing), "")
        for end in (reads, says, nothing):
            os.close(end)
        os.set_blocking(writes, False)
        os.set_blocking(answers, False)
        return answers, writes, child
