"""Proof that a fault bites, from two sides: what the target counted, and what others can reach.

Each piece has a name, `ok` (None: it could not be looked for) and what was seen. A fault bites when
no piece that could be looked for failed, on any host, and at least one was found on each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aftershock.errors import AftershockError
from aftershock.faults.base import Fault
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import ask_all
from aftershock.inventory import Node

REACH_S = 0.4


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing that was looked for on one host."""

    name: str
    host: str
    ok: bool | None
    seen: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, "host": self.host, "ok": self.ok, "seen": self.seen}


class Onlooker:
    """Looks at a fault's hosts: before the firing for comparison, then for its effect."""

    def __init__(
        self,
        fault: Fault,
        nodes: Sequence[Node],
        witness: Node | None,
        spared: Sequence[Node],
        controls: Sequence[Node] = (),
    ) -> None:
        self._fault = fault
        self._nodes = nodes
        self._witness = witness
        self._spared = spared
        self._controls = [
            address for node in controls for address in node.addresses if node not in nodes
        ]
        self._answered: set[str] = set()
        self._controlled: set[str] = set()

    @property
    def needed(self) -> tuple[str, ...]:
        """A witness that was named must have seen it: what the agent counts is its own word."""
        return ("silent",) if self._witness else ()

    def look_before(self, channels: Mapping[str, AgentChannel]) -> None:
        """Note which of the hosts' and the controls' addresses the witness reaches by now."""
        if self._witness:
            theirs = [a for node in self._nodes for a in node.addresses]
            reached = _answering(channels[self._witness.name], [*theirs, *self._controls])
            self._answered = reached.intersection(theirs)
            self._controlled = reached.intersection(self._controls)

    def look(self, channels: Mapping[str, AgentChannel], injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        silent = self._silent(channels)
        spared = self._still_reached(channels)
        hosts = {node.name: channels[node.name] for node in self._nodes}
        counts, errors = ask_all(hosts, "observe", lambda _: {"injection": injection})
        dropped = [_dropped(name, counts[name]) for name in counts]
        lost = [Piece("dropped", name, False, str(error)) for name, error in errors.items()]
        return [*dropped, *lost, *silent, *spared]

    def _silent(self, channels: Mapping[str, AgentChannel]) -> list[Piece]:
        if not self._witness:
            return [
                Piece("silent", node.name, None, "no witness was named") for node in self._nodes
            ]
        outsider, name = channels[self._witness.name], self._witness.name
        try:
            now = _answering(outsider, sorted(self._answered | self._controlled))
        except AftershockError as error:  # blind is not silent
            return [Piece("silent", node.name, None, str(error)) for node in self._nodes]
        if self._controlled and not now:  # its own network may be what went
            others = ", ".join(sorted(self._controlled))
            seen = f"{name} reaches nothing any more, not even {others}"
            return [Piece("silent", node.name, None, seen) for node in self._nodes]
        pieces = []
        for node in self._nodes:
            before = self._answered.intersection(node.addresses)
            still = sorted(now.intersection(before))
            seen = f"answers {name} at {', '.join(still)}" if still else f"{name} gets no answer"
            if not before:
                seen = f"{name} got no answer before the fault either"
            pieces.append(Piece("silent", node.name, not still if before else None, seen))
        return pieces

    def _still_reached(self, channels: Mapping[str, AgentChannel]) -> list[Piece]:
        pieces = []
        for node in self._nodes:
            near = [a for other in self._spared if other.name != node.name for a in other.addresses]
            near = [address for address in near if not self._fault.cuts(address)]
            if not near:
                pieces.append(Piece("spared", node.name, None, "no spared peer was named"))
                continue
            pieces.append(_spared(channels[node.name], near))
        return pieces


def wait_for_bite(
    onlooker: Onlooker, channels: Mapping[str, AgentChannel], injection: str, within_s: float
) -> list[Piece]:
    """Look until it bites, or the time is over; the last pieces seen."""
    until = time.monotonic() + within_s
    while True:
        pieces = onlooker.look(channels, injection)
        if bites(pieces, onlooker.needed) or time.monotonic() >= until:
            return pieces
        time.sleep(0.05)


def bites(pieces: Sequence[Piece], needed: Iterable[str] = ()) -> bool:
    """Whether the pieces prove the fault's effect on every host.

    `needed` are pieces that must have been found on each of them, not only not have failed.
    """
    hosts = {piece.host for piece in pieces}
    proofs = [{p.host for p in pieces if p.ok and p.name == name} for name in needed]
    proofs.append({piece.host for piece in pieces if piece.ok and piece.name != "spared"})
    failed = any(piece.ok is False for piece in pieces)
    return bool(hosts) and not failed and all(proven == hosts for proven in proofs)


def _answering(channel: AgentChannel, addresses: Sequence[str]) -> set[str]:
    """The addresses that answer the channel's host; all asked at once."""
    posted = {
        address: channel.post("reach", address=address, timeout_s=REACH_S) for address in addresses
    }
    answers = {
        address: channel.result(answer, "reach", REACH_S + 5) for address, answer in posted.items()
    }
    return {address for address, answer in answers.items() if answer["answered"]}


def _spared(channel: AgentChannel, near: Sequence[str]) -> Piece:
    try:
        reached = _answering(channel, near)
    except AftershockError as error:
        return Piece("spared", channel.name, False, str(error))
    seen = f"reaches {len(reached)} of {len(near)} spared addresses"
    return Piece("spared", channel.name, bool(reached), seen)


def _dropped(host: str, steps: Sequence[Mapping[str, Any]]) -> Piece:
    ways: dict[str, int] = {}
    for step in steps:
        for way, count in step["counts"].items():
            ways[way] = ways.get(way, 0) + count["packets"]
    told = ", ".join(f"{packets} {way}" for way, packets in ways.items())
    return Piece("dropped", host, sum(ways.values()) > 0, f"dropped {told}")
