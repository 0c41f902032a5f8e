"""Who sees that a host or its processes suffer: the kernel's counters, and a process that looks.

None of it is what the fault's own step says it did; that is a piece beside the others, where it is
the kernel's count of what our children used.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aftershock.counting import OBSERVE_S
from aftershock.errors import AftershockError
from aftershock.evidence import Channels, Piece, unseen
from aftershock.faults.base import Fault, on
from aftershock.hosts.channel import AgentChannel
from aftershock.inventory import Node

_ASK_S = 10.0
_WINDOW_S = 1.0
_ENOUGH, _HALF, _SOME = 0.7, 0.5, 0.2
_FULL = 0.2  # processors
_MB = 1 << 20
Told = Mapping[str, Any]


class Strain(ABC):
    """What all have in common: a look before, and pieces for each host after."""

    needed: tuple[str, ...] = ()
    patience_s = 5.0

    def __init__(self, fault: Fault, nodes: Sequence[Node]) -> None:
        self._fault, self._nodes = fault, nodes
        self._before: dict[str, Told] = {}

    def look_before(self, channels: Channels) -> None:
        """Note how each host is by now."""
        for node in self._nodes:
            self._before[node.name] = self.see(channels[node.name], on(self._fault, node.name))

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        return [piece for node in self._nodes for piece in self._pieces(channels, node, injection)]

    def _pieces(self, channels: Channels, node: Node, injection: str) -> list[Piece]:
        channel, fault = channels[node.name], on(self._fault, node.name)
        try:
            (step, *_) = channel.ask("observe", OBSERVE_S, injection=injection)
            now = self.see(channel, fault)
            return self.compare(node.name, self._before[node.name], now, step, fault)
        except AftershockError as error:
            return [unseen(self.needed[0], node.name, error)]

    @abstractmethod
    def see(self, channel: AgentChannel, fault: Fault) -> Told:
        """How it is now."""

    @abstractmethod
    def compare(self, host: str, was: Told, now: Told, step: Told, fault: Fault) -> list[Piece]:
        """The pieces of one host."""


class Endings(Strain):
    """Processes that were there, and are no more, whatever has come in their place."""

    needed = ("gone",)

    def see(self, channel: AgentChannel, fault: Fault) -> Told:
        """Who is there."""
        return look_at(channel, fault)

    def compare(self, host: str, was: Told, now: Told, step: Told, fault: Fault) -> list[Piece]:
        """Those from before are gone."""
        return [gone(host, was, now)]


class OomKills(Strain):
    """The kernel's count of kills for memory rises, and the chosen ones are gone."""

    needed = ("oom-killed", "gone")
    patience_s = 20.0

    def see(self, channel: AgentChannel, fault: Fault) -> Told:
        """Who is there, and the whole host's count (oom_kill of /proc/vmstat)."""
        return {**look_at(channel, fault), "oom_kills": vitals(channel)["oom_kills"]}

    def compare(self, host: str, was: Told, now: Told, step: Told, fault: Fault) -> list[Piece]:
        """The host's count and the cgroup's, and who died."""
        killed, inside = now["oom_kills"] - was["oom_kills"], step["kills"]
        seen = f"{killed} killed for memory on the host, {inside} of them in {step['cgroup']}"
        enough = min(killed, inside) >= fault.effect.size
        dead = gone(host, was, now)
        if not (fault.to_dict()["processes"].keys() & {"pid", "pattern"}):
            # Of a whole cgroup the kernel takes whom it will: one of them, not all.
            lost = [one for one in was["who"] if one not in now["who"]]
            told = f"{len(lost)} of {len(was['who'])} processes are gone"
            dead = Piece("gone", host, len(lost) >= fault.effect.size, told)
        return [Piece("oom-killed", host, enough, seen), dead]


