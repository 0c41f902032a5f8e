"""What the target is made of: nodes in zones, the way to each, and the service's front door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from aftershock.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Node:
    """One host of the target.

    `netns` is the path of a network-namespace file as seen by the controller (None: the
    controller's own). A network fault touches every one of `devices`. `enter_pid` is a process
    whose PID and mount namespaces the agent joins, so that it ends when they do. `env` is what the
    agent is started with, beside what we have.
    """

    name: str
    zone: str
    addresses: tuple[str, ...]
    devices: tuple[str, ...] = ("eth0",)
    netns: str | None = None
    enter_pid: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inventory:
    """A target: its nodes and where its service is reached.

    `witness` is a node outside every zone that fails (the lab's edge, where the gateway's traffic
    comes from); probes of reachability are sent from it.
    """

    target: str
    nodes: tuple[Node, ...]
    gateway_url: str
    model: str
    kubeconfig: str | None = None
    namespace: str = "default"
    selector: str = ""
    witness: Node | None = None

    def zones(self) -> tuple[str, ...]:
        """The zones' names, in the order in which they first appear."""
        return tuple(dict.fromkeys(node.zone for node in self.nodes))

    def in_zone(self, zone: str) -> tuple[Node, ...]:
        """The nodes of a zone; an unknown zone is `InvalidInput`."""
        if zone not in self.zones():
            known = ", ".join(self.zones())
            raise InvalidInput(f"unknown zone {zone!r}: the target {self.target} has {known}")
        return tuple(node for node in self.nodes if node.zone == zone)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Inventory:
        """The inverse of `to_dict`."""
        fields = dict(plain)
        witness = fields.pop("witness", None)
        nodes = tuple(node_from_dict(node) for node in fields.pop("nodes"))
        return cls(nodes=nodes, witness=node_from_dict(witness) if witness else None, **fields)


def node_from_dict(plain: Mapping[str, Any]) -> Node:
    """A node from plain data; a single `device` may stand for `devices`."""
    fields = dict(plain)
    if "device" in fields:
        fields["devices"] = (fields.pop("device"),)
    for name in ("addresses", "devices"):
        if name in fields:
            fields[name] = tuple(fields[name])
    return Node(**fields)
