"""What a run injects: partitions through agents, pod kills and cordons through the API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from aftershock.capacity import Cordon, PodKill
from aftershock.cluster import Cluster
from aftershock.errors import AftershockError, Unsupported
from aftershock.faults.partition import EVERYONE, Network, Partition, networks
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger
from aftershock.run.target import Target


class Injected(Protocol):
    """The life of an injection as a run sees it."""

    @property
    def bit(self) -> bool: ...
    def arm(self) -> None: ...
    def fire(self) -> float: ...
    def observe(self) -> Any: ...
    def revert(self) -> Any: ...
    def to_dict(self) -> dict[str, Any]: ...


class Injections:
    """Every injection of a run, with the zone it was made in."""

    def __init__(self, target: Target, ledger: Ledger, grace_s: float) -> None:
        self.target = target
        self.ledger = ledger
        self.grace_s = grace_s
        self.made: list[tuple[str, Injected]] = []

    def __iter__(self) -> Iterator[Injected]:
        return (injection for _, injection in self.made)

    def partition(self, zone: str, lease_s: float, peers: str) -> Injected:
        """Arm a partition of a zone's nodes; their own zone is spared."""
        nodes = self.target.inventory.in_zone(zone)
        own = networks(address for node in nodes for address in node.addresses)
        fault = Partition(peers=parse_peers(peers), spare=own)
        injection = Injection(
            fault,
            nodes,
            lease_s=lease_s,
            grace_s=self.grace_s,
            ledger=self.ledger,
            fleet=self.target.agents,
            witness=self._witness_of(fault),
            controls=self._controls_of(zone),
        )
        return self._arm(zone, injection)

    def _witness_of(self, fault: Partition) -> Node | None:
        # A partition from others than the witness can't be seen by it: then only packets count.
        witness = self.target.inventory.witness
        cut = witness and any(fault.cuts(address) for address in witness.addresses)
        return witness if cut else None

    def _controls_of(self, zone: str) -> list[Node]:
        """The first node of every other zone: the witness must go on reaching one of them."""
        inventory = self.target.inventory
        return [inventory.in_zone(other)[0] for other in inventory.zones() if other != zone]

    def cordon(self, zone: str) -> Injected:
        """Arm a cordon of a zone's nodes."""
        nodes = self.target.inventory.in_zone(zone)
        return self._arm(zone, Cordon(self.cluster, nodes, self.ledger))

    def pod_kill(self, zone: str, selector: str, grace_s: int = 0) -> Injected:
        """Arm the killing of a zone's pods."""
        nodes = self.target.inventory.in_zone(zone)
        selector = selector or self.target.inventory.selector
        return self._arm(zone, PodKill(self.cluster, nodes, selector, grace_s))

    @property
    def cluster(self) -> Cluster:
        """The target's Kubernetes API; `Unsupported` where it has none."""
        if self.target.cluster is None:
            raise Unsupported("this target has no Kubernetes API: give the inventory a kubeconfig")
        return self.target.cluster

    def revert(self, zone: str | None = None, kinds: Iterable[str] = ()) -> list[str]:
        """Revert in order of firing, each whatever becomes of the others; return what failed."""
        wanted, problems = set(kinds), []
        for where, injection in self.made:
            if zone is not None and where != zone:
                continue
            if wanted and injection.to_dict()["fault"] not in wanted:
                continue
            try:
                injection.revert()
            except AftershockError as error:
                problems.append(str(error))
        return problems

    def _arm(self, zone: str, injection: Injected) -> Injected:
        self.made.append((zone, injection))
        injection.arm()
        return injection


def parse_peers(text: str) -> tuple[Network, ...]:
    """Comma-separated prefixes; none means everything, IPv4 and IPv6."""
    return networks(part.strip() for part in text.split(",")) if text.strip() else EVERYONE
