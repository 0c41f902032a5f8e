"""One run at a time against a target: this host's lock, and where it is a cluster a Lease there."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from typing import Any

from aftershock.cluster import Cluster, objects
from aftershock.cluster.lock import NAME, LeaseLock
from aftershock.errors import AftershockError
from aftershock.ledger import Ledger, undoes
from aftershock.lock import TOKEN, HostLock, told

logger = logging.getLogger("chaostoolkit")


def name_of(gateway_url: str = "", lab_port: int = 0) -> str:
    """What a target is locked as: the lab by its port, any other by its service's address."""
    return f"lab on port {lab_port}" if lab_port else gateway_url.rstrip("/")


class TargetLock:
    """Both locks as one. `what` holds them, in a few words; `token` lets others in beside us."""

    def __init__(self, name: str, cluster: Cluster | None, what: str, token: str = "") -> None:
        self._host = HostLock(name, what, token)
        self._cluster = cluster
        self._lease = LeaseLock(cluster, what, self._host.token) if cluster else None
        self._entry: tuple[Ledger, str] | None = None

    @property
    def token(self) -> str:
        """What others need to stand beside us."""
        return self._host.token

    @property
    def holder(self) -> str:
        """Who we are, for people."""
        return told(self._host.me)

    @property
    def order(self) -> Mapping[str, Any] | None:
        """What somebody asked of us through the cluster."""
        return self._lease.order if self._lease else None

    def acquire(self) -> None:
        """Take both or neither; `Occupied` names who has one."""
        self._host.acquire()
        try:
            if self._lease and not self._lease.acquire():
                self._lease = None
        except BaseException:
            self._host.release()
            raise
        for lock in (self._host, self._lease):
            if lock and lock.stale:
                logger.warning("the lock of %s was stale: its process is gone", told(lock.stale))

    def note(self, ledger: Ledger) -> None:
        """Let `recover` delete the Lease, should we not come to it."""
        if self._lease and self._cluster and not os.environ.get(TOKEN):
            way = {"kubeconfig": self._cluster.kubeconfig, "namespace": self._cluster.namespace}
            self._entry = ledger, ledger.intend_undo("target-lease", {**way, "token": self.token})

    def leave_cluster(self) -> None:
        """Let the Lease go, while there still is a way to its cluster; twice is fine."""
        if self._lease:
            self._lease.release()
        if self._entry:
            ledger, entry = self._entry
            ledger.undone(entry)
            self._entry = None

    def release(self) -> None:
        """Let all go; twice is fine."""
        try:
            self.leave_cluster()
        finally:
            self._host.release()


def of_run(name: str, cluster: Cluster | None, what: str) -> TargetLock:
    """A run's: beside its game day's, if it has one."""
    return TargetLock(name, cluster, what, os.environ.get(TOKEN, ""))


@undoes("target-lease")
def let_go(undo: Mapping[str, Any]) -> str:
    """For `recover`: the Lease of a run that is gone."""
    with contextlib.closing(Cluster(undo["kubeconfig"], undo["namespace"])) as cluster:
        place = {"namespace": undo["namespace"], "name": NAME}
        try:
            lease = objects.get(cluster, "lease", place)
        except AftershockError as error:
            return f"its Lease {NAME} is stale by itself ({error})"
        if lease and lease["spec"].get("holderIdentity") == undo["token"]:
            objects.delete(cluster, "lease", place)
            return f"its Lease {NAME} in {undo['namespace']} is deleted"
        return f"its Lease {NAME} is gone, or another's by now"
