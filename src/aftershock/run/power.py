"""Nodes powered off by the user's own commands, which run here and not on the nodes.

A command on the node itself could not bring it back. So an agent of this machine has them, one for
each node, under the same lease as any: when we are gone it powers the node on again, and when this
machine was, too, `aftershock recover` does.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aftershock.counting import Counting
from aftershock.errors import AftershockError, InvalidFault
from aftershock.evidence import Channels, Piece
from aftershock.faults.base import Fault, PerNode
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.run import wording
from aftershock.run.injecting import Injected, Injections
from aftershock.run.processes import Leases
from aftershock.stillness import Outside

if TYPE_CHECKING:
    from aftershock.cluster import Cluster
    from aftershock.run.session import Run

KIND = "power-off"
_REACH_S = 0.4
_LOOKS_S = 15.0  # a machine that shuts down answers for a while
_SILENT_S = 40.0  # of a lease, where nobody can look from beside the node
_WORDS = ("node", "zone", "address")


def power_off_nodes(
    run: Run, where: str, off: str, on: str, check: str, timeout_s: Any, lease_s: Any
) -> dict[str, Any]:
    """See `aftershock.actions.kubernetes.power_off_nodes`."""
    nodes = run.target.inventory.select(where)
    faults: dict[str, Fault] = {}
    for node in nodes:
        apply, undo, seen = (_words(told, node) for told in (off, on, check))
        faults[_here(node).name] = wording.command_fault(apply, undo, seen, timeout_s)
    fault = PerNode(KIND, faults, {"off": off, "on": on, "check": check})
    lease = wording.number("lease_s", lease_s)
    cluster = run.target.cluster

    def make(injections: Injections) -> list[Injected]:
        injections.check_where(nodes, [fault])
        witness = injections.beside(nodes)
        leases = _leases(cluster, run.target.inventory.nodes, nodes, witness is None)
        looker = PowerLoss(nodes, witness, injections.target.agents, leases)
        return [PowerCut(fault, nodes, looker, **injections.terms(lease))]

    return run.breaking.inject(make)


def _leases(
    cluster: Cluster | None, everyone: Sequence[Node], nodes: Sequence[Node], needed: bool
) -> Outside | None:
    """The nodes' leases, where the cluster lets us see them; without another way they must be."""
    if cluster is None:
        return None
    try:
        return Leases(cluster, nodes, everyone).pieces
    except AftershockError:
        if needed:
            raise
        return None


class PowerCut(Injection):
    """Commands on this machine that take the power of `breaks`, and give it back."""

    def __init__(self, fault: PerNode, nodes: Sequence[Node], looker: PowerLoss, **more: Any):
        self.breaks = tuple(nodes)
        super().__init__(fault, [_here(one) for one in nodes], onlooker=lambda _: looker, **more)

    def to_dict(self) -> dict[str, Any]:
        """As every injection; its hosts are the nodes that lose their power."""
        told, names = super().to_dict(), {_here(node).name: node.name for node in self.breaks}
        per_host = {names[name]: host for name, host in told["per_host"].items()}
        return {**told, "hosts": [names[name] for name in told["hosts"]], "per_host": per_host}


class PowerLoss:
    """Who sees that a node is off: another node, its cluster, and the user's own check.

    `witness` is a node beside, with the agents by which it is asked; `outside` tells of leases that
    are not renewed, which takes a while, and is asked where the witness had heard nothing before.
    """

    def __init__(
        self, nodes: Sequence[Node], witness: Node | None, agents: Fleet, outside: Outside | None
    ) -> None:
        self._nodes, self._witness, self._agents = nodes, witness, agents
        self._outside = outside
        self._answered: set[str] = set()
        self._counting = Counting([_here(node) for node in nodes])

    @property
    def patience_s(self) -> float:
        """How long the effect is looked for: a lease takes its time."""
        return _SILENT_S if self._outside and not self._heard() else _LOOKS_S

    @property
    def needed(self) -> tuple[str, ...]:
        """Silence, where somebody heard them all before."""
        return ("silent",) if self._heard() else ()

    def look_before(self, channels: Channels) -> None:
        """Note which of the nodes the witness reaches by now."""
        self._answered = self._reached()

    def look(self, channels: Channels, injection: str) -> list[Piece]:
        """Every piece, as it is now."""
        names = {_here(node).name: node.name for node in self._nodes}
        found = [replace(one, host=names[one.host]) for one in self._checked(channels, injection)]
        if self._answered:
            found += self._silent()
        if self._outside and not self._heard():
            found += self._outside().values()
        return found

    def _heard(self) -> bool:
        return bool(self._answered) and all(
            self._answered.intersection(node.addresses) for node in self._nodes
        )

    def _checked(self, channels: Channels, injection: str) -> list[Piece]:
        return self._counting.look(channels, injection)

    def _silent(self) -> list[Piece]:
        assert self._witness
        name = self._witness.name
        try:
            now = self._reached()
        except AftershockError as error:  # blind is not silent
            return [Piece("silent", node.name, None, str(error)) for node in self._nodes]
        pieces = []
        for node in self._nodes:
            before, still = (
                sorted(reached.intersection(node.addresses)) for reached in (self._answered, now)
            )
            seen = f"answers {name} at {', '.join(still)}" if still else f"{name} gets no answer"
            if not before:
                seen = f"{name} got no answer before either"
            pieces.append(Piece("silent", node.name, not still if before else None, seen))
        return pieces

    def _reached(self) -> set[str]:
        if self._witness is None:
            return set()
        channel = self._agents.fresh(self._witness)
        posted = {
            address: channel.post("reach", address=address, timeout_s=_REACH_S)
            for node in self._nodes
            for address in node.addresses
        }
        answers = {one: channel.result(got, "reach", _REACH_S + 5) for one, got in posted.items()}
        return {address for address, answer in answers.items() if answer["answered"]}


def _here(node: Node) -> Node:
    """This machine, under a name of its own: a node's is its own agent's."""
    return Node(f"power-of-{node.name}", node.zone, (), devices=())


def _words(told: str, node: Node) -> list[str]:
    """A command's words for one node."""
    known: Mapping[str, str] = {
        "node": node.in_cluster,
        "zone": node.zone,
        "address": node.addresses[0] if node.addresses else "",
    }
    try:
        words = shlex.split(told)
    except ValueError as error:
        raise InvalidFault(f"command {told!r}: {error}: close the quotes") from None
    for name, value in known.items():
        words = [word.replace(f"{{{name}}}", value) for word in words]
    return words
