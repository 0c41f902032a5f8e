"""The ways to see a fault's effect, a class for each kind: from outside wherever that can be.

What the agent's own programs and the kernel's queues counted is a piece beside it, never instead of
what a witness that was named should have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from aftershock import gpufragments, gpupressure, strain
from aftershock.attempts import Attempts
from aftershock.capped import Capped
from aftershock.counting import Counting
from aftershock.cudalocks import Locks
from aftershock.errors import AftershockError
from aftershock.evidence import Channels, Onlooker, Piece, slower
from aftershock.faults.base import Fault, PerNode
from aftershock.faults.dns import Dns
from aftershock.faults.freeze import Freeze
from aftershock.faults.traffic import Traffic
from aftershock.fullness import Fullness
from aftershock.hosts.channel import AgentChannel
from aftershock.inventory import Node
from aftershock.openers import Openers
from aftershock.slowness import Slowness
from aftershock.stillness import Stillness

REACH_S = 0.4
_EVENTS = 20  # how many lost or repeated echoes are aimed at
_OF_HOSTS: Mapping[str, Callable[[Fault, Sequence[Node]], Onlooker]] = {
    "frozen": Stillness,
    "full": Fullness,
    "late": Slowness,
    "late-files": Openers,
    "failing": Attempts,
    "capped": Capped,
    "cuda-locked": Locks,
    **strain.KINDS,
    **gpupressure.KINDS,
    **gpufragments.KINDS,
}


def onlooker_for(
    fault: Fault,
    nodes: Sequence[Node],
    witness: Node | None,
    spared: Sequence[Node],
    controls: Sequence[Node] = (),
) -> Onlooker:
    """Who looks at a fault of this kind."""
    if own := _OF_HOSTS.get(fault.effect.kind):
        return own(fault, nodes)
    if isinstance(fault, PerNode):
        return Mesh(fault, nodes, spared)
    traffic, kind = traffic_of(fault), fault.effect.kind
    if kind == "silent" and (traffic is None or traffic.is_everything):
        return Silence(fault, nodes, witness, spared, controls)
    if traffic is None or kind in ("reset", "checked", "throttled"):
        return Counting(nodes)
    if kind == "silent":
        return SilentPort(traffic, nodes, witness)
    return RoundTrips(fault, traffic, nodes, witness)


def traffic_of(fault: Fault) -> Traffic | None:
    """The packets that a fault touches; None for one that isn't of the network."""
    if isinstance(fault, Dns):
        return fault.queries
    return getattr(fault, "traffic", None)


def cuts_controller(fault: Fault) -> bool:
    """Whether a fault may cut the way to its own agents: then only the lease's deadline heals."""
    parts = fault.by_node.values() if isinstance(fault, PerNode) else (fault,)
    return any(
        traffic.cut_controller if (traffic := traffic_of(part)) else _takes_channel(part)
        for part in parts
    )


def _takes_channel(fault: Fault) -> bool:
    return isinstance(fault, Freeze) and fault.takes_channel


def touches(fault: Fault, witness: Node) -> bool:
    """Whether a fault can be seen from a witness."""
    if isinstance(fault, PerNode):
        return True
    traffic = traffic_of(fault)
    felt = traffic.touches if traffic else fault.cuts
    return any(felt(address) for address in witness.addresses)


class Silence(Counting):
    """A witness that gets no answer any more from hosts that are cut off from it."""

    def __init__(
        self,
        fault: Fault,
        nodes: Sequence[Node],
        witness: Node | None,
        spared: Sequence[Node],
        controls: Sequence[Node] = (),
    ) -> None:
        super().__init__(nodes)
        self._fault = fault
        self._witness = witness
        self._spared = spared
        self._controls = [
            address for node in controls for address in node.addresses if node not in nodes
        ]
        self._answered: set[str] = set()
        self._controlled: set[str] = set()
        # What the agent counts is its own word: a witness that was named must have seen it.
        self.needed = ("silent",) if witness else ()

    def look_before(self, channels: Channels) -> None:
        """Note which of the hosts' and the controls' addresses the witness reaches by now."""
        if self._witness:
            theirs = [a for node in self._nodes for a in node.addresses]
            reached = _answering(channels[self._witness.name], [*theirs, *self._controls])
            self._answered = reached.intersection(theirs)
            self._controlled = reached.intersection(self._controls)

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        counted = super().look(channels, injection)
        unheard = {piece.host for piece in counted if piece.ok is None}
        return [*counted, *self._silent(channels), *self._still_reached(channels, unheard)]

    def _silent(self, channels: Channels) -> list[Piece]:
        if not self._witness:
            return _blind("silent", self._nodes, "no witness was named")
        outsider, name = channels[self._witness.name], self._witness.name
        try:
            now = _answering(outsider, sorted(self._answered | self._controlled))
        except AftershockError as error:  # blind is not silent
            return _blind("silent", self._nodes, str(error))
        if self._controlled and not now:  # its own network may be what went
            others = ", ".join(sorted(self._controlled))
            seen = f"{name} reaches nothing any more, not even {others}"
            return _blind("silent", self._nodes, seen)
        pieces = []
        for node in self._nodes:
            before = self._answered.intersection(node.addresses)
            still = sorted(now.intersection(before))
            seen = f"answers {name} at {', '.join(still)}" if still else f"{name} gets no answer"
            if not before:
                seen = f"{name} got no answer before the fault either"
            pieces.append(Piece("silent", node.name, not still if before else None, seen))
        return pieces

    def _still_reached(self, channels: Channels, unheard: set[str]) -> list[Piece]:
        pieces = []
        for node in self._nodes:
            if node.name in unheard:
                pieces.append(Piece("spared", node.name, None, "its agent can't be asked"))
                continue
            near = [a for other in self._spared if other.name != node.name for a in other.addresses]
            near = [address for address in near if not self._fault.cuts(address)]
            if not near:
                pieces.append(Piece("spared", node.name, None, "no spared peer was named"))
                continue
            pieces.append(_spared(channels[node.name], near))
        return pieces


