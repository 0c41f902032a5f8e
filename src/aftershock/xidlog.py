"""The kernel's log as a second witness of Xids, from a fault's arming until after its heal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aftershock.errors import AftershockError
from aftershock.evidence import Channels, Piece, unseen
from aftershock.hosts.channel import AgentChannel

_ASK_S = 10.0


class XidLog:
    """What each host's log has of Xids since the look before."""

    def __init__(self) -> None:
        self._at: dict[str, int | None] = {}

    def look_before(self, channels: Channels, hosts: Iterable[str]) -> None:
        """Note where each log ends by now."""
        for host in hosts:
            self._at[host] = _ask(channels[host], None)["at"]

    def since(self, host: str, channel: AgentChannel) -> dict[str, Any]:
        """See `aftershock.agent.kernellog.read`."""
        return _ask(channel, self._at.get(host))

    def pieces(self, channels: Channels) -> list[Piece]:
        """A piece for each host, which judges nothing: an Xid may be what the fault leads to."""
        return [self._piece(host, channels[host]) for host in self._at]

    def _piece(self, host: str, channel: AgentChannel) -> Piece:
        try:
            told = self.since(host, channel)
        except AftershockError as error:
            return unseen("kernel-log", host, error)
        if told["why"] or self._at[host] is None:
            return Piece("kernel-log", host, None, f"not readable: {told['why']}")
        if told["xids"]:
            said = "; ".join(in_words(one) for one in told["xids"])
            return Piece("kernel-log", host, None, f"Xids since the arming: {said}")
        if told["missed"]:
            return Piece("kernel-log", host, None, "it ran over: its oldest lines are lost")
        return Piece("kernel-log", host, True, "no Xid since the arming")


def in_words(one: dict[str, Any]) -> str:
    """An Xid, its card, what the driver said, and whether it was the driver."""
    who = "" if one["by_driver"] else " (written by a process, not by the driver)"
    return f"{one['xid']} of {one['pci']}, {one['said']}{who}"


def _ask(channel: AgentChannel, after: int | None) -> dict[str, Any]:
    told: dict[str, Any] = channel.ask("kernel_log", _ASK_S, after=after)
    return told
