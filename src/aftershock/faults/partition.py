"""A network partition: all between a host and its peers is lost, silently, both ways or one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Literal, get_args

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import DeviceFacts, Facts, Plan, Step, require_bpf

Network = IPv4Network | IPv6Network
Direction = Literal["both", "ingress", "egress"]
Hook = Literal["auto", "tcx", "clsact"]

EVERYONE: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
TOTAL_LOSS = {"to_bad": 0.0, "to_good": 0.0, "in_good": 1.0, "in_bad": 1.0}
_MOST_PREFIXES = 1_000_000


@dataclass(frozen=True, slots=True)
class Partition:
    """Drop everything between a host and `peers`, except what `spare` names.

    The longest prefix decides: `peers=EVERYONE` with the zone's own nodes in `spare` cuts a zone
    off from everything else. `ingress` drops what peers send, `egress` what is sent to them. `hook`
    forces a way of attaching; `auto` takes TCX where the kernel has it (6.6), since that one ends
    with the agent, even by SIGKILL.
    """

    peers: tuple[Network, ...]
    spare: tuple[Network, ...] = ()
    direction: Direction = "both"
    hook: Hook = "auto"

    def __post_init__(self) -> None:
        if not self.peers:
            raise InvalidFault("partition: no peers: name the networks to cut off")
        if len(self.peers) + len(self.spare) > _MOST_PREFIXES:
            raise InvalidFault(f"partition: more than {_MOST_PREFIXES} prefixes: merge some")
        for name, allowed in (("direction", Direction), ("hook", Hook)):
            if getattr(self, name) not in get_args(allowed):
                known = ", ".join(get_args(allowed))
                raise InvalidFault(f"partition: {name} {getattr(self, name)!r}: one of {known}")
        for network in (*self.peers, *self.spare):
            if not isinstance(network, Network):
                raise InvalidFault(f"partition: {network!r} is no network: use `networks([…])`")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        cut = [net for net in self.peers if not any(_covers(kept, net) for kept in self.spare)]
        if not cut:
            raise InvalidFault(
                f"partition: every peer is spared ({self.peers[0]} …): nothing to cut"
            )

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "partition"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing but bpf."""
        return ()

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that lose packets."""
        return ("ingress", "egress") if self.direction == "both" else (self.direction,)

    def cuts(self, address: str) -> bool:
        """Whether packets from or to an address are lost."""
        one = networks([address])[0]
        nets = [
            (net.prefixlen, net in self.spare)
            for net in (*self.spare, *self.peers)
            if _covers(net, one)
        ]
        return bool(nets) and not max(nets)[1]

    def plan(self, facts: Facts) -> Plan:
        """One drop step a device."""
        require_bpf(facts)
        return Plan(tuple(self._step(device, facts) for device in facts.devices), self.directions)

    def _step(self, device: DeviceFacts, facts: Facts) -> Step:
        if device.rdma:
            raise Unsupported(
                f"{device.name}: {device.rdma}: RDMA bypasses traffic control, so the partition "
                "would not cut it: name the Ethernet device, or block its port by a command fault"
            )
        if self.hook == "tcx" and not device.tcx:
            raise Unsupported(
                f"kernel {facts.kernel} has no TCX (6.6 has): leave the hook to `auto`"
            )
        hook = ("tcx" if device.tcx else "clsact") if self.hook == "auto" else self.hook
        match = {
            "peers": [str(net) for net in self.peers],
            "spare": [str(net) for net in self.spare],
            "protocols": [],
            "peer_ports": [],
            "local_ports": [],
        }
        options = {
            "device": device.name,
            "directions": list(self.directions),
            "hook": hook,
            "match": match,
            "loss": TOTAL_LOSS,
        }
        return Step("drop", options, _UNDO[hook])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "name": self.name,
            "peers": [str(net) for net in self.peers],
            "spare": [str(net) for net in self.spare],
            "direction": self.direction,
            "hook": self.hook,
        }


_UNDO = {
    "tcx": "the link ends with the agent",
    "clsact": "the agent, or its detached watcher, deletes its own filters",
}


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and prefixes as networks, host bits cleared; what is none is `InvalidFault`."""
    try:
        return tuple(ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise InvalidFault(
            f"partition: {error}: use an address or prefix such as 10.0.1.0/24"
        ) from None


def _covers(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network) and isinstance(inner, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(outer, IPv6Network) and isinstance(inner, IPv6Network):
        return inner.subnet_of(outer)
    return False
