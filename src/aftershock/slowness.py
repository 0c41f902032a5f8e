"""Who sees that a volume is slow: single small reads and writes of another process on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from aftershock.evidence import Channels, Piece, unseen
from aftershock.faults.base import Fault, on
from aftershock.faults.delaying import IoDelay
from aftershock.fullness import ASK_S
from aftershock.hosts.fleet import ask_all
from aftershock.inventory import Node

TIMES, RISE_MS = 2.0, 0.05  # what counts as slower: so many times as long, and so much longer
BUSIER_MIB_S = 1.0
_AFTER_S = 8.0  # a revert waits for it
_ENOUGH = 0.7  # of the delay that was asked for
Look = Mapping[str, Any]


class Slowness:
    """Latency before and now; and, as the kernel's own witness, what the device did meanwhile.

    Half of the reads, or of the writes, must take twice as long as before; where an exact delay was
    asked for, so much longer.
    """

    patience_s = 20.0  # a file that is to be read has to be written first

    def __init__(self, fault: Fault, nodes: Sequence[Node]) -> None:
        self._fault, self._nodes = fault, nodes
        self._before: dict[str, Look] = {}
        self.needed: tuple[str, ...] = ("slower",)

    def look_before(self, channels: Channels) -> None:
        """Measure; what can't be done is refused here, before the arming."""
        steps = {node.name: self._step(node.name) for node in self._nodes}
        self._ask(channels, lambda name: {"what": steps[name][0], "options": steps[name][1]})
        self._before = self._ask(channels, self._latency)
        if all(self._before[name]["device"] for name in self._before):
            self.needed = ("slower", "busy") if self._is_pressure() else ("slower",)

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        hosts = self._hosts(channels)
        found, errors = ask_all(hosts, "storage", self._latency, ASK_S)
        pieces = [piece for name, now in found.items() for piece in self._pieces(name, now)]
        return [*pieces, *(unseen("slower", name, error) for name, error in errors.items())]

    def look_after(self, channels: Channels) -> list[Piece]:
        """How it is after the heal: told, and no proof of anything."""
        found, _ = ask_all(self._hosts(channels), "storage", self._latency, _AFTER_S)
        told = []
        for name, now in found.items():
            before, after = self._before[name], {way: median(now[way]) for way in _WAYS}
            back = all(not _slower(median(before[way]), after[way]) for way in _WAYS)
            seen = ", ".join(f"{_WAYS[way]} {after[way]:.3f} ms" for way in _WAYS)
            told.append(Piece("after", name, back or None, seen))
        return told

    def _pieces(self, name: str, now: Look) -> list[Piece]:
        before, said, slow = self._before[name], [], []
        asked = self._asked(name)
        for way, word in _WAYS.items():
            was, is_now = median(before[way]), median(now[way])
            if not asked:
                slow.append(_slower(was, is_now))
            elif asked[way]:
                slow.append(is_now - was >= _ENOUGH * asked[way])
            said.append(f"{word} {is_now:.3f} ms, {was:.3f} before")
        proven = all(slow) if asked else any(slow)
        pieces = [Piece("slower", name, proven, "; ".join(said))]
        if self._is_pressure():
            pieces.append(_busy(name, before["device"], now["device"]))
        return pieces

    def _asked(self, name: str) -> Mapping[str, float]:
        """How many ms longer reads and writes are to take, where that was said."""
        fault = on(self._fault, name)
        if not isinstance(fault, IoDelay):
            return {}
        return {"read_ms": fault.read_ms, "write_ms": fault.write_ms}

    def _is_pressure(self) -> bool:
        return self._fault.name == "io-pressure"

    def _ask(self, channels: Channels, words: Callable[[str], Look]) -> dict[str, Any]:
        answers, errors = ask_all(self._hosts(channels), "storage", words, ASK_S)
        if errors:
            raise next(iter(errors.values()))
        return answers

    def _hosts(self, channels: Channels) -> Channels:
        return {node.name: channels[node.name] for node in self._nodes}

    def _step(self, name: str) -> tuple[str, Look]:
        fault: Any = on(self._fault, name)
        return ("press" if self._is_pressure() else "delay"), fault.options()

    def _latency(self, name: str) -> Look:
        fault: Any = on(self._fault, name)
        return {"what": "latency", "options": {"path": fault.path}}


_WAYS = {"read_ms": "half of the reads", "write_ms": "half of the writes"}


def _slower(was_ms: float, is_ms: float) -> bool:
    return is_ms >= max(TIMES * was_ms, was_ms + RISE_MS)


def _busy(name: str, before: Look | None, now: Look | None) -> Piece:
    if not before or not now:
        return Piece("busy", name, None, "the kernel counts nothing for this volume's device")
    was, does = _moved(before), _moved(now)
    seen = f"the kernel counts {does:.1f} MiB/s, {was:.1f} before; busy {now['busy_share']:.0%}"
    return Piece("busy", name, does - was >= BUSIER_MIB_S, seen)


def _moved(device: Look) -> float:
    return float(device["read_mib_per_s"] + device["write_mib_per_s"])
