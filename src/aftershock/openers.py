"""Who sees that files are late for those who open them: another process on the host, and, at the
end, the kernel's own count of how often anybody else read there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from aftershock.evidence import FELT, Channels, Piece, unseen
from aftershock.faults.base import Fault, on
from aftershock.faults.covering import FileDelay
from aftershock.fullness import ASK_S
from aftershock.hosts.fleet import ask_all
from aftershock.inventory import Node

_ENOUGH = 0.7  # of the delay that was asked for
_AFTER_S = 8.0  # a revert waits for it
Seen = Sequence[Mapping[str, Any]]


class Openers:
    """A file that is opened, before and now: its single reads must take so much longer.

    That proves that the fault is there. Whether the service met it shows at the end alone, since a
    server is made to open its files after the firing: by reads that were not this class' own.
    """

    needed: tuple[str, ...] = ("slower",)
    patience_s = 20.0

    def __init__(self, fault: Fault, nodes: Sequence[Node]) -> None:
        self._fault, self._nodes = fault, nodes
        self._before: dict[str, float] = {}
        self._own: Counter[str] = Counter()

    def look_before(self, channels: Channels) -> None:
        """Measure; what can't be covered is refused here, before the arming."""
        for what in ("cover", "opened"):
            told, errors = self._ask(channels, what)
            if errors:
                raise next(iter(errors.values()))
        self._before = {name: median(one["read_ms"]) for name, one in told.items()}

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        found, errors = self._ask(channels, "opened")
        pieces = []
        for name, now in found.items():
            self._own[name] += now["own"]
            slower = median(now["read_ms"]) - self._before[name] >= _ENOUGH * self._of(name).read_ms
            pieces.append(Piece("slower", name, slower, self._seen(name, now)))
        return [*pieces, *(unseen("slower", name, error) for name, error in errors.items())]

    def look_after(self, channels: Channels) -> list[Piece]:
        """How it is after the heal: told, and no proof of anything."""
        found, _ = self._ask(channels, "opened", _AFTER_S)
        return [
            Piece("after", name, self._is_back(name, now) or None, self._seen(name, now))
            for name, now in found.items()
        ]

    def weigh(self, seen: Mapping[str, Seen]) -> list[Piece]:
        """By what each host's agent saw at the end: who else read there, and who still could."""
        return [piece for name, steps in seen.items() for piece in self._weighed(name, steps)]

    def _weighed(self, name: str, steps: Seen) -> list[Piece]:
        told = next((step for step in steps if "reads" in step), None)
        if told is None:
            return [Piece(FELT, name, None, "its agent was gone, and its count of reads with it")]
        others = max(0, told["reads"] - self._own[name])
        said = f"{others} reads of the copy were others'" if others else "nobody but us read there"
        pieces = [Piece(FELT, name, others > 0, said)]
        if held := told.get("holders"):
            kept = f"still have the copy, without a delay, until they close it: {', '.join(held)}"
            pieces.append(Piece("held", name, None, kept))
        return pieces

    def _is_back(self, name: str, now: Mapping[str, Any]) -> bool:
        return bool(median(now["read_ms"]) < self._before[name] + self._of(name).read_ms / 2)

    def _seen(self, name: str, now: Mapping[str, Any]) -> str:
        took = median(now["read_ms"])
        return f"half of a new reader's reads {took:.3f} ms, {self._before[name]:.3f} before"

    def _ask(self, channels: Channels, what: str, within_s: float = ASK_S) -> Any:
        def words(name: str) -> dict[str, Any]:
            fault = self._of(name)
            options = fault.options() if what == "cover" else {"path": fault.path}
            return {"what": what, "options": options}

        hosts = {node.name: channels[node.name] for node in self._nodes}
        return ask_all(hosts, "storage", words, within_s)

    def _of(self, name: str) -> FileDelay:
        fault = on(self._fault, name)
        assert isinstance(fault, FileDelay)
        return fault
