"""Names no longer resolve: queries leave, and no answer ever comes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from aftershock.errors import InvalidFault
from aftershock.faults.base import Effect, Facts, Plan
from aftershock.faults.partition import TOTAL_LOSS
from aftershock.faults.traffic import Ports, Traffic

_PLAIN: Ports = ((53, 53),)
_OVER_TLS: Ports = ((853, 853),)


@dataclass(frozen=True, slots=True)
class Dns:
    """Drop a host's DNS queries, over UDP and TCP, to all resolvers or to `traffic.peers`.

    `over_tls`: those of DNS over TLS (port 853) too. A resolver on the host itself goes on
    answering from its cache: only what it asks others is dropped.
    """

    over_tls: bool = True
    traffic: Traffic = field(default_factory=lambda: Traffic(direction="egress"))

    def __post_init__(self) -> None:
        if not self.traffic.is_everything:
            raise InvalidFault("dns: protocols and ports are DNS's own: leave them out")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "dns"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing but bpf."""
        return ()

    @property
    def queries(self) -> Traffic:
        """The packets that are dropped."""
        ports = _PLAIN + (_OVER_TLS if self.over_tls else ())
        # A gateway is often the resolver too: its queries are what this is about.
        chosen = replace(self.traffic, protocols=("udp", "tcp"), peer_ports=ports)
        return replace(chosen, cut_gateway=True, cut_metadata=True)

    @property
    def effect(self) -> Effect:
        """A query that is never answered."""
        return Effect("silent")

    def cuts(self, address: str) -> bool:
        """Nobody becomes unreachable but for queries."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One drop step a device."""
        steps = self.queries.steps(facts, "drop", {"loss": TOTAL_LOSS})
        return Plan(tuple(steps), self.queries.directions)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, "over_tls": self.over_tls, **self.queries.to_dict()}
