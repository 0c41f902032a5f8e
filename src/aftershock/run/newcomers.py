"""Nodes that join a zone while it is lost are cut off, too, under the same lease.

A cluster autoscaler answers a lost zone with new nodes, perhaps in that very zone: what would come
up there was never part of the fault. Each is let an agent in like the nodes beside it, and its part
is armed for what is left of the lease. One that can't be cut off escaped, which the verdict says.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aftershock.aftermath import gather
from aftershock.capacity.nodes import NodeFault
from aftershock.cluster import Cluster
from aftershock.cluster.places import nodes_of
from aftershock.errors import AftershockError, HostUnreachable, InvalidInput
from aftershock.evidence import Piece, bites, wait_for_bite
from aftershock.faults.base import Fault
from aftershock.injection import Injection
from aftershock.inventory import FromApi, Node
from aftershock.onlookers import onlooker_for

LOOK_S = 1.0
_AGAIN_S = 3.0
_ARM_S, _FIRE_S, _DEAF_S, _SEEN_S = 30.0, 10.0, 1.0, 3.0
_SOON_S = 5.0  # before the heal: who joined so lately has hardly served
_STOPS_S = 2.0

logger = logging.getLogger("chaostoolkit")


class Scout:
    """Who joins zones that are lost, by a cluster's API; `begin` notes who is there already."""

    def __init__(self, cluster: Cluster, nodes: Sequence[Node], zones: Iterable[str]) -> None:
        self._cluster = cluster
        self._beside = {node.zone: node for node in reversed(nodes) if node.zone in set(zones)}
        self._known: set[str] = set()

    def begin(self) -> None:
        """Whoever is there now is no newcomer."""
        self._known = set(self._cluster.zone_of_nodes(anew=True))

    def newcomers(self) -> list[Node]:
        """Those that are new since the last look, each reached as a node beside it is."""
        zones = self._cluster.zone_of_nodes(anew=True)
        new = set(zones) - self._known
        found = []
        for zone, beside in self._beside.items():
            names = {name for name in new if zones[name] == zone}
            found += [one for one in self._like(beside) if one.name in names] if names else []
        # One without a zone yet may get its label later.
        self._known |= {name for name in new if zones[name]}
        return found

    def _like(self, beside: Node) -> list[Node]:
        own = beside.ssh if beside.ssh and beside.ssh.address in beside.addresses else None
        wanted = FromApi(
            self._cluster.zone_label,
            self._cluster.node_selector,
            beside.devices,
            ssh=own,
            agent=beside.agent,
        )
        try:
            nodes = nodes_of(self._cluster, wanted)
        except InvalidInput:  # none that is meant
            return []
        return [replace(node, env=beside.env) for node in nodes]


