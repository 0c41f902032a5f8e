"""The target of a run: the lab, or what an inventory file names, with an agent on every node."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftershock.cluster import Cluster
from aftershock.cluster.places import look_up
from aftershock.cluster.pods import images
from aftershock.errors import AftershockError, InvalidInput, Unsupported
from aftershock.inventory import Inventory, Node
from aftershock.inventory_file import read_inventory
from aftershock.ledger import Ledger
from aftershock.lock import Occupied
from aftershock.run.alone import TargetLock, name_of
from aftershock.run.podwords import EVERYWHERE
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
        self.service_versions: dict[str, str] = {}  # of the service itself, as far as is known
        self._inventory: Inventory | None = None
        self._shared: contextlib.ExitStack = contextlib.ExitStack()

    @property
    def name(self) -> str:
        """The target's name: `lab`, or what its inventory says."""
        return self._inventory.target if self._inventory else self.settings.target

    @property
    def lock_name(self) -> str:
        """What is locked while a run goes on; known after `check`."""
        port = self.settings.gateway_port if self.is_lab else 0
        return name_of("" if port else self.inventory.gateway_url, port)

    @property
    def inventory(self) -> Inventory:
        """What the target is made of; known once it is up."""
        if self._inventory is None:
            raise Unsupported("the target is not up")
        return self._inventory

    def check(self, dry: bool = False) -> None:
        """Everything that can be known to be wrong before anything is touched.

        `dry`: nothing will be started, so that this machine could build a lab isn't asked for.
        """
        if self.settings.target == "lab":
            from aftershock.lab.preflight import preflight

            lab = self._lab_settings()
            zones = list(dict.fromkeys(place.zone for place in lab.places()))
            if self.settings.zone not in (*zones, EVERYWHERE):
                raise InvalidInput(
                    f"unknown zone {self.settings.zone!r}: the lab has {', '.join(zones)}"
                )
            if not dry:
                preflight(lab)
        else:
            self._inventory, self.cluster = look_up(read_inventory(self.settings.target))
            if self.settings.zone != EVERYWHERE:
                try:
                    self._inventory.in_zone(self.settings.zone)
                except InvalidInput:
                    self.down()
                    raise

    def up(self, ledger: Ledger | None = None, lock: TargetLock | None = None) -> None:
        """Start the lab if it is the target, then an agent on every node.

        With the run's lock each host that isn't the lab's is kept for this run by its agent.
        """
        if self.settings.target == "lab":
            from aftershock.lab.world import Lab

            self.lab = Lab.up(self._lab_settings())
            self._inventory = self.lab.inventory
            if self._inventory.kubeconfig:  # there is none where the lab was told to have none
                self.cluster = Cluster(
                    self.inventory.kubeconfig, self.inventory.namespace, emulated=True
                )
        if self.cluster is not None and (way := self.cluster.access.file()):
            self._shared.enter_context(default_cluster(way))
        if self.cluster is not None and not self.is_lab:
            with contextlib.suppress(AftershockError):  # the run itself will say what is amiss
                found = images(self.cluster, self.inventory.selector)
                self.service_versions = {f"image of {name}": said for name, said in found.items()}
        from aftershock.hosts.fleet import Fleet

        self.fleet = Fleet(ledger=ledger)
        if lock and not self.is_lab:
            self.fleet.take(lock.token, lock.holder, shared=self._witnesses())
        everyone = [*self.inventory.nodes, *self._witnesses()]
        nodes = [node for node in everyone if not node.agentless]
        if self.settings.at_least:  # who is not there is left out, and said to be, fault by fault
            _, errors = self.fleet.reach(nodes)
            for error in errors.values():
                if isinstance(error, Occupied):  # it is there, and breaks what we would measure
                    raise error
        else:
            self.fleet.channels(nodes)

    @property
    def is_lab(self) -> bool:
        """Whether it is the lab, up or not."""
        return self.settings.target == "lab"

    def foreseen(self) -> None:
        """For a look ahead: no agent is started, and a lab's nodes are known before it is up."""
        from aftershock.hosts.fleet import Fleet

        self.fleet = self.fleet or Fleet()
        if self._inventory is None:
            from aftershock.lab.world import inventory_of

            self._inventory = inventory_of(self._lab_settings(), 0, "", None)

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
            seed=settings.seed,
            gateway=settings.gateway,
            gateway_port=settings.gateway_port,
            replicas=settings.replicas,
            model_args=_model_args(settings),
            gpus_per_node=settings.gpus_per_node,
            autoscale_gpu_percent=settings.autoscale_gpu_percent,
            volume_mib=settings.volume_mib,
            volume_mib_s=settings.volume_mib_s,
            weights_mib=settings.weights_mib,
            volume_mapped=settings.volume_mapped,
            spoiled_answers=settings.spoiled_answers,
            node_cgroups=settings.node_cgroups,
            node_cpus=settings.node_cpus,
        )


def _model_args(settings: Settings) -> tuple[str, ...]:
    """The lab's model servers' further arguments, in vLLM's words."""
    blocks = settings.kv_blocks
    return ("--num-gpu-blocks-override", str(blocks)) if blocks else ()


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


@contextlib.contextmanager
def _noting(problems: list[str]) -> Any:
    try:
        yield
    except (AftershockError, OSError) as error:
        problems.append(str(error))