class SilentPort(Counting):
    """A TCP handshake with a port that is cut, between host and witness; a refusal is an answer."""

    def __init__(self, traffic: Traffic, nodes: Sequence[Node], witness: Node | None) -> None:
        super().__init__(nodes)
        self._witness = witness
        self._ways: dict[str, tuple[str, str, int]] = {}  # node → who asks, whom, at which port
        for node in nodes if "tcp" in (traffic.protocols or ("tcp",)) else ():
            if witness and (pair := _pair(traffic, node, witness)):
                host, outside = pair
                if traffic.peer_ports:
                    self._ways[node.name] = (node.name, outside, traffic.peer_ports[0][0])
                elif traffic.local_ports:
                    self._ways[node.name] = (witness.name, host, traffic.local_ports[0][0])
                elif traffic.protocols:
                    self._ways[node.name] = (node.name, outside, 9)  # discard: refused, mostly
        self.needed = ("silent",) if self._ways else ()
        self._answered: set[str] = set()

    def look_before(self, channels: Channels) -> None:
        """Note which handshakes are answered by now."""
        asked = [node.name for node in self._nodes if node.name in self._ways]
        self._answered = {node for node in asked if self._answers(channels, node)}

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        return [
            *super().look(channels, injection),
            *(self._silent(channels, node.name) for node in self._nodes),
        ]

    def _silent(self, channels: Channels, node: str) -> Piece:
        if node not in self._ways:
            return Piece("silent", node, None, "no witness can try this protocol")
        asker, address, port = self._ways[node]
        what = f"{asker} to port {port} of {address}"
        if node not in self._answered:
            return Piece("silent", node, None, f"{what}: no answer before the fault either")
        answers = self._answers(channels, node)
        return Piece("silent", node, not answers, f"{what}: {'' if answers else 'no '}answer")

    def _answers(self, channels: Channels, node: str) -> bool:
        asker, address, port = self._ways[node]
        words = {"address": address, "timeout_s": REACH_S, "port": port}
        return bool(channels[asker].ask("reach", REACH_S + 5, **words)["answered"])


class RoundTrips(Counting):
    """Echoes between witness and hosts: slower, lost or repeated, beside what they were before."""

    def __init__(
        self, fault: Fault, traffic: Traffic, nodes: Sequence[Node], witness: Node | None
    ) -> None:
        super().__init__(nodes)
        self._effect = fault.effect
        self._witness = witness
        echoes = "icmp" in (traffic.protocols or ("icmp",))
        portless = not (traffic.peer_ports or traffic.local_ports)
        self._targets: dict[str, str] = {}
        for node in nodes if echoes and portless else ():
            if witness and (pair := _pair(traffic, node, witness)):
                self._targets[node.name] = pair[0]
        self.needed = (self._effect.kind,) if self._targets else ()
        self._before: dict[str, Mapping[str, Any]] = {}

    def look_before(self, channels: Channels) -> None:
        """Measure round trips as they are by now."""
        self._before = self._measure(channels)

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        now = self._measure(channels)
        told = [self._compare(node.name, now.get(node.name)) for node in self._nodes]
        return [*super().look(channels, injection), *told]

    def _measure(self, channels: Channels) -> dict[str, Mapping[str, Any]]:
        if not self._witness:
            return {}
        channel, words = channels[self._witness.name], self._words()
        targets = {
            one.name: self._targets[one.name] for one in self._nodes if one.name in self._targets
        }
        posted = {
            node: channel.post("probe", address=address, **words)
            for node, address in targets.items()
        }
        longest = words["timeout_s"] + words["count"] * (words["interval_s"] + 0.01) + 10
        return {node: channel.result(each, "probe", longest) for node, each in posted.items()}

    def _words(self) -> dict[str, Any]:
        if self._effect.kind == "slower":
            timeout_s = min(60.0, 3 * self._effect.size / 1000 + 0.5)
            if self._effect.share == 1:
                return {"count": 9, "interval_s": 0.02, "timeout_s": timeout_s}
            count = min(400, max(40, round(_EVENTS / self._effect.share)))
            return {"count": count, "interval_s": 0.002, "timeout_s": timeout_s}
        count = min(400, max(40, round(_EVENTS / max(self._effect.size, 0.001))))
        return {"count": count, "interval_s": 0.002, "timeout_s": REACH_S}

    def _compare(self, node: str, now: Mapping[str, Any] | None) -> Piece:
        kind, size = self._effect.kind, self._effect.size
        before = self._before.get(node)
        if before is None or now is None:
            return Piece(kind, node, None, "no witness that could send echoes")
        if before["answered"] < before["sent"] / 2:
            return Piece(kind, node, None, "no answer before the fault either")
        if kind == "slower":
            return slower(node, before["rtt_ms"], now["rtt_ms"], self._effect)
        if kind == "repeated":
            seen = f"{now['repeated']} of {now['sent']} echoes answered again"
            return Piece(kind, node, now["repeated"] >= now["sent"] * size / 2, seen)
        lost, was = now["sent"] - now["answered"], before["sent"] - before["answered"]
        seen = f"{lost} of {now['sent']} echoes lost, {was} before"
        return Piece(kind, node, lost - was >= max(1, now["sent"] * size / 2), seen)