class ZoneCut(Injection):
    """A partition of whole zones, and of what joins them until the heal.

    `closing`: what closes the zones to new pods, and is done to newcomers, too.
    """

    def __init__(
        self,
        fault: Fault,
        nodes: Sequence[Node],
        *,
        scout: Scout,
        closing: Sequence[NodeFault] = (),
        **more: Any,
    ) -> None:
        super().__init__(fault, nodes, **more)
        self._scout, self._closing = scout, tuple(closing)
        self._controls: Sequence[Node] = more.get("controls", ())
        self._stop = threading.Event()
        self._joining = threading.Lock()
        self._looking: threading.Thread | None = None
        self._since: dict[str, float] = {}  # when each newcomer was seen
        self._joined: dict[str, float] = {}  # when it was cut off, seconds from the firing
        self._escaped: dict[str, str] = {}
        self._late: list[Piece] = []

    def arm(self) -> None:
        """Note who is there; then as all."""
        self._scout.begin()
        super().arm()

    def fire(self) -> float:
        """As all; from then on newcomers are looked for in the background."""
        fired_at = super().fire()
        self._looking = threading.Thread(target=self._look_out, name="newcomers", daemon=True)
        self._looking.start()
        return fired_at

    def stop(self) -> None:
        """Cut off nobody any more, without waiting for what is under way. Idempotent."""
        self._stop.set()

    def revert(self) -> Any:
        """As all, on whoever joined, too."""
        self.stop()
        if self._looking:
            self._looking.join(_STOPS_S)
        with self._joining:
            return super().revert()

    @property
    def evidence(self) -> dict[str, Any]:
        """What was seen of the effect, on newcomers when they were cut off."""
        told = super().evidence
        return {**told, "pieces": [*told["pieces"], *(one.to_dict() for one in self._late)]}

    def to_dict(self) -> dict[str, Any]:
        """As every injection, and who joined."""
        return {**super().to_dict(), "joined": dict(self._joined), "escaped": self._who_escaped()}

    def _who_escaped(self) -> dict[str, str]:
        until = self._ordered_at
        return {
            name: why
            for name, why in list(self._escaped.items())
            if until - self._since[name] > _SOON_S
        }

    def _look_out(self) -> None:
        while not self._stop.wait(LOOK_S) and time.monotonic() < self._deadline:
            try:
                found = self._scout.newcomers()
            except AftershockError as error:
                logger.debug("newcomers: %s", error)
                continue
            for node in found:
                self._since[node.name] = time.monotonic()
                name = f"cutting off {node.name}"
                threading.Thread(target=self._take, args=(node,), name=name, daemon=True).start()

    def _take(self, node: Node) -> None:
        """Cut a newcomer off; where its agent does not start, try again until it is over."""
        logger.info("%s joined %s, which is lost: it is cut off, too", node.name, node.zone)
        self._escaped[node.name] = "its agent did not start in time"
        while not self._stop.is_set():
            try:
                channel = self._fleet.admit(node)
                plans, errors = self._planned({node.name: channel}, [node])
                if errors:
                    raise errors[node.name]
                break
            except AftershockError as error:
                self._escaped[node.name] = str(error)
            self._stop.wait(_AGAIN_S)
        else:
            return
        with self._joining:
            if self._stop.is_set():
                return
            try:
                self._plans |= plans
                self._join(node)
                for one in self._closing:
                    one.join(node)
            except AftershockError as error:
                logger.warning("%s: %s", node.name, error)
                self._escaped[node.name] = str(error)

    def _join(self, node: Node) -> None:
        """Arm and fire on one more node, for what is left of the lease, and look for the effect."""
        everyone = [node, *([self._witness] if self._witness else [])]
        channels = self._fleet.channels(everyone)
        onlooker = onlooker_for(self.fault, [node], self._witness, [node], self._controls)
        onlooker.look_before(channels)
        self.nodes.append(node)
        self._agents[node.name] = channels[node.name].who()
        try:
            self._note_arming()
            left_s = self._deadline - time.monotonic()
            told = {**self._request(node.name), "lease_s": max(0.1, left_s)}
            record = channels[node.name].ask("arm", _ARM_S, **told)
            self._before[node.name] = record["before"]
            self._fire_on(node, channels)
        except AftershockError:
            if not gather(self.id, [node], self._fleet, self._before).errors:
                self.nodes.remove(node)
            raise
        self._joined[node.name] = round(time.monotonic() - (self.fired_at or 0.0), 3)
        pieces = wait_for_bite(onlooker, channels, self.id, _SEEN_S)
        self._late += pieces
        if bites(pieces, onlooker.needed):
            del self._escaped[node.name]
        else:
            self._escaped[node.name] = _why_not(pieces)

    def _fire_on(self, node: Node, channels: Mapping[str, Any]) -> None:
        channel, cuts = channels[node.name], self._lease["deadline_only"]
        try:
            answer = channel.ask("fire", _DEAF_S if cuts else _FIRE_S, injection=self.id, at=None)
        except HostUnreachable:
            if not cuts:  # the answer may be the first thing that it cut
                raise
        else:
            self._fired[node.name] = channel.to_monotonic(answer["fired_at"])


def _why_not(pieces: Sequence[Piece]) -> str:
    """What speaks against an effect."""
    seen = [f"{one.name}: {one.seen}" for one in pieces if not one.ok]
    return f"no effect was seen ({'; '.join(seen)})"
