"""A change in an API that outlives its author: in two hands before it is made."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aftershock.capacity.base import ApiFault
from aftershock.capacity.reaper import PERMISSIONS, Reaper
from aftershock.cluster import Cluster
from aftershock.cluster.permissions import Permission
from aftershock.errors import AftershockError, HostUnreachable, NotApplied, NotReverted
from aftershock.inventory import Node
from aftershock.ledger import Ledger


class HeldChange(ApiFault, ABC):
    """What is changed in an API: on disk and in a reaper's hands before it is done.

    `reaper` takes it back when we are gone, or after `lease_s`; without one only `recover` does.
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: Sequence[Node],
        ledger: Ledger,
        reaper: Reaper | None = None,
        lease_s: float = 120.0,
    ) -> None:
        super().__init__(cluster, nodes)
        self.ledger = ledger
        self._reaper, self._lease_s = reaper, lease_s
        self._entry = ""
        self._healed_early = False

    @property
    def healed_early(self) -> bool:
        """Whether the reaper took it back: we were silent for too long, or the lease was over."""
        return self._healed_early

    def permissions(self) -> list[Permission]:
        """What the reaper takes."""
        return list(PERMISSIONS if self._reaper else ())

    @abstractmethod
    def change(self) -> dict[str, Any]:
        """What it does, in the reaper's words; without paths there is nothing to take back."""

    @abstractmethod
    def undo(self) -> dict[str, Any]:
        """What `recover` has to know of it."""

    @abstractmethod
    def put(self) -> None:
        """Make the change."""

    @abstractmethod
    def take_off(self) -> list[str]:
        """Undo it everywhere whatever happens; the places where it still is."""

    def arm(self) -> None:
        """Note what is to be undone before it is done, on disk and with the reaper."""
        undo = {
            "kubeconfig": self.cluster.kubeconfig,
            "namespace": self.cluster.namespace,
            "emulated": self.cluster.emulated,
            **self.undo(),
        }
        self._entry = self.ledger.intend_undo(self.kind, undo)
        change = self.change()
        if self._reaper and change["paths"]:
            everywhere = [node.in_cluster for node in self.nodes]
            self._reaper.guard(self._entry, change, self._lease_s, everywhere)

    def fire(self) -> float:
        """Make the change; when a part of it is refused, what was done before is undone."""
        started = time.monotonic()
        try:
            self.put()
        except AftershockError as error:
            self.revert()
            raise NotApplied(f"{self.kind}: {error}") from error
        return self._note_firing(started)

    def revert(self) -> None:
        """Undo what we did, and check that it is undone. Idempotent."""
        if self.reverted:
            return
        if self._reaper and self.fired_at is not None:
            self._healed_early = self._reaper.has_healed()
        if left := self.take_off():
            names = ", ".join(left)
            raise NotReverted(f"there is still a {self.kind} on {names}; run: aftershock recover")
        if self._reaper:
            self._reaper.release(self._entry)
        self.reverted = True
        if self._entry:
            self.ledger.undone(self._entry)


def take_back(
    undo: Mapping[str, Any],
    what: str,
    of: str,
    mend: Callable[[Cluster], Sequence[str]],
    done: str = "",
    there: Callable[[Cluster], bool] = lambda _: True,
) -> str:
    """Undo a dead run's change (for `recover`); returns a sentence about it.

    `there`: whether it is yet; a reaper may have been faster.
    """
    try:
        cluster = Cluster(undo["kubeconfig"], undo["namespace"])
        try:
            cluster.pods("")  # a dead API says so once, not once a node
            was_there = there(cluster)
            left = mend(cluster)
        finally:
            cluster.close()
    except HostUnreachable:
        if not undo.get("emulated"):
            raise
        return f"the lab is gone, and the {what} of {of} with it"
    if left:
        raise NotReverted(f"there is still a {what} on {', '.join(left)}")
    if not was_there:
        return f"the {what} had been taken off {of} already"
    return done or f"took the {what} off {of}"
