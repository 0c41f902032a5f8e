"""Whatever we lack, by the user's own commands: a switch's port, a cloud's API, a vendor's tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.errors import InvalidFault
from aftershock.faults.base import Effect, Facts, Plan, Step

_LONGEST_S = 600.0


@dataclass(frozen=True, slots=True)
class Command:
    """Run `apply` on the host, and `undo` when the lease ends, however it ends.

    Each is a program and its words. `undo` must be harmless when there is nothing (any more) to
    undo. `check` exits with 0 while the effect is there and with 1 while it isn't; without one
    nothing proves the effect, and a run with it is never better than INCONCLUSIVE.
    """

    apply: tuple[str, ...]
    undo: tuple[str, ...]
    check: tuple[str, ...] = ()
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("apply", "undo"):
            if not getattr(self, name):
                raise InvalidFault(f"command: no {name}: give a program and its words")
        if not 0 < self.timeout_s <= _LONGEST_S:
            raise InvalidFault(
                f"command: timeout_s {self.timeout_s:g}: more than 0, at most {_LONGEST_S:g}"
            )

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "command"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def effect(self) -> Effect:
        """What the check says."""
        return Effect("checked")

    def cuts(self, address: str) -> bool:
        """Not known."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step for the whole host."""
        options = {
            "apply": list(self.apply),
            "undo": list(self.undo),
            "check": list(self.check) or None,
            "timeout_s": self.timeout_s,
        }
        return Plan((Step("command", options, " ".join(self.undo)),), ("check",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "name": self.name,
            "apply": list(self.apply),
            "undo": list(self.undo),
            "check": list(self.check),
            "timeout_s": self.timeout_s,
        }
