"""Who sees that processes are frozen: another process on their host, and their cluster's API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aftershock.errors import AftershockError
from aftershock.evidence import Channels, Piece, unseen
from aftershock.faults.base import Fault, on
from aftershock.faults.freeze import Freeze
from aftershock.inventory import Node

_OVER_S = 0.3
_ASK_S = 10.0
Outside = Callable[[], Mapping[str, Piece]]


class Stillness:
    """Threads' states and processor time, read from /proc by a process that traces nobody.

    `outside` adds what the cluster's API tells, by host: it decides where the agent can't be asked.
    """

    needed: tuple[str, ...] = ()

    def __init__(
        self,
        fault: Fault,
        nodes: Sequence[Node],
        outside: Outside | None = None,
        patience_s: float = 3.0,
        level: str | None = None,
    ) -> None:
        self.level = level  # of slo.realness, where it stands for something on a GPU
        self.patience_s = patience_s  # how long the effect is looked for
        self._fault, self._nodes = fault, nodes
        self._outside = outside or dict

    def look_before(self, channels: Channels) -> None:
        """The arming looks whether everything is there."""

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        told = self._outside()
        seen = [piece for name, piece in told.items() if name in {n.name for n in self._nodes}]
        return [*(self._piece(channels, node.name) for node in self._nodes), *seen]

    def _piece(self, channels: Channels, node: str) -> Piece:
        fault = on(self._fault, node)
        assert isinstance(fault, Freeze)
        words = {"chosen": fault.choices(), "over_s": _OVER_S}
        if fault.takes_channel:
            return Piece("frozen", node, None, "its agent is reached through what is frozen")
        try:
            seen: dict[str, Any] = channels[node].ask("look", _ASK_S, **words)
        except AftershockError as error:
            return unseen("frozen", node, error)
        still = 0 < seen["threads"] == seen["stopped"] and not seen["ticks"]
        of = f"{seen['stopped']} of {seen['threads']} threads of {seen['processes']} processes"
        return Piece("frozen", node, still, f"{of} are stopped; {seen['ticks']} ticks used")
