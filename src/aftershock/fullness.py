"""Who sees that a volume is full: another process on the host, by statvfs and by trying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aftershock.evidence import Channels, Piece, unseen
from aftershock.faults.base import Fault, on
from aftershock.faults.filling import DiskFull, InodesFull
from aftershock.hosts.fleet import ask_all
from aftershock.inventory import Node

ASK_S = 40.0
_ENOUGH = 0.9  # of the fall that was asked for
_UNITS = {"space": ("free_bytes", 1 << 20, "MiB"), "inodes": ("free_inodes", 1, "inodes")}


class Fullness:
    """Room before and now; where none was to be left, a write or a new file that is refused."""

    needed: tuple[str, ...] = ("full",)

    def __init__(self, fault: Fault, nodes: Sequence[Node]) -> None:
        self._fault, self._nodes = fault, nodes
        self._before: dict[str, Mapping[str, Any]] = {}
        if not any(self._of(node.name).free for node in nodes):
            self.needed = ("full", "refused")

    def look_before(self, channels: Channels) -> None:
        """Note the room; what can't or mustn't be filled is refused here, before the arming."""
        answers, errors = self._ask(channels, "fill", lambda fault: fault.options())
        if errors:
            raise next(iter(errors.values()))
        self._before = answers

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        found, errors = self._ask(
            channels,
            "room",
            lambda fault: {"path": fault.path, "tries": "" if fault.free else fault.what},
        )
        pieces = [piece for name, now in found.items() for piece in self._pieces(name, now)]
        return [*pieces, *(unseen("full", name, error) for name, error in errors.items())]

    def _ask(self, channels: Channels, what: str, options: Any) -> Any:
        hosts = {node.name: channels[node.name] for node in self._nodes}
        return ask_all(
            hosts,
            "storage",
            lambda name: {"what": what, "options": options(self._of(name))},
            ASK_S,
        )

    def _pieces(self, name: str, now: Mapping[str, Any]) -> list[Piece]:
        fault = self._of(name)
        key, size, unit = _UNITS[fault.what]
        was, left = self._before[name][key], now[key]
        full = was - left >= _ENOUGH * (was - fault.free)
        seen = f"{now['volume']}: {left / size:.4g} {unit} free, {was / size:.4g} before"
        if fault.free:
            why = "not tried: it would take what was to be left"
            return [Piece("full", name, full, seen), Piece("refused", name, None, why)]
        tried = now["tried"]
        said = f"another process gets {tried}" if tried else "another process still can write"
        return [Piece("full", name, full, seen), Piece("refused", name, tried == "ENOSPC", said)]

    def _of(self, name: str) -> DiskFull | InodesFull:
        fault = on(self._fault, name)
        assert isinstance(fault, DiskFull | InodesFull)
        return fault
