"""What the emulated kubelet needs from whoever runs the pods' processes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class PodSpec:
    """What a runtime needs to know of a pod that was bound to a node."""

    uid: str
    namespace: str
    name: str
    node: str
    image: str
    args: tuple[str, ...]
    env: Mapping[str, str]


class PodRuntime(Protocol):
    """Starts and ends the processes that stand for pods. All times are seconds."""

    async def start(self, pod: PodSpec) -> str:
        """Start the pod's process on its node and return the pod's IP address.

        May be called again for the same uid once its process has ended (a restart).
        """

    async def wait(self, uid: str) -> int:
        """Wait for the process to end; return its exit status (as Popen's)."""

    async def is_ready(self, uid: str) -> bool:
        """Answer the readiness probe: True once the process serves. Never raises."""

    async def stop(self, uid: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s` (at once when 0); return when the process is gone.

        May be called again with less grace while the first call is under way, and for a uid whose
        process has gone or never started.
        """


@runtime_checkable
class ExecRuntime(Protocol):
    """A runtime that can run further commands in its pods."""

    async def exec(
        self, uid: str, command: Sequence[str], streams: tuple[int, int, int], terminal: str
    ) -> asyncio.Future[int]:
        """Start a command where the pod's process is; its exit status, as Popen's.

        It gets the three descriptors as its standard streams, or else opens a terminal's device,
        which it then has for its controlling one. OSError when it can't be started.
        """


@runtime_checkable
class NodeRuntime(Protocol):
    """A runtime whose nodes have kubelets that can fall silent."""

    def listens(self, node: str) -> bool:
        """Whether the node's kubelet does its work."""


@runtime_checkable
class LogRuntime(Protocol):
    """A runtime that keeps what its containers write."""

    def last_words(self, uid: str) -> str:
        """The last line of a pod's log; nothing where it wrote none."""


@runtime_checkable
class MemoryRuntime(Protocol):
    """A runtime whose containers may be killed for memory."""

    def was_oom_killed(self, uid: str) -> bool:
        """Whether that is how the pod's container ended last."""
