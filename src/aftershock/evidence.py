"""Proof that a fault bites, from two sides: what the target counted, and what others can reach.

Each piece has a name, `ok` (None: it could not be looked for) and what was seen. A fault bites when
no piece that could be looked for failed, on any host, and at least one was found on each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aftershock.hosts.channel import AgentChannel

Channels = Mapping[str, AgentChannel]


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


class Onlooker(Protocol):
    """Looks at a fault's hosts: before the firing for comparison, then for its effect."""

    @property
    def needed(self) -> tuple[str, ...]:
        """Pieces that must be found on each host, not only not have failed."""

    def look_before(self, channels: Channels) -> None:
        """Note what is there by now."""

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""


def wait_for_bite(
    onlooker: Onlooker, channels: Channels, injection: str, within_s: float
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
