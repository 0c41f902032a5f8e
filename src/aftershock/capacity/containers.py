"""Containers whose main process is killed, once or again and again, by the agent on their node.

The pod stays, and its kubelet restarts the container: the API tells that by the same UID and a
higher count. Nothing is left to take back but the kubelet's own patience (CrashLoopBackOff).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aftershock.capacity.base import ApiFault
from aftershock.cluster import Cluster
from aftershock.errors import AftershockError, InvalidInput, NotApplied
from aftershock.evidence import Piece
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Node

_RESTARTED_S = 10.0
_LOOK_S = 0.1
_KILL_S = 5.0
_LONGEST_S = 86_400.0
_MOST = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A container of a pod, and the host that it is on."""

    node: Node
    uid: str
    pod: str
    container: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A container as the API has it now; no `id`: it does not run."""

    id: str
    restarts: int


class ContainerKill(ApiFault):
    """Kill containers' main processes, `times` each, `every_s` apart by a seeded chance.

    The first kill of all is the firing; the others come from a thread, until the revert. A
    container that does not run when its turn comes is waited for.
    """

    def __init__(
        self,
        cluster: Cluster,
        targets: Sequence[Target],
        fleet: Fleet,
        *,
        times: int = 1,
        every_s: float = 10.0,
        seed: int = 7,
    ) -> None:
        if not 1 <= times <= _MOST:
            raise InvalidInput(f"times {times}: 1 to {_MOST}")
        if not 0 < every_s <= _LONGEST_S:
            raise InvalidInput(f"every_s {every_s:g}: more than 0 seconds, at most a day")
        if not targets:
            raise InvalidInput("no containers: nothing would happen")
        super().__init__(cluster, tuple({one.node.name: one.node for one in targets}.values()))
        self.kind = "container-kill" if times == 1 else "restart-loop"
        self.targets, self.times, self.every_s, self.seed = tuple(targets), times, every_s, seed
        self.killed: dict[str, int] = {}
        self.errors: list[str] = []
        self._fleet = fleet
        self._before: dict[Target, Seen] = {}
        self._over = threading.Event()
        self._again: threading.Thread | None = None
        self._lock = threading.Lock()

    def parameters(self) -> dict[str, Any]:
        """Which containers, how often they are to be killed and how often they were."""
        names = [f"{one.pod}/{one.container}" for one in self.targets]
        told = {"containers": names, "times": self.times, "every_s": self.every_s}
        return {**told, "seed": self.seed, "killed": dict(self.killed), "errors": self.errors}

    def arm(self) -> None:
        """All of them must run, and their agents be there."""
        self._fleet.channels(self.nodes)
        now = self._seen()
        idle = [f"{one.pod}/{one.container}" for one in self.targets if not now[one].id]
        if idle:
            raise InvalidInput(f"{self.kind}: {', '.join(idle)} does not run: wait until it does")
        self._before = now

    def fire(self) -> float:
        """Kill each once; the earliest moment, before the first."""
        started = time.monotonic()
        problems = [why for one in self.targets if (why := self._kill(one, self._before[one].id))]
        if problems:
            raise NotApplied(f"{self.kind}: {'; '.join(problems)}")
        if self.times > 1:
            self._again = threading.Thread(target=self._go_on, daemon=True, name=self.kind)
            self._again.start()
        return self._note_firing(started)

    def observe(self) -> dict[str, Any]:
        """Whether the API counts the restarts, with every pod still the same."""
        until = time.monotonic() + _RESTARTED_S
        while True:
            now = self._seen()
            self.pieces = [self._piece(one, now[one]) for one in self.targets]
            if self.bit or time.monotonic() > until:
                return self.evidence
            time.sleep(_LOOK_S)

    @property
    def bit(self) -> bool:
        """Whether the API saw every one of them restarted."""
        return bool(self.pieces) and all(piece.ok for piece in self.pieces)

    def revert(self) -> None:
        """Kill no more; what is to be restarted is its kubelet's. Idempotent."""
        self._over.set()
        if self._again:
            self._again.join(_KILL_S * 2)
        self.reverted = True

    def _piece(self, one: Target, now: Seen) -> Piece:
        name, before = f"{one.pod}/{one.container}", self._before[one].restarts
        if now.restarts < 0:
            return Piece("restarted", one.node.name, False, f"the pod of {name} is another one")
        seen = f"{name} restarted {now.restarts - before} times"
        return Piece("restarted", one.node.name, now.restarts > before, seen)

    def _kill(self, one: Target, container: str) -> str:
        """Kill one by its agent; what went wrong."""
        try:
            channel = self._fleet.fresh(one.node)
            channel.ask("kill", _KILL_S, container=container.rpartition("//")[2])
        except AftershockError as error:
            return str(error)
        with self._lock:
            name = f"{one.pod}/{one.container}"
            self.killed[name] = self.killed.get(name, 0) + 1
        return ""

    def _go_on(self) -> None:
        """The further kills, one container after the other, each when it runs anew."""
        chance = random.Random(self.seed)
        last = dict(self._before)
        for _ in range(self.times - 1):
            if self._over.wait(self.every_s * chance.uniform(0.5, 1.5)):
                return
            for one in self.targets:
                if (now := self._anew(one, last[one])) is None:
                    return
                if why := self._kill(one, now.id):
                    self.errors.append(why)
                last[one] = now

    def _anew(self, one: Target, last: Seen) -> Seen | None:
        """The container once it runs anew; None when the loop is over."""
        while not self._over.wait(_LOOK_S):
            try:
                now = self._seen()[one]
            except AftershockError as error:
                self.errors.append(str(error))
                return None
            if now.restarts < 0:
                self.errors.append(f"{one.pod} is gone")
                return None
            if now.id and now.id != last.id:
                return now
        return None

    def _seen(self) -> dict[Target, Seen]:
        pods = {pod["metadata"]["uid"]: pod for pod in self.cluster.described("")}
        return {one: _seen(pods.get(one.uid), one.container) for one in self.targets}


def _seen(pod: dict[str, Any] | None, container: str) -> Seen:
    """A container's state; -1 restarts where its pod is gone."""
    if pod is None:
        return Seen("", -1)
    for one in pod["status"].get("containerStatuses") or ():
        if one["name"] == container:
            runs = "running" in (one.get("state") or {})
            return Seen(one.get("containerID", "") if runs else "", one["restartCount"])
    return Seen("", 0)
