"""Who sees a limit on I/O: another process, as fast as it can, inside of the cgroup and outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aftershock.errors import AftershockError
from aftershock.evidence import Channels, Piece, unseen
from aftershock.faults.base import Fault, on
from aftershock.faults.throttling import IoThrottle
from aftershock.fullness import ASK_S
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import ask_all
from aftershock.inventory import Node

_ENOUGH = 1.5  # times the limit: it is kept over a while, and bursts a little
_OVER_S, _BRIEFLY_S = 1.0, 0.2
_MIB = 1 << 20
_LOOKS = {  # limit → which way, how much at once, and what is counted
    "rbps": ("read", _MIB, "bytes_per_s"),
    "wbps": ("write", _MIB, "bytes_per_s"),
    "riops": ("read", 4096, "per_s"),
    "wiops": ("write", 4096, "per_s"),
}


class Capped:
    """What a process in the cgroup gets, beside what the limit is and one outside gets.

    A limit that is above what the device gives is none, and no effect.
    """

    needed: tuple[str, ...] = ("capped",)
    patience_s = 6.0

    def __init__(self, fault: Fault, nodes: Sequence[Node]) -> None:
        self._fault, self._nodes = fault, nodes
        self._free: dict[tuple[str, str], float] = {}

    def look_before(self, channels: Channels) -> None:
        """Measure outside; what can't be done is refused here, before the arming."""
        hosts = {node.name: channels[node.name] for node in self._nodes}
        _, errors = ask_all(
            hosts,
            "storage",
            lambda name: {"what": "throttle", "options": self._of(name).options()},
            ASK_S,
        )
        if errors:
            raise next(iter(errors.values()))
        for name, channel in hosts.items():
            for key in self._set(name):
                self._free[name, key] = self._measure(channel, name, key, "", _BRIEFLY_S)

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """A piece a limit and host."""
        return [piece for node in self._nodes for piece in self._see(channels, node, injection)]

    def _see(self, channels: Channels, node: Node, injection: str) -> list[Piece]:
        channel, name = channels[node.name], node.name
        pieces = []
        try:
            (step,) = channel.ask("observe", injection=injection)
            for key, limit in self._set(name).items():
                gets = self._measure(channel, name, key, step["folder"], _OVER_S)
                pieces.append(_piece(name, key, limit, gets, self._free[name, key]))
        except AftershockError as error:
            return [unseen("capped", name, error)]
        return pieces

    def _measure(
        self, channel: AgentChannel, name: str, key: str, cgroup: str, over_s: float
    ) -> float:
        way, block, counted = _LOOKS[key]
        options = {"path": self._of(name).path, "way": way, "block": block, "over_s": over_s}
        asked: Mapping[str, Any] = {**options, "cgroup": cgroup}
        return float(channel.ask("storage", ASK_S, what="speed", options=asked)[counted])

    def _set(self, name: str) -> dict[str, int]:
        return {key: limit for key, limit in self._of(name).limits().items() if limit}

    def _of(self, name: str) -> IoThrottle:
        fault = on(self._fault, name)
        assert isinstance(fault, IoThrottle)
        return fault


def _piece(host: str, key: str, limit: float, gets: float, free: float) -> Piece:
    unit, size = ("MiB/s", _MIB) if key.endswith("bps") else (f"{_LOOKS[key][0]}s/s", 1)
    told = f"{gets / size:.1f} {unit} inside, {free / size:.1f} before, {limit / size:g} allowed"
    return Piece("capped", host, gets <= _ENOUGH * limit < free, f"{_LOOKS[key][0]}: {told}")
