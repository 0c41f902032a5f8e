"""Established TCP connections are reset: both ends are told, and have to begin anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.traffic import Traffic


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the connections that `traffic` chooses, once or every `every_s` seconds.

    What it does can't be taken back, and needn't be. The kernel needs CONFIG_INET_DIAG_DESTROY.
    """

    every_s: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)

    def __post_init__(self) -> None:
        if not 0 <= self.every_s <= 3600:
            raise InvalidFault(f"every_s {self.every_s:g}: from 0 (once) to 3600")
        if set(self.traffic.protocols) - {"tcp"}:
            raise InvalidFault("reset: only TCP has connections to reset: leave the protocols out")
        if self.traffic.direction != "both":
            raise InvalidFault("reset: a connection has both directions: leave the direction out")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "reset"

    @property
    def wants(self) -> tuple[str, ...]:
        """What the kernel must be able to."""
        return ("sock_destroy",)

    @property
    def effect(self) -> Effect:
        """Connections that were there and are not any more."""
        return Effect("reset")

    def cuts(self, address: str) -> bool:
        """Nobody becomes unreachable."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step for the whole host, whatever devices its connections use."""
        if not facts.root:
            raise Unsupported("resetting connections needs root: run as root, or with sudo")
        if why := facts.lacks.get("sock_destroy"):
            raise Unsupported(f"reset: {why}; `aftershock doctor` tells what a host can do")
        options = {"match": self.traffic.match(facts), "every_s": self.every_s}
        return Plan((Step("reset", options, "nothing: what was reset stays reset"),), ("reset",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, "every_s": self.every_s, **self.traffic.to_dict()}
