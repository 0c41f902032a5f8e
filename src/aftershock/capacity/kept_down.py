"""Pods of lost nodes killed, and whatever comes up in their place there, while the nodes are lost.

A cordon and a taint keep most replacements off; not those that tolerate them, as DaemonSets do, nor
those on a node that a cluster autoscaler adds to the lost zone.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

from aftershock.capacity.choosing import Choice, NothingMatches, TooMuch
from aftershock.capacity.repeated import RepeatedKill
from aftershock.cluster import Cluster, Pod, pods
from aftershock.errors import AftershockError
from aftershock.evidence import Piece
from aftershock.inventory import Node

LOOK_S = 1.0
_BLIND_S = 5.0  # who came up in so long a stretch without a look may have served

logger = logging.getLogger("chaostoolkit")


class KeptDown(RepeatedKill):
    """Kill all that a choice means on some nodes, and look for more every second, until the heal.

    `zones`: those that are lost whole, so that nodes which come up in them count, too. What comes
    up and can't be killed (the limits, a refusal) is no effect, and said to be. Static pods are
    left: their node would bring them back unharmed.
    """

    kind = "pod-kill"

    def __init__(
        self,
        cluster: Cluster,
        nodes: Sequence[Node],
        choice: Choice,
        *,
        lease_s: float = 120.0,
        zones: Iterable[str] = (),
        **more: Any,
    ) -> None:
        super().__init__(cluster, nodes, choice, interval_s=LOOK_S, lease_s=lease_s, **more)
        self._lost_zones = frozenset(zones)
        self._elsewhere: set[str] = set()  # nodes that are known not to be lost
        self._looked_at: float | None = None
        self._blind_s = 0.0
        self._trouble = ""  # of the last look
        self._escaped: dict[str, str] = {}  # UID → who that is, and why it lives
        self._left: dict[str, str] = {}

    def parameters(self) -> dict[str, Any]:
        """The choice and its pods, what was killed again, and what was left."""
        told = {**super().parameters(), "again": list(self.rounds[1:]), "left": dict(self._left)}
        for name in ("interval_s", "rounds"):
            del told[name]
        return told

    def touches(self) -> list[str]:
        """The first to go, and what comes after them."""
        first = super().touches()[:-1]
        return [
            *first,
            f"then what comes up there, for {self.lease_s:g} s, chosen by {self.choice}",
        ]

    def fire(self) -> float:
        """Kill what is there, and go on looking in the background."""
        self._looked_at = time.monotonic()
        return super().fire()

    def _after(self, due: float, chance: random.Random) -> float:
        return time.monotonic() + LOOK_S

    def _round(self, choice: Choice, last: list[Pod]) -> list[Pod]:
        """One more look; what is found is killed, what goes wrong is tried again at the next."""
        began, found = time.monotonic(), []
        try:
            if found := self._came_up():
                chosen = self._chosen(choice)
                if self._stop.is_set():
                    return []
                errors = pods.kill(self.cluster, chosen, self.ending.told_s)
                if errors:
                    raise next(iter(errors.values()))
                self._note_round(began, chosen)
                names = ", ".join(f"{pod.name} on {pod.node}" for pod in chosen)
                logger.info("came up while its node is lost, killed again: %s", names)
        except NothingMatches:
            pass  # gone between the two looks
        except TooMuch as error:
            self._escaped |= {pod.uid: f"{pod.name}: {error}" for pod in found}
        except AftershockError as error:
            self._trouble = str(error)
            return []
        self._blind_s = max(self._blind_s, began - (self._looked_at or began))
        self._looked_at, self._trouble = began, ""
        return []

    def _came_up(self) -> list[Pod]:
        matching = pods.listed(self.cluster, self.namespace, self.choice.selector)
        self._mind_new_nodes({pod.node for pod in matching})
        there = [pod for pod in matching if pod.node in self._zones and pod.runs]
        self._left = {pod.name: pod.spared for pod in there if pod.spared}
        return [pod for pod in there if not pod.spared]

    def _mind_new_nodes(self, nodes: set[str]) -> None:
        unknown = nodes - set(self._zones) - self._elsewhere - {""}
        if not unknown or not self._lost_zones:
            return
        zone_of = self.cluster.zone_of_nodes(anew=True)
        lost = {node: zone for node in unknown if (zone := zone_of.get(node)) in self._lost_zones}
        self._zones |= {node: zone or "" for node, zone in lost.items()}
        self._elsewhere |= unknown - set(lost)

    def _afterwards(self) -> list[Piece]:
        if self._looked_at is not None and self._ended_at is not None:
            self._blind_s = max(self._blind_s, self._ended_at - self._looked_at)
        came = sum(len(one["pods"]) for one in self.rounds[1:])
        seen = f"{came} pods came up and were killed again" if came else "no other pod came up"
        ok: bool | None = True
        if self._escaped:
            first = next(iter(self._escaped.values()))
            ok, seen = False, f"{seen}; {len(self._escaped)} lived on: {first}"
        elif self._blind_s > _BLIND_S:
            ok = None
            seen = f"{seen}; nobody could look for {self._blind_s:.0f} s: {self._trouble}"
        return [Piece("kept down", node.name, ok, seen) for node in self.nodes]