class Mesh(Counting):
    """Every node tries everyone: who is cut off from whom gets no answer, the rest do.

    `everyone` are those between whom the shape is, also such as nothing is done to.
    """

    needed = ("silent",)

    def __init__(self, fault: PerNode, nodes: Sequence[Node], everyone: Sequence[Node]) -> None:
        super().__init__(nodes)
        self._fault = fault
        self._everyone = everyone
        self._before: dict[str, set[str]] = {}

    def look_before(self, channels: Channels) -> None:
        """Note who reaches whom by now."""
        self._before = self._reached(channels)

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        now = self._reached(channels)
        meant = [piece for node in self._nodes for piece in self._compare(node, now[node.name])]
        counted = [
            piece if piece.ok else Piece(piece.name, piece.host, None, piece.seen)
            for piece in super().look(channels, injection)
        ]  # one that nobody is to be cut from counts nothing
        return [*counted, *meant]

    def _reached(self, channels: Channels) -> dict[str, set[str]]:
        return {
            node.name: _answering(
                channels[node.name],
                [a for other in self._everyone if other is not node for a in other.addresses],
            )
            for node in self._nodes
        }

    def _compare(self, node: Node, now: set[str]) -> list[Piece]:
        cut: set[str] = set()
        kept: set[str] = set()
        for other in self._everyone:
            if other is not node:
                (cut if self._apart(node, other) else kept).update(other.addresses)
        before = self._before[node.name]
        still, gone = sorted(now & cut), sorted((before & kept) - now)
        silent = f"{len(cut & before) - len(still)} of {len(cut & before)} cut addresses are silent"
        spared = f"reaches {len(now & kept)} of {len(before & kept)} that it should"
        return [
            Piece("silent", node.name, not still if cut & before else None, silent),
            Piece("spared", node.name, not gone if kept & before else None, spared),
        ]

    def _apart(self, one: Node, other: Node) -> bool:
        return self._deaf(one, other) or self._deaf(other, one)

    def _deaf(self, hearer: Node, speaker: Node) -> bool:
        fault = self._fault.by_node.get(hearer.name)
        return fault is not None and any(fault.cuts(address) for address in speaker.addresses)


def _pair(traffic: Traffic, node: Node, witness: Node) -> tuple[str, str] | None:
    """An address of the host and one of the witness between which packets are touched."""
    for outside in witness.addresses:
        for address in node.addresses if traffic.touches(outside) else ():
            if ip_address(address).version == ip_address(outside).version:
                return address, outside
    return None


def _blind(name: str, nodes: Sequence[Node], why: str) -> list[Piece]:
    return [Piece(name, node.name, None, why) for node in nodes]


def _answering(channel: AgentChannel, addresses: Sequence[str]) -> set[str]:
    """The addresses that answer the channel's host; all asked at once."""
    posted = {
        address: channel.post("reach", address=address, timeout_s=REACH_S) for address in addresses
    }
    answers = {
        address: channel.result(answer, "reach", REACH_S + 5) for address, answer in posted.items()
    }
    return {address for address, answer in answers.items() if answer["answered"]}


def _spared(channel: AgentChannel, near: Sequence[str]) -> Piece:
    try:
        reached = _answering(channel, near)
    except AftershockError as error:
        return Piece("spared", channel.name, False, str(error))
    seen = f"reaches {len(reached)} of {len(near)} spared addresses"
    return Piece("spared", channel.name, bool(reached), seen)
