"""Who sees that a GPU's memory is fragmented: a process that tries a large allocation on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aftershock.errors import AftershockError
from aftershock.evidence import Channels, Onlooker, Piece, unseen
from aftershock.faults.base import Fault
from aftershock.gpupressure import GpuPressed
from aftershock.hosts.channel import AgentChannel
from aftershock.inventory import Node
from aftershock.strain import Told

_TRY_S = 15.0
_BLOCKS_S = 30.0  # tens of thousands of calls to a driver
_WHOLE, _HALF = 0.9, 0.5
_PAGE_MIB = 2
_NAME = "gpu-fragmented"


class GpuFragmented(GpuPressed):
    """The largest single allocation is much less than what is free, and was nearly all before.

    Tried once a card, when its child has freed every other block: a trial takes nearly all that is
    free for a moment, and others may want it.
    """

    needed = ("gpu-pressed", _NAME)

    def __init__(self, fault: Fault, nodes: Sequence[Node]) -> None:
        super().__init__(fault, nodes)
        self.patience_s += _BLOCKS_S
        self._cards: dict[str, list[Told]] = {}
        self._tried: dict[tuple[str, str], Piece] = {}

    @property
    def is_decided(self) -> bool:
        """Every card was tried."""
        cards = [(node.name, card["uuid"]) for node in self._nodes for card in self._cards_of(node)]
        hosts = {host for host, _ in self._tried}
        return len(hosts) == len(self._nodes) and self._tried.keys() >= set(cards)

    def _cards_of(self, node: Node) -> list[Told]:
        return self._cards.get(node.name, [])

    def compare(self, host: str, was: Told, now: Told, step: Told, fault: Fault) -> list[Piece]:
        """Which cards it is by now, beside what NVML says of them."""
        self._cards[host] = step["cards"]
        return super().compare(host, was, now, step, fault)

    def _pieces(self, channels: Channels, node: Node, injection: str) -> list[Piece]:
        found = super()._pieces(channels, node, injection)
        for card in self._cards_of(node):
            key = (node.name, card["uuid"])
            if key not in self._tried and "taken" in card:
                self._tried[key] = _try(channels[node.name], node.name, card)
            waiting = Piece(_NAME, node.name, False, f"GPU {card['index']}: not yet in blocks")
            found.append(self._tried.get(key, waiting))
        return found


def _try(channel: AgentChannel, host: str, card: Told) -> Piece:
    try:
        now = channel.ask("gpu_room", _TRY_S, uuid=card["uuid"])
    except AftershockError as error:
        return unseen(_NAME, host, error)
    return judged(host, card["index"], card["before"], now)


def judged(host: str, index: int, was: Told, now: Told) -> Piece:
    """By the largest single allocation and what was free, each before and now."""
    before, largest = (
        f"{one['largest_mib']:.0f} of {one['free_mib']:.0f} MiB free" for one in (was, now)
    )
    seen = f"GPU {index}: the largest single allocation is {largest}, {before} before"
    share = _share(now)
    if now["free_mib"] < 2 * _PAGE_MIB:
        return Piece(_NAME, host, None, f"{seen}: nothing is free")
    if _share(was) < _WHOLE:
        return Piece(_NAME, host, None, f"{seen}: it was fragmented before")
    if share >= _WHOLE:
        seen += ": no effect, since this GPU maps memory in pages"
    elif share >= _HALF:
        seen += ": too large for an effect"
    return Piece(_NAME, host, share < _HALF, seen)


def _share(told: Told) -> float:
    return float(told["largest_mib"] / max(1.0, told["free_mib"]))


KINDS: dict[str, Callable[[Fault, Sequence[Node]], Onlooker]] = {_NAME: GpuFragmented}
