"""Who sees that GPUs are pressed: NVML, asked from another process than the one that presses."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from aftershock.counting import OBSERVE_S
from aftershock.errors import AftershockError
from aftershock.evidence import Channels, Onlooker, Piece, unseen
from aftershock.faults.base import Fault, on
from aftershock.hosts.channel import AgentChannel
from aftershock.inventory import Node
from aftershock.strain import Strain, Told
from aftershock.xidlog import XidLog, in_words

_MIB = 1 << 20
_ASK_S = 20.0
_ENOUGH, _BUSY_ENOUGH = 0.9, 0.7
_CLOCK_STEP_MHZ, _BY_USER = 15, "clocks set by a user"
_PATIENCE_S = 15.0


class GpuStrain(Strain):
    """What all have in common: cards by UUID, as NVML tells, and how real they are."""

    over_s = 0.0

    def __init__(self, fault: Fault, nodes: Sequence[Node]) -> None:
        super().__init__(fault, nodes)
        self.level = ""  # `emulated` where any host's driver is a mock
        self._children: dict[str, set[int]] = {}  # of ours, by host
        self._log = XidLog()

    def look_before(self, channels: Channels) -> None:
        """Every card, and where the kernel's log ends."""
        super().look_before(channels)
        self._log.look_before(channels, [node.name for node in self._nodes])

    def see(self, channel: AgentChannel, fault: Fault) -> Told:
        """Every card and every MIG instance, by its UUID."""
        cards: list[dict[str, Any]] = channel.ask("gpu", _ASK_S, over_s=self.over_s)
        return {one["uuid"]: one for card in cards for one in (card, *card["instances"])}

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now; one GPU proves nothing where of another nobody can tell."""
        pieces = super().look(channels, injection)
        doubtful = {(p.name, p.host) for p in pieces if p.ok is None and p.name in self.needed}
        return [
            replace(one, ok=None) if one.ok and (one.name, one.host) in doubtful else one
            for one in pieces
        ]

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
            if "pid" in asked:
                self._children.setdefault(host, set()).add(asked["pid"])
        return found

    def look_after(self, channels: Channels) -> list[Piece]:
        """That no child of ours has a GPU, as NVML says, and how full each is; Xids."""
        found = self._log.pieces(channels)
        for host, children in self._children.items():
            now = self.see(channels[host], self._fault)
            left = [one["pid"] for card in now.values() for one in card["processes"]]
            shown = [card for card in now.values() if not card["instances"]]
            used = ", ".join(f"{card['memory_used_mib'] or 0:.0f}" for card in shown)
            seen = f"{used} MiB used; our children are gone"
            if still := children & set(left):
                seen = f"{used} MiB used; our children {still} still have a GPU"
            found.append(Piece("gpu-after", host, not still, seen))
        return found

    @abstractmethod
    def of_card(self, host: str, was: Told, now: Told, asked: Told) -> list[Piece]:
        """The pieces of one card."""


class GpuPressed(GpuStrain):
    """NVML's used memory is up by what was taken; the child's own share of it beside that."""

    needed: tuple[str, ...] = ("gpu-pressed",)

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


class GpuBusy(GpuStrain):
    """NVML's utilisation is up; where it was high before, that it is full, and our child there."""

    needed = ("gpu-busy",)
    patience_s = _PATIENCE_S
    over_s = 1.5  # NVML's own window is a second at most

    def of_card(self, host: str, was: Told, now: Told, asked: Told) -> list[Piece]:
        """The rise, in percent of the time."""
        before, busy = (one["window"].get("utilisation_percent") for one in (was, now))
        if not before or not busy:
            return [Piece("gpu-busy", host, None, f"GPU {asked['index']} tells no utilisation")]
        duty = 100 * asked["duty"]
        seen = (
            f"GPU {asked['index']} is busy {busy['mean']:.0f} % of the time, "
            f"{before['mean']:.0f} % before; {duty:.0f} % were asked for"
        )
        # Where others use it as well, some of their time is ours as well: at least the duty.
        ok = busy["mean"] >= _BUSY_ENOUGH * duty and busy["mean"] > before["mean"]
        own = any(one["pid"] == asked["pid"] for one in now["processes"])
        held = f"our child {asked['pid']} is{'' if own else ' not'} among its users"
        return [
            Piece("gpu-busy", host, ok, seen),
            Piece("gpu-holder", host, True if own else None, held),
        ]


