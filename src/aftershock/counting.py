"""What the agents' own programs and the kernel's queues counted of a fault: a piece a host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aftershock.errors import AftershockError, HostUnreachable
from aftershock.evidence import Channels, Piece
from aftershock.hosts.fleet import ask_all
from aftershock.inventory import Node

OBSERVE_S = 3.0


class Counting:
    """What the agents counted, for what can't be seen in any other way."""

    needed: tuple[str, ...] = ()

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes

    def look_before(self, channels: Channels) -> None:
        """Nothing to compare with."""

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """A piece a host."""
        hosts = {node.name: channels[node.name] for node in self._nodes}
        seen, errors = ask_all(hosts, "observe", lambda _: {"injection": injection}, OBSERVE_S)
        lost = [_unheard(name, error) for name, error in errors.items()]
        return [*(_counted(name, steps) for name, steps in seen.items()), *lost]


def _unheard(name: str, error: AftershockError) -> Piece:
    """An agent that can't be asked, perhaps since the fault cut its channel, says nothing."""
    return Piece("counted", name, None if isinstance(error, HostUnreachable) else False, str(error))


_TOLD = {"drop": "dropped", "divert": "diverted"}


def _counted(host: str, steps: Sequence[Mapping[str, Any]]) -> Piece:
    """What the agent's first step counted, over all devices."""
    kind = steps[0]["kind"]
    if kind == "command":
        return Piece("check", host, steps[0]["ok"], steps[0]["said"])
    if kind == "reset":
        seen = f"{steps[0]['destroyed']} connections reset, {steps[0]['left']} there now"
        return Piece("reset", host, steps[0]["destroyed"] > 0, seen)
    ways: dict[str, int] = {}
    for step in steps:
        for way, count in step["counts"].items():
            ways[way] = ways.get(way, 0) + count["packets"]
    told = ", ".join(f"{packets} {way}" for way, packets in ways.items())
    name = _TOLD[kind]
    return Piece(name, host, sum(ways.values()) > 0, f"{name} {told}")
