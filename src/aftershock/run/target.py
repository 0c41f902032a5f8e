"""The target of a run: the lab, or what an inventory file names, with an agent on every node."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftershock.cluster import Cluster
from aftershock.errors import AftershockError, InvalidInput, Unsupported
from aftershock.inventory import Inventory, Node
from aftershock.run.settings import Settings

if TYPE_CHECKING:
    from aftershock.hosts.fleet import Fleet
    from aftershock.lab.settings import LabSettings
    from aftershock.lab.world import Lab

logger = logging.getLogger("chaostoolkit")


class Target:
    """What a run breaks and watches. `up` starts what is ours, `down` ends exactly that."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lab: Lab | None = None
        self.cluster: Cluster | None = None
        self.fleet: Fleet | None = None
        self._inventory: Inventory | None = None
        self._shared: contextlib.ExitStack = contextlib.ExitStack()

    @property
    def name(self) -> str:
        """The target's name: `lab`, or what its inventory says."""
        return self._inventory.target if self._inventory else self.settings.target

    @property
    def inventory(self) -> Inventory:
        """What the target is made of; known once it is up."""
        if self._inventory is None:
            raise Unsupported("the target is not up")
        return self._inventory

    def check(self) -> None:
        """Everything that can be known to be wrong before anything is touched."""
        if self.settings.target == "lab":
            from aftershock.lab.preflight import preflight

            lab = self._lab_settings()
            zones = list(dict.fromkeys(place.zone for place in lab.places()))
            if self.settings.zone not in zones:
                raise InvalidInput(
                    f"unknown zone {self.settings.zone!r}: the lab has {', '.join(zones)}"
                )
            preflight(lab)
        else:
            self._inventory = read_inventory(self.settings.target)
            self._inventory.in_zone(self.settings.zone)

    def up(self) -> None:
        """Start the lab if it is the target, then an agent on every node."""
        if self.settings.target == "lab":
            from aftershock.lab.world import Lab

            self.lab = Lab.up(self._lab_settings())
            self._inventory = self.lab.inventory
        if self.inventory.kubeconfig:
            self.cluster = Cluster(
                self.inventory.kubeconfig,
                self.inventory.namespace,
                emulated=self.lab is not None,
            )
            self._shared.enter_context(default_cluster(self.inventory.kubeconfig))
        from aftershock.hosts.fleet import Fleet

        self.fleet = Fleet()
        self.fleet.channels([*self.inventory.nodes, *self._witnesses()])

    def keep_logs(self, folder: Path) -> None:
        """Copy what the lab's processes wrote, without its secrets: the originals go with it."""
        if self.lab is None:
            return
        found = [*self.lab.lab_dir.glob("*.log"), *self.lab.lab_dir.glob("log/*.log")]
        for log in [*found, *self.lab.lab_dir.glob("haproxy.cfg")]:
            if log.stat().st_size:
                shutil.copyfile(log, folder / f"lab-{log.name}")

    def down(self) -> list[str]:
        """End agents and lab; each step whatever becomes of the others. Returns what is left."""
        problems: list[str] = []
        self._shared.close()
        if self.fleet is not None:
            with _noting(problems):
                self.fleet.close()
            self.fleet = None
        if self.cluster is not None:
            with _noting(problems):
                self.cluster.close()
            self.cluster = None
        if self.lab is not None:
            lab, self.lab = self.lab, None
            with _noting(problems):
                lab.down()
            problems += left_of(lab)
        return problems

    @property
    def agents(self) -> Fleet:
        """The agents on the nodes; `Unsupported` before the target is up."""
        if self.fleet is None:
            raise Unsupported("the target is not up")
        return self.fleet

    def _witnesses(self) -> list[Node]:
        witness = self.inventory.witness
        return [] if witness is None else [witness]

    def _lab_settings(self) -> LabSettings:
        from aftershock.lab.settings import LabSettings

        settings = self.settings
        return LabSettings(
            seed=settings.seed, gateway=settings.gateway, gateway_port=settings.gateway_port
        )


@contextlib.contextmanager
def default_cluster(kubeconfig: str) -> Iterator[None]:
    """Other extensions' activities go to this cluster, never to the user's current context.

    The `kubernetes` client reads `KUBECONFIG` when it is imported, kubectl when it is called.
    """
    from kubernetes.config import kube_config

    before = os.environ.get("KUBECONFIG"), kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    os.environ["KUBECONFIG"] = kube_config.KUBE_CONFIG_DEFAULT_LOCATION = kubeconfig
    try:
        yield
    finally:
        os.environ.pop("KUBECONFIG")
        if before[0] is not None:
            os.environ["KUBECONFIG"] = before[0]
        kube_config.KUBE_CONFIG_DEFAULT_LOCATION = before[1]


def left_of(lab: Lab) -> list[str]:
    """What of a lab is still there after its end, looked up anew."""
    left = []
    if lab.alive():
        left.append(f"the lab's init, process {lab.pid}")
    if lab.lab_dir.exists():
        left.append(f"the lab's files, {lab.lab_dir}")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", lab.settings.gateway_port)) == 0:
            left.append(f"a listener on the gateway's port {lab.settings.gateway_port}")
    return left


def read_inventory(path: str) -> Inventory:
    """An inventory file (JSON, as `aftershock lab up` writes it); one sentence on what is wrong."""
    try:
        return Inventory.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidInput(
            f"target {path!r}: {error.strerror}; give 'lab' or the path of an inventory file"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"the inventory {path} can't be read: {error}") from None


@contextlib.contextmanager
def _noting(problems: list[str]) -> Any:
    try:
        yield
    except (AftershockError, OSError) as error:
        problems.append(str(error))
