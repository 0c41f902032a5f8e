"""What the emulated kubelet needs from whoever runs the pods' processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


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
