"""A network partition: all between a host and its peers is lost, silently, both ways or one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.faults.base import Effect, Facts, Plan
from aftershock.faults.traffic import EVERYONE, Network, Traffic, networks

__all__ = ["EVERYONE", "TOTAL_LOSS", "Network", "Partition", "networks"]

TOTAL_LOSS = {"to_bad": 0.0, "to_good": 0.0, "in_good": 1.0, "in_bad": 1.0}


@dataclass(frozen=True, slots=True)
class Partition(Traffic):
    """Drop everything between a host and `peers`, except what `spare` names.

    The longest prefix decides: `peers=EVERYONE` with the zone's own nodes in `spare` cuts a zone
    off from everything else. A partition is the traffic that it drops, and has its fields.
    """

    @property
    def traffic(self) -> Traffic:
        """The packets that are dropped."""
        return self

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "partition"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing but bpf."""
        return ()

    @property
    def effect(self) -> Effect:
        """Silence."""
        return Effect("silent")

    def cuts(self, address: str) -> bool:
        """Whether packets from or to an address are lost."""
        return self.touches(address)

    def plan(self, facts: Facts) -> Plan:
        """One drop step a device."""
        return Plan(tuple(self.steps(facts, "drop", {"loss": TOTAL_LOSS})), self.directions)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, **Traffic.to_dict(self)}
