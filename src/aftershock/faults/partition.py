"""A network partition: all between a host and its peers is lost, silently, both ways or one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.faults.base import Effect, Facts, Plan
from aftershock.faults.traffic import (
    EVERYONE,
    Direction,
    Hook,
    Network,
    Ports,
    Traffic,
    networks,
)

__all__ = ["EVERYONE", "TOTAL_LOSS", "Network", "Partition", "networks"]

TOTAL_LOSS = {"to_bad": 0.0, "to_good": 0.0, "in_good": 1.0, "in_bad": 1.0}


@dataclass(frozen=True, slots=True)
class Partition:
    """Drop everything between a host and `peers`, except what `spare` names.

    The longest prefix decides: `peers=EVERYONE` with the zone's own nodes in `spare` cuts a zone
    off from everything else. The fields are those of `Traffic`.
    """

    peers: tuple[Network, ...]
    spare: tuple[Network, ...] = ()
    direction: Direction = "both"
    hook: Hook = "auto"
    protocols: tuple[str, ...] = ()
    peer_ports: Ports = ()
    local_ports: Ports = ()
    cut_controller: bool = False
    cut_gateway: bool = False
    cut_metadata: bool = False
    allow_rdma: bool = False

    def __post_init__(self) -> None:
        _ = self.traffic

    @property
    def traffic(self) -> Traffic:
        """The packets that are dropped."""
        return Traffic(**{name: getattr(self, name) for name in self.__dataclass_fields__})

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

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that lose packets."""
        return self.traffic.directions

    def cuts(self, address: str) -> bool:
        """Whether packets from or to an address are lost."""
        return self.traffic.touches(address)

    def plan(self, facts: Facts) -> Plan:
        """One drop step a device."""
        steps = self.traffic.steps(facts, "drop", {"loss": TOTAL_LOSS})
        return Plan(tuple(steps), self.directions)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, **self.traffic.to_dict()}
