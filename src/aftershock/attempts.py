"""Who sees that a volume's device fails: another process on the host, which reads and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aftershock.errors import Unsupported
from aftershock.evidence import Channels, Piece, unseen
from aftershock.faults.base import Fault, on
from aftershock.faults.failing import LONGEST_S, IoErrors
from aftershock.fullness import ASK_S
from aftershock.hosts.fleet import ask_all
from aftershock.inventory import Node

_AFTER_S = 8.0
_SAID = {"": "went well", "EROFS": "EROFS: read-only until it is unmounted and checked"}


class Attempts:
    """Direct reads of the device itself, and, where writes fail, a write of a file there.

    No file is read: a file system that finds a block of its own unreadable might break by it.
    """

    needed: tuple[str, ...] = ("fails",)
    patience_s = 2.0 * LONGEST_S + 5.0  # errors by turns: until the next turn

    def __init__(self, fault: Fault, nodes: Sequence[Node]) -> None:
        self._fault, self._nodes = fault, nodes

    def look_before(self, channels: Channels) -> None:
        """What can't be is refused here, before the arming; and what fails already."""
        _, errors = self._ask(channels, "fail")
        if errors:
            raise next(iter(errors.values()))
        found, errors = self._ask(channels, "attempts")
        if errors:
            raise next(iter(errors.values()))
        for name, now in found.items():
            if bad := {way: error for way, error in now["ended"].items() if error}:
                told = ", ".join(f"a {way} gets {error}" for way, error in bad.items())
                raise Unsupported(f"{name}: {now['volume']} fails already: {told}: mend that first")

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        found, errors = self._ask(channels, "attempts")
        pieces = [_piece("fails", name, now, False) for name, now in found.items()]
        return [*pieces, *(unseen("fails", name, error) for name, error in errors.items())]

    def look_after(self, channels: Channels) -> list[Piece]:
        """How it is after the heal, writes too: told, and no proof of anything."""
        found, _ = self._ask(channels, "attempts", _AFTER_S, operation="both")
        return [_piece("after", name, now, True) for name, now in found.items()]

    def _ask(self, channels: Channels, what: str, within_s: float = ASK_S, **more: str) -> Any:
        hosts = {node.name: channels[node.name] for node in self._nodes}

        def words(name: str) -> Mapping[str, Any]:
            options = self._of(name).options()
            if what == "attempts":
                options = {key: options[key] for key in ("path", "volume", "operation")}
            return {"what": what, "options": {**options, **more}}

        return ask_all(hosts, "storage", words, within_s)

    def _of(self, name: str) -> IoErrors:
        fault = on(self._fault, name)
        assert isinstance(fault, IoErrors)
        return fault


def _piece(name: str, host: str, now: Mapping[str, Any], well: bool) -> Piece:
    ended = now["ended"]
    seen = "; ".join(f"a {way}: {_SAID.get(error, error)}" for way, error in ended.items())
    ok = not any(ended.values()) or None if well else all(map(_is_error, ended.values()))
    return Piece(name, host, ok, f"another process on {now['volume']}: {seen}")


def _is_error(error: str) -> bool:
    return error in ("EIO", "EROFS")
