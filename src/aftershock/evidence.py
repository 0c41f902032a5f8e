"""Proof that a fault bites, from two sides: what the target counted, and what others can reach.

Each piece has a name, `ok` (None: it could not be looked for) and what was seen. A fault bites when
no piece that could be looked for failed, on any host, and at least one was found on each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from aftershock.errors import AftershockError, HostUnreachable
from aftershock.faults.base import Effect
from aftershock.hosts.channel import AgentChannel

Channels = Mapping[str, AgentChannel]
FELT = "felt"  # that others than we met it: known at the end, and no proof that it bites
_ENOUGH = 0.7  # of the rise of a round trip that was asked for


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


def unseen(name: str, host: str, error: AftershockError) -> Piece:
    """An agent that can't be asked says nothing; a look that failed is none."""
    return Piece(name, host, None if isinstance(error, HostUnreachable) else False, str(error))


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
    """Look until it bites, or the time is over; the last pieces seen.

    An onlooker that says `is_decided` would see nothing else any more.
    """
    until = time.monotonic() + within_s
    while True:
        pieces = onlooker.look(channels, injection)
        is_over = time.monotonic() >= until or getattr(onlooker, "is_decided", False)
        if is_over or bites(pieces, onlooker.needed):
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


def felt(pieces: Sequence[Piece]) -> bool | None:
    """Whether anybody but us met the fault, on some host; None where nobody can tell."""
    told = [piece.ok for piece in pieces if piece.name == FELT and piece.ok is not None]
    return any(told) if told else None


def slower(node: str, before: Sequence[float], now: Sequence[float], effect: Effect) -> Piece:
    """Whether round trips, in ms, rose as they should: half of them, or the quickest of all.

    The quickest decides, too, since a busy machine makes many of them slow before the fault, and
    hardly all. Where only a share is slower, so many must be.
    """
    if not now:
        return Piece("slower", node, False, "no echo is answered any more")
    was, is_now, rise_ms = median(before), median(now), _ENOUGH * effect.size
    if effect.share == 1:
        least = min(now) - min(before)
        seen = f"round trip {is_now:.1f} ms, {was:.1f} before; the quickest {least:+.1f} ms"
        return Piece("slower", node, max(is_now - was, least) >= rise_ms, seen)
    late, were = (sum(trip - was >= rise_ms for trip in trips) for trips in (now, before))
    seen = f"{late} of {len(now)} round trips took {rise_ms:.1f} ms longer, {were} before"
    return Piece("slower", node, late - were >= max(1, len(now) * effect.share / 2), seen)
