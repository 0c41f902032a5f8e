"""Who sees that processes' CUDA is locked: the driver tells another process than the locker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aftershock.counting import OBSERVE_S
from aftershock.errors import AftershockError
from aftershock.evidence import Channels, Piece, unseen
from aftershock.faults.base import Fault
from aftershock.inventory import Node

_ASK_S = 10.0
_LOCKED = 1  # CU_PROCESS_STATE_LOCKED


class Locks:
    """cuCheckpointProcessGetState of each, asked by a process for just that.

    `outside` adds what else is told, by host.
    """

    needed = ("cuda-locked",)

    def __init__(
        self,
        fault: Fault,
        nodes: Sequence[Node],
        outside: Callable[[], Mapping[str, Piece]] | None = None,
        patience_s: float = 3.0,
        level: str | None = None,
    ) -> None:
        self.level = level  # `emulated` where any host's driver is a mock
        self.patience_s = patience_s
        self._nodes = nodes
        self._outside = outside or dict

    def look_before(self, channels: Channels) -> None:
        """The arming looks whether all are unlocked."""

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        told = self._outside()
        seen = [piece for name, piece in told.items() if name in {n.name for n in self._nodes}]
        return [*(self._piece(channels, node.name, injection) for node in self._nodes), *seen]

    def _piece(self, channels: Channels, node: str, injection: str) -> Piece:
        channel = channels[node]
        try:
            (step,) = channel.ask("observe", OBSERVE_S, injection=injection)
            states: list[dict[str, Any]] = channel.ask(
                "cuda_states", _ASK_S, processes=step["processes"]
            )
        except AftershockError as error:
            return unseen("cuda-locked", node, error)
        if self.level != "emulated":
            self.level = step["level"]
        locked = sum(one["state"] == _LOCKED for one in states)
        failed = next((f"; {one['failed']}" for one in states if one["failed"]), "")
        seen = f"{locked} of {len(states)} processes are locked, as the driver tells{failed}"
        return Piece("cuda-locked", node, locked == len(states) > 0, seen)
