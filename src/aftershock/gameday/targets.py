"""What a day's runs break, and the locks that keep it for them from the first run to the last."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aftershock.cluster import Cluster
from aftershock.errors import InvalidInput
from aftershock.gameday.hosts import Hosts, broken
from aftershock.gameday.plan import Step
from aftershock.gameday.told import declared
from aftershock.inventory import Inventory
from aftershock.ledger import Ledger
from aftershock.lock import new_token
from aftershock.run.alone import TargetLock, name_of
from aftershock.run.settings import Settings

LAB = "lab"
A_DAY = "the game day"  # what a day's holding of a target begins with, for people


def told(step: Step, folder: Path) -> tuple[str, int]:
    """A run's target, `lab` or the path of its inventory, and the lab's port."""
    listed = {**declared(step.experiment.file), **step.variables}
    target = listed.get("target", LAB)
    if isinstance(target, Mapping):  # as an experiment takes it from the environment
        target = os.environ.get(str(target.get("key"))) or target.get("default") or LAB
    port = Settings.from_configuration({"gateway_port": listed.get("gateway_port", 18080)})
    return (LAB if target == LAB else str(folder / str(target))), port.gateway_port


def inventories(steps: Iterable[Step], folder: Path) -> dict[str, Inventory]:
    """The targets that are no lab, by their inventory's path, as the files have them."""
    from aftershock.inventory_file import read_inventory

    paths = dict.fromkeys(told(step, folder)[0] for step in steps)
    return {path: read_inventory(path) for path in paths if path != LAB}


class Targets:
    """The locks of all targets of a day; its runs stand beside them by `token`."""

    def __init__(self, steps: Iterable[Step], folder: Path, what: str, run_id: str) -> None:
        self.token = new_token()
        self._steps, self._folder, self._what, self._run_id = list(steps), folder, what, run_id
        self._locks: list[TargetLock] = []
        self._hosts: list[Hosts] = []
        self._open = contextlib.ExitStack()

    @property
    def order(self) -> Mapping[str, Any] | None:
        """What somebody asked of the day through a cluster, or a host."""
        by_lease = [lock.order for lock in self._locks]
        return next(filter(None, [*by_lease, *(one.order for one in self._hosts)]), None)

    def acquire(self) -> None:
        """Take all or none; `Occupied` names who has one."""
        try:
            listed = inventories(self._steps, self._folder).values()
            for name, cluster in self._places(listed):
                lock = TargetLock(name, cluster, self._what, self.token)
                lock.acquire()
                self._locks.append(lock)
                if cluster:
                    ledger = Ledger(self._run_id)
                    self._open.callback(ledger.close)
                    lock.note(ledger)
            self._keep_hosts(listed)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let all go; twice is fine."""
        while self._hosts:
            self._hosts.pop().release()
        while self._locks:
            self._locks.pop().release()
        self._open.close()

    def _keep_hosts(self, listed: Iterable[Inventory]) -> None:
        """Where no cluster tells other controllers of us, the hosts themselves do."""
        for inventory in listed:
            if nodes := broken(inventory):
                self._hosts.append(Hosts(nodes, self.token, self._locks[0].holder))
                self._hosts[-1].keep()

    def _places(self, listed: Iterable[Inventory]) -> Iterable[tuple[str, Cluster | None]]:
        ports = {port for target, port in self._told() if target == LAB}
        yield from ((name_of(lab_port=port), None) for port in sorted(ports))
        for inventory in listed:
            cluster = None
            if inventory.kubeconfig is not None:
                cluster = cluster_of(inventory)
                self._open.callback(cluster.close)
            yield name_of(inventory.gateway_url), cluster

    def _told(self) -> list[tuple[str, int]]:
        return [told(step, self._folder) for step in self._steps]


def cluster_of(inventory: Inventory) -> Cluster:
    """The cluster that a target is; whoever asks closes it."""
    assert inventory.kubeconfig is not None
    return Cluster(inventory.kubeconfig, inventory.namespace)


def only_known(names: Iterable[str], known: Iterable[str]) -> None:
    """`InvalidInput` for an experiment that the plan doesn't have."""
    there = list(known)
    for name in names:
        if name not in there:
            raise InvalidInput(f"--only {name!r}: the plan has {', '.join(there)}")
