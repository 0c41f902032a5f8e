"""Which packets a network fault touches, and which it must leave alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Literal, get_args

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import DeviceFacts, Facts, Step, require_bpf

Network = IPv4Network | IPv6Network
Direction = Literal["both", "ingress", "egress"]
Hook = Literal["auto", "tcx", "clsact"]
Ports = tuple[tuple[int, int], ...]

EVERYONE: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
PROTOCOLS = ("tcp", "udp", "icmp")
_MOST_PREFIXES = 1_000_000
_UNDO = {
    "tcx": "the link ends with the agent",
    "clsact": "the agent, or its detached watcher, deletes its own filters",
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Packets between a host and `peers`, except what `spare` names; the longest prefix decides.

    `ingress` is what peers send, `egress` what is sent to them. `protocols`: some of tcp, udp and
    icmp; none means all. `peer_ports` and `local_ports` are ranges, both ends included; a packet is
    touched when one of the two has its port, and none at all means any. `hook` forces a way of
    attaching; `auto` takes TCX where the kernel has it (6.6), since that one ends with the agent,
    even by SIGKILL.

    The controller's own path, the default gateway's address and the cloud's metadata service are
    left alone, unless `cut_controller` (then only the lease's deadline heals), `cut_gateway` or
    `cut_metadata` says otherwise. `allow_rdma` accepts a device with RDMA on it, of which only the
    kernel's own traffic is touched. `names` is for the record: the addresses that host names among
    the peers stood for when they were resolved.
    """

    peers: tuple[Network, ...] = EVERYONE
    spare: tuple[Network, ...] = ()
    protocols: tuple[str, ...] = ()
    peer_ports: Ports = ()
    local_ports: Ports = ()
    direction: Direction = "both"
    hook: Hook = "auto"
    cut_controller: bool = False
    cut_gateway: bool = False
    cut_metadata: bool = False
    allow_rdma: bool = False
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.peers:
            raise InvalidFault("no peers: name the networks to touch")
        if len(self.peers) + len(self.spare) > _MOST_PREFIXES:
            raise InvalidFault(f"more than {_MOST_PREFIXES} prefixes: merge some")
        for name, allowed in (("direction", Direction), ("hook", Hook)):
            if getattr(self, name) not in get_args(allowed):
                known = ", ".join(get_args(allowed))
                raise InvalidFault(f"{name} {getattr(self, name)!r}: one of {known}")
        for network in (*self.peers, *self.spare):
            if not isinstance(network, Network):
                raise InvalidFault(f"{network!r} is no network: use `networks([…])`")
        if unknown := sorted(set(self.protocols) - set(PROTOCOLS)):
            raise InvalidFault(f"protocol {unknown[0]!r}: some of {', '.join(PROTOCOLS)}")
        self._check_ports()
        self._refuse_idle()

    def _check_ports(self) -> None:
        for low, high in (*self.peer_ports, *self.local_ports):
            if not 0 < low <= high <= 65535:
                raise InvalidFault(f"ports {low} to {high}: from 1 to 65535, the lower one first")
        if (self.peer_ports or self.local_ports) and self.protocols == ("icmp",):
            raise InvalidFault("icmp has no ports: leave out the ports, or name tcp or udp")

    def _refuse_idle(self) -> None:
        if all(any(_covers(kept, net) for kept in self.spare) for net in self.peers):
            raise InvalidFault(f"every peer is spared ({self.peers[0]} …): nothing to touch")

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that are touched."""
        return ("ingress", "egress") if self.direction == "both" else (self.direction,)

    @property
    def is_everything(self) -> bool:
        """Whether whole packets are chosen, whatever protocol or port they are of."""
        return not (self.protocols or self.peer_ports or self.local_ports)

    def touches(self, address: str) -> bool:
        """Whether packets from or to an address are chosen (of the chosen protocols and ports)."""
        one = networks([address])[0]
        nets = [
            (net.prefixlen, net in self.spare)
            for net in (*self.spare, *self.peers)
            if _covers(net, one)
        ]
        return bool(nets) and not max(nets)[1]

    def steps(
        self, facts: Facts, kind: str, effect: Mapping[str, Any], undo: str = ""
    ) -> list[Step]:
        """One step a device; `Unsupported` or `InvalidFault` with the mend where that can't be."""
        require_bpf(facts)
        match = self.match(facts)
        told = {"match": match, **effect}
        return [self._step(device, facts, kind, told, undo) for device in facts.devices]

    def _step(
        self, device: DeviceFacts, facts: Facts, kind: str, effect: Mapping[str, Any], undo: str
    ) -> Step:
        if device.rdma and not self.allow_rdma:
            raise Unsupported(
                f"{device.name}: {device.rdma}: RDMA bypasses traffic control, so the fault would "
                "not touch it: name another device, block its switch port by a command fault, or "
                "set allow_rdma to touch the kernel's own traffic only"
            )
        if self.hook == "tcx" and not device.tcx:
            raise Unsupported(
                f"kernel {facts.kernel} has no TCX (6.6 has): leave the hook to `auto`"
            )
        hook = ("tcx" if device.tcx else "clsact") if self.hook == "auto" else self.hook
        where = {"device": device.name, "directions": list(self.directions), "hook": hook}
        return Step(kind, {**where, **effect}, undo or _UNDO[hook])

    def match(self, facts: Facts) -> dict[str, Any]:
        """What an agent is told, with what is protected on that host added to what is spared."""
        kept = self._protected(facts)
        return {
            "peers": [str(net) for net in self.peers],
            "spare": [str(net) for net in (*self.spare, *kept)],
            "protocols": list(self.protocols),
            "peer_ports": [list(ports) for ports in self.peer_ports],
            "local_ports": [list(ports) for ports in self.local_ports],
        }

    def _protected(self, facts: Facts) -> tuple[Network, ...]:
        cut = {
            "controller": self.cut_controller,
            "gateway": self.cut_gateway,
            "metadata": self.cut_metadata,
        }
        kept = []
        for name, addresses in facts.protected.items():
            for net in networks(addresses) if not cut[name] else ():
                if not self.touches(str(net.network_address)):
                    continue
                if name == "controller" and not set(self.peers) <= set(EVERYONE):
                    raise InvalidFault(
                        f"{self._covering(net)} covers the controller, which reaches this host "
                        f"from {net.network_address}: spare it, or set cut_controller and let the "
                        "lease's deadline heal"
                    )
                kept.append(net)
        return tuple(kept)

    def _covering(self, inner: Network) -> Network:
        return max(
            (net for net in self.peers if _covers(net, inner)), key=lambda net: net.prefixlen
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; what isn't used is left out, but for the peers."""
        plain = {
            "peers": [str(net) for net in self.peers],
            "spare": [str(net) for net in self.spare],
            "direction": self.direction,
            "hook": self.hook,
        }
        used = {
            "protocols": list(self.protocols),
            "peer_ports": [list(ports) for ports in self.peer_ports],
            "local_ports": [list(ports) for ports in self.local_ports],
            "cut_controller": self.cut_controller,
            "cut_gateway": self.cut_gateway,
            "cut_metadata": self.cut_metadata,
            "allow_rdma": self.allow_rdma,
            "names": {name: list(found) for name, found in self.names.items()},
        }
        return {**plain, **{name: value for name, value in used.items() if value}}


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and prefixes as networks, host bits cleared; what is none is `InvalidFault`."""
    try:
        return tuple(ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise InvalidFault(f"{error}: use an address or prefix such as 10.0.1.0/24") from None


def parse_ports(text: str) -> Ports:
    """Comma-separated ports and ranges, `53,8000-8010`; none for an empty text."""
    try:
        ends = [part.strip().partition("-") for part in text.split(",") if part.strip()]
        return tuple((int(low), int(high or low)) for low, _, high in ends)
    except ValueError:
        raise InvalidFault(f"ports {text!r}: give them as 53 or 8000-8010,9000") from None


def _covers(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network) and isinstance(inner, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(outer, IPv6Network) and isinstance(inner, IPv6Network):
        return inner.subnet_of(outer)
    return False