class Busy(Strain):
    """Processors that are busier by what was asked, by /proc/stat or the cgroup's own account."""

    needed = ("busy",)
    patience_s = 8.0

    def see(self, channel: AgentChannel, fault: Fault) -> Told:
        """How many processors' worth of time was used over a second, and the pressure in it."""
        path = fault.to_dict()["cgroup"]
        first = vitals(channel, path)
        time.sleep(_WINDOW_S)
        last = vitals(channel, path)
        over_s = last["at"] - first["at"]
        used = (last["cpu"]["busy_s"] - first["cpu"]["busy_s"]) / over_s
        told: dict[str, Any] = {"used": used, "cpus": last["cpu"]["cpus"], "group": None}
        told["limit"] = last["cgroup"].get("cpu_limit", last["cpu"]["cpus"])
        if "cpu_s" in last["cgroup"]:
            told["group"] = (last["cgroup"]["cpu_s"] - first["cgroup"]["cpu_s"]) / over_s
        return {**told, "waited": _waited(first, last, "cpu", over_s), "why": last["psi_why"]}

    def compare(self, host: str, was: Told, now: Told, step: Told, fault: Fault) -> list[Piece]:
        """The rise; where all was busy before, that our children get their part of it."""
        asked, key = fault.effect.size, "used" if now["group"] is None else "group"
        rise = now[key] - was[key]
        where = "the host" if key == "used" else fault.to_dict()["cgroup"] or "its cgroup"
        seen = f"{now[key]:.2f} processors of {where} are busy, {was[key]:.2f} before"
        there = len(step["children"])
        running = Piece("children", host, there == step["asked"], f"{there} of them run")
        idle = now["cpus"] - was["used"]
        ok = rise >= _ENOUGH * min(asked, idle) if idle > 0.1 * asked else rise > -0.1
        if key == "group":
            ok = rise > 0 and now[key] >= _ENOUGH * min(asked, now["limit"])
            full = now["cpus"] - now["used"] < _FULL  # then others take what it could have had
            ok = ok or (full and rise >= _SOME * min(asked, now["limit"]))
        return [Piece("busy", host, ok, seen), running, _pressure(host, "cpu", was, now)]


class Pressed(Strain):
    """What of our child is in memory, as the kernel counts it; MemAvailable beside it."""

    needed = ("pressed",)
    patience_s = 40.0

    def see(self, channel: AgentChannel, fault: Fault) -> Told:
        """Memory and pressure over a short while."""
        first = vitals(channel)
        time.sleep(_WINDOW_S / 4)
        last = vitals(channel)
        over_s = last["at"] - first["at"]
        waited = _waited(first, last, "memory", over_s)
        return {"memory": last["memory"], "waited": waited, "why": last["psi_why"]}

    def compare(self, host: str, was: Told, now: Told, step: Told, fault: Fault) -> list[Piece]:
        """The child's memory, and the fall of MemAvailable, which others may hide by leaving."""
        told = fault.to_dict()
        before, free = (one["memory"]["available"] / _MB for one in (was, now))
        asked = told["take_mb"] or before - told["available_mb"]
        taken = step["resident_bytes"] / _MB
        held = f"{taken:.0f} of {asked:.0f} MB are taken, as the kernel counts them"
        seen = f"{free:.0f} MB of memory are available, {before:.0f} before"
        fell = before - free >= _ENOUGH * asked
        return [
            Piece("pressed", host, taken >= _ENOUGH * asked, held),
            Piece("available", host, True if fell else None, seen),
            _pressure(host, "memory", was, now),
        ]


class Swapped(Strain):
    """The processes' own memory that is in swap, by the kernel's account of each."""

    needed = ("swapped",)
    patience_s = 60.0

    def see(self, channel: AgentChannel, fault: Fault) -> Told:
        """Their memory, and the pressure over a short while."""
        first = vitals(channel)
        time.sleep(_WINDOW_S / 4)
        last = vitals(channel)
        waited = _waited(first, last, "memory", last["at"] - first["at"])
        return {**look_at(channel, fault), "waited": waited, "why": last["psi_why"]}

    def compare(self, host: str, was: Told, now: Told, step: Told, fault: Fault) -> list[Piece]:
        """A good part of what was to go is gone: the kernel chooses in all of the cgroup."""
        asked = was["in_memory"] * fault.effect.share
        rise = now["swapped"] - was["swapped"]
        before, there = (one["swapped"] / _MB for one in (was, now))
        seen = f"{there:.0f} MB of theirs are in swap, {before:.0f} before"
        swapped = Piece("swapped", host, bool(asked) and rise >= _HALF * asked, seen)
        return [swapped, _pressure(host, "memory", was, now)]