class GpuSlow(GpuStrain):
    """NVML's clock stays at or below the lock, and its power limit is the one that was set.

    An idle card's clock is low anyhow: that proves nothing, unless NVML says who set it.
    """

    needed = ("gpu-slow",)
    over_s = 1.0

    def of_card(self, host: str, was: Told, now: Told, asked: Told) -> list[Piece]:
        """Clock and limit."""
        which, found = f"GPU {asked['index']}", []
        if wanted := asked["clock_mhz"]:
            before, clock = (
                one["window"].get("sm_clock_mhz", {}).get("max", 0.0) for one in (was, now)
            )
            seen = f"{which} runs at {clock:.0f} MHz, {before:.0f} before, locked to {wanted:.0f}"
            told = before > wanted + _CLOCK_STEP_MHZ or _BY_USER in now["throttled_by"]
            held = clock <= wanted + _CLOCK_STEP_MHZ
            found.append(Piece("gpu-slow", host, (True if told else None) if held else False, seen))
        if "power_set" in asked:
            limit, set_w = now["power_limit_w"], asked["power_set"] / 1000
            seen = f"{which} may use {limit:g} W, {was['power_limit_w']:g} before"
            found.append(Piece("gpu-slow", host, limit <= set_w + 1, seen))
        return found


class GpuLost:
    """CUDA calls that fail, as the processes counted them; an Xid that DCGM shows.

    Where only one of both was asked for, a piece says that it is half a fault.
    """

    needed: tuple[str, ...] = ()
    patience_s = _PATIENCE_S

    def __init__(self, fault: Fault, nodes: Sequence[Node]) -> None:
        self._fault, self._nodes = fault, nodes
        self.level = ""
        self._log = XidLog()

    def look_before(self, channels: Channels) -> None:
        """How real it can be at all, and where the kernel's log ends."""
        self._log.look_before(channels, [node.name for node in self._nodes])
        for node in self._nodes:
            about = on(self._fault, node.name).to_dict()
            told = "driver" if about["processes"] else "telemetry"
            with contextlib.suppress(AftershockError):
                cards = channels[node.name].ask("gpu", _ASK_S, over_s=0.0)
                told = next((c["level"] for c in cards if c.get("level") == "emulated"), told)
            self.level = self.level or told

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        return [piece for node in self._nodes for piece in self._pieces(channels, node, injection)]

    def _pieces(self, channels: Channels, node: Node, injection: str) -> list[Piece]:
        channel, about = channels[node.name], on(self._fault, node.name).to_dict()
        try:
            steps = channel.ask("observe", OBSERVE_S, injection=injection)
            found = [self._piece(channel, node.name, step) for step in steps]
            if about["kernel_log"]:
                found.append(self._logged(channel, node.name, about["xid"]))
        except AftershockError as error:
            return [unseen("gpu-lost", node.name, error)]
        if about["half"]:
            found.append(Piece("half", node.name, None, f"half a fault: {about['half']}"))
        return found

    def _logged(self, channel: AgentChannel, host: str, xid: int) -> Piece:
        told = self._log.since(host, channel)
        if told["why"]:
            return Piece("xid-logged", host, None, f"the kernel's log: {told['why']}")
        seen = [one for one in told["xids"] if one["xid"] == xid]
        said = "; ".join(map(in_words, seen)) or f"none of {xid}"
        return Piece("xid-logged", host, bool(seen), f"the kernel's log has {said}")

    def look_after(self, channels: Channels) -> list[Piece]:
        """What the kernel's log has of Xids by now."""
        return self._log.pieces(channels)

    @staticmethod
    def _piece(channel: AgentChannel, host: str, step: Told) -> Piece:
        if step["kind"] == "cuda-fault":
            seen = f"{step['failed']} CUDA calls failed, as those who made them counted"
            return Piece("cuda-failing", host, step["failed"] > 0, seen)
        shown = {one: channel.ask("xid", _ASK_S, index=int(one)) for one in step["shown"]}
        seen = ", ".join(f"GPU {one}: DCGM shows Xid {xid}" for one, xid in shown.items())
        return Piece("xid-shown", host, all(xid == step["xid"] for xid in shown.values()), seen)


KINDS: dict[str, Callable[[Fault, Sequence[Node]], Onlooker]] = {
    "gpu-pressed": GpuPressed,
    "gpu-lost": GpuLost,
    "gpu-busy": GpuBusy,
    "gpu-slow": GpuSlow,
}
