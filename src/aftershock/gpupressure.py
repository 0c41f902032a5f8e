"""Who sees that GPUs are pressed: NVML, asked from another process than the one that presses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aftershock.evidence import Channels, Piece
from aftershock.faults.base import Fault, on
from aftershock.hosts.channel import AgentChannel
from aftershock.inventory import Node
from aftershock.strain import Strain, Told

_MIB = 1 << 20
_ASK_S = 20.0
_ENOUGH = 0.9
_PATIENCE_S = 15.0


class GpuStrain(Strain):
    """What all have in common: cards by UUID, as NVML tells, and how real they are."""

    over_s = 0.0

    def __init__(self, fault: Fault, nodes: Sequence[Node]) -> None:
        super().__init__(fault, nodes)
        self.level = ""  # `emulated` where any host's driver is a mock

    def see(self, channel: AgentChannel, fault: Fault) -> Told:
        """Every card, by its UUID."""
        cards: list[dict[str, Any]] = channel.ask("gpu", _ASK_S, over_s=self.over_s)
        return {card["uuid"]: card for card in cards}

    def compare(self, host: str, was: Told, now: Told, step: Told, fault: Fault) -> list[Piece]:
        """The pieces of each card that is pressed."""
        if self.level != "emulated":
            self.level = step["level"]
        found: list[Piece] = []
        for asked in step["cards"]:
            card = now.get(asked["uuid"])
            if card is None or card["lost"]:
                found.append(Piece(self.needed[0], host, False, f"GPU {asked['index']} is lost"))
            else:
                found += self.of_card(host, was[asked["uuid"]], card, asked)
        return found

    def of_card(self, host: str, was: Told, now: Told, asked: Told) -> list[Piece]:
        """The pieces of one card."""
        raise NotImplementedError


class GpuPressed(GpuStrain):
    """NVML's used memory is up by what was taken; the child's own share of it beside that."""

    needed = ("gpu-pressed",)

    def __init__(self, fault: Fault, nodes: Sequence[Node]) -> None:
        super().__init__(fault, nodes)
        longest = max(on(fault, node.name).effect.size for node in nodes)
        self.patience_s = longest + _PATIENCE_S

    def of_card(self, host: str, was: Told, now: Told, asked: Told) -> list[Piece]:
        """The rise, and who holds it."""
        wanted, before, used = (
            asked["asked"] / _MIB,
            was["memory_used_mib"],
            now["memory_used_mib"],
        )
        seen = (
            f"GPU {asked['index']}: {used:.0f} of {now['memory_total_mib']:.0f} MiB used, "
            f"{before:.0f} before; {wanted:.0f} were to be taken"
        )
        own = [one for one in now["processes"] if one["pid"] == asked["pid"]]
        held = f"NVML doesn't show our child {asked['pid']}"
        if own:
            held = f"our child {asked['pid']} holds {own[0]['used_mib']:.0f} MiB"
        return [
            Piece("gpu-pressed", host, used - before >= _ENOUGH * wanted, seen),
            Piece("gpu-holder", host, True if own else None, held),
        ]

    def look_after(self, channels: Channels) -> list[Piece]:
        """That the memory is free again, as NVML says."""
        found = []
        for node in self._nodes:
            now = self.see(channels[node.name], on(self._fault, node.name))
            for uuid, card in now.items():
                was = self._before.get(node.name, {}).get(uuid)
                if was and not was["lost"] and not card["lost"]:
                    seen = f"GPU {card['index']}: {card['memory_used_mib']:.0f} MiB used again"
                    found.append(Piece("gpu-after", node.name, True, seen))
        return found


KINDS: dict[str, Callable[[Fault, Sequence[Node]], Strain]] = {
    "gpu-pressed": GpuPressed,
}