class Exhausted(Strain):
    """A process that tries to begin others in the cgroup; or free numbers for files."""

    needed = ("exhausted",)

    def see(self, channel: AgentChannel, fault: Fault) -> Told:
        """How many files could be opened, in the process that could open the fewest."""
        return look_at(channel, fault)

    def _pieces(self, channels: Channels, node: Node, injection: str) -> list[Piece]:
        fault, channel = on(self._fault, node.name), channels[node.name]
        if fault.to_dict()["what"] == "files":
            return super()._pieces(channels, node, injection)
        try:
            (step, *_) = channel.ask("observe", OBSERVE_S, injection=injection)
            room = fault.to_dict()["room"]
            tried = channel.ask("fork", _ASK_S, cgroup=step["cgroup"], count=room + 1)
        except AftershockError as error:
            return [unseen("exhausted", node.name, error)]
        said = tried["said"] or "no refusal"
        seen = f"{tried['begun']} processes could be begun in {step['cgroup']}, then: {said}"
        return [Piece("exhausted", node.name, bool(tried["said"]), seen)]

    def compare(self, host: str, was: Told, now: Told, step: Told, fault: Fault) -> list[Piece]:
        """Fewer numbers are free than before, and hardly more than the room that was to be left."""
        if now["free_files"] is None or was["free_files"] is None:
            return [Piece("exhausted", host, False, "the processes are gone")]
        seen = f"{now['free_files']} further files can be opened, {was['free_files']} before"
        ok = now["free_files"] < was["free_files"] and step["set"] > 0
        return [Piece("exhausted", host, ok, seen)]


def vitals(channel: AgentChannel, cgroup: str = "") -> dict[str, Any]:
    """A host's own counters: see `aftershock.agent.vitals`."""
    told: dict[str, Any] = channel.ask("vitals", _ASK_S, cgroup=cgroup)
    return told


def look_at(channel: AgentChannel, fault: Fault) -> Told:
    """Whom another process finds of a fault's processes."""
    told: dict[str, Any] = channel.ask("look", _ASK_S, chosen=fault.choices(), over_s=0.0)  # type: ignore[attr-defined]
    return told


def gone(host: str, was: Told, now: Told) -> Piece:
    """That none of those from before is there any more."""
    left = [one for one in was["who"] if one in now["who"]]
    new = len(now["who"]) - len(left)
    seen = f"{len(was['who']) - len(left)} of {len(was['who'])} processes are gone, {new} new ones"
    return Piece("gone", host, bool(was["who"]) and not left, seen)


def _waited(first: Told, last: Told, kind: str, over_s: float) -> float | None:
    """The share of a while in which somebody waited; None where the kernel doesn't count it."""
    if kind not in last["psi"]:
        return None
    rise: float = last["psi"][kind]["some"]["total_s"] - first["psi"][kind]["some"]["total_s"]
    return rise / over_s


def _pressure(host: str, kind: str, was: Told, now: Told) -> Piece:
    """The second witness: that it did not rise proves nothing, where there is room enough."""
    name = f"{kind}-pressure"
    if now["waited"] is None or was["waited"] is None:
        return Piece(name, host, None, now["why"])
    seen = f"somebody waited for {kind} {now['waited']:.0%} of the time, {was['waited']:.0%} before"
    return Piece(name, host, True if now["waited"] > was["waited"] else None, seen)


KINDS: dict[str, Callable[[Fault, Sequence[Node]], Strain]] = {
    "gone": Endings,
    "oom": OomKills,
    "busy": Busy,
    "pressed": Pressed,
    "exhausted": Exhausted,
    "swapped": Swapped,
}
