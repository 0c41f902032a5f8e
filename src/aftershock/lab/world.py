"""A lab as its controller sees it: up, down, and found again.

`with Lab.up() as lab: …`, then `lab.inventory`, `lab.gateway_url`, `gateway_status(lab)`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from aftershock.errors import InvalidInput
from aftershock.inventory import Inventory, Limits, Node
from aftershock.lab import cgroups, gateway, gpu, volumes
from aftershock.lab.cgroups import NodeGroups
from aftershock.lab.launch import InitProcess, Process
from aftershock.lab.pods import AGENT_IMAGE
from aftershock.lab.preflight import preflight
from aftershock.lab.settings import (
    EDGE_PLACE,
    MODEL,
    NAMESPACE,
    SELECTOR,
    LabFailed,
    LabSettings,
    Place,
)

STATE = "state.json"
GONE_WITHIN_S = 10.0


@dataclass(slots=True)
class Lab:
    """A running lab. Unless detached it ends with `down`, or with the process that holds it."""

    settings: LabSettings
    lab_dir: Path
    init: Process
    launcher: Process
    inventory: Inventory
    up_s: float
    detached: bool = False
    _channel: InitProcess | None = field(default=None, repr=False)

    @classmethod
    def up(cls, settings: LabSettings | None = None, detached: bool = False) -> Lab:
        """Build a lab and return once every replica serves; whatever interrupts it leaves nothing.

        Raises `InvalidInput` or `Unsupported` before anything is touched, `LabFailed` after.
        """
        settings = settings or LabSettings()
        preflight(settings)
        sweep_stale(settings.state_dir)
        libraries = str(gpu.build())
        began = time.monotonic()
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        lab_dir = Path(
            tempfile.mkdtemp(prefix=f"lab-{settings.gateway_port}-", dir=settings.state_dir)
        )
        channel = None
        try:
            write_state(lab_dir, {"controller": Process.find(os.getpid()).to_dict()})
            channel = InitProcess.start(lab_dir / "init.log")
            if settings.has_cgroups or settings.volume_mib:
                cgroups.remove_after(channel.launcher.pid, lab_dir)
            if settings.has_cgroups:
                NodeGroups(lab_dir).make(settings.places(), settings.node_cpus)
            order = {"settings": settings.to_dict(), "lab_dir": str(lab_dir)}
            ready = channel.build({**order, "libraries": libraries}, settings.up_within_s + 10)
            inventory = inventory_of(
                settings, channel.init.pid, libraries, ready["kubeconfig"], lab_dir
            )
            up_s = time.monotonic() - began
            lab = cls(settings, lab_dir, channel.init, channel.launcher, inventory, up_s)
            lab.detached, lab._channel = detached, channel
            write_state(lab_dir, lab._state())
            if detached:
                channel.detach()
        except BaseException:
            if channel:
                channel.end()
            if settings.has_cgroups or settings.volume_mib:
                cgroups.remove(lab_dir)
            shutil.rmtree(lab_dir, ignore_errors=True)
            raise
        return lab

    @classmethod
    def attach(cls, port: int | None = None, state_dir: Path | None = None) -> Lab:
        """The running lab (on that gateway port); `InvalidInput` when there is none, or several."""
        found = running(state_dir)
        labs = [lab for lab in found if port in (None, lab.settings.gateway_port)]
        if not labs:
            where = f" on port {port}" if port else ""
            raise InvalidInput(f"no lab is running{where}: `aftershock lab up` starts one")
        if len(labs) > 1:
            ports = ", ".join(str(lab.settings.gateway_port) for lab in labs)
            raise InvalidInput(f"several labs are running: say which port ({ports})")
        return labs[0]

    @property
    def pid(self) -> int:
        """Init's PID, outside."""
        return self.init.pid

    @property
    def kubeconfig(self) -> str | None:
        """The path of a kubeconfig for the lab's Kubernetes API."""
        return self.inventory.kubeconfig

    @property
    def gateway_url(self) -> str:
        """The service's front door."""
        return self.inventory.gateway_url

    def alive(self) -> bool:
        """Whether init still runs."""
        return self.init.alive()

    def down(self) -> None:
        """End the lab and wait until all of it is gone. Doing it twice does no harm."""
        self.init.kill(GONE_WITHIN_S)
        if self._channel:
            self._channel.end()
        else:
            self.launcher.wait(GONE_WITHIN_S)
        with_cgroups = self.settings.has_cgroups or self.settings.volume_mib
        if with_cgroups and (left := cgroups.remove(self.lab_dir)):
            raise LabFailed(f"the lab's cgroups would not go: {', '.join(left)}")
        shutil.rmtree(self.lab_dir, ignore_errors=True)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def _state(self) -> dict[str, Any]:
        return {
            "settings": self.settings.to_dict(),
            "init": self.init.to_dict(),
            "launcher": self.launcher.to_dict(),
            "inventory": self.inventory.to_dict(),
            "up_s": self.up_s,
            "detached": self.detached,
        }


def gateway_status(lab: Lab) -> tuple[gateway.Slot, ...]:
    """The gateway's view of each server place; `LabFailed` when the lab is gone."""
    path = f"/proc/{lab.pid}/root{gateway.STATS_SOCKET}"
    return gateway.read_slots(path, lab.settings.places())


def inventory_of(
    settings: LabSettings,
    pid: int,
    libraries: str,
    kubeconfig: str | None,
    lab_dir: Path = Path("/"),
) -> Inventory:
    """The lab as a target, given init's PID outside."""

    def node(place: Place, env: dict[str, str]) -> Node:
        if settings.has_cgroups and env:
            env = {**env, "AFTERSHOCK_HOST_CGROUP": NodeGroups(lab_dir).path(place)}
        return Node(
            name=place.name,
            zone=place.zone,
            addresses=(place.ipv4, place.ipv6),
            netns=f"/proc/{pid}/root/run/netns/{place.name}",
            enter_pid=pid,
            env=env,
        )

    return Inventory(
        reaper_image=AGENT_IMAGE,
        target="lab",
        nodes=tuple(
            node(
                place,
                {
                    **gpu.environment(libraries, place.ledger, settings.gpus_per_node),
                    **volumes.joined(settings, lab_dir, place),
                },
            )
            for place in settings.places()
        ),
        gateway_url=settings.gateway_url,
        model=MODEL,
        kubeconfig=kubeconfig,
        namespace=NAMESPACE,
        selector=SELECTOR,
        witness=node(EDGE_PLACE, {}),
        limits=Limits(max_zone_share=1, max_node_share=1, max_owner_share=1),
    )


def write_state(lab_dir: Path, state: dict[str, Any]) -> None:
    """Replace the lab's state file in one step."""
    fresh = lab_dir / f".{STATE}"
    fresh.write_text(json.dumps(state))
    fresh.replace(lab_dir / STATE)


def running(state_dir: Path | None = None) -> tuple[Lab, ...]:
    """The labs whose init runs, by port."""
    labs = []
    for path in (state_dir or LabSettings().state_dir).glob(f"lab-*/{STATE}"):
        with contextlib.suppress(OSError, ValueError):
            state = json.loads(path.read_text())
            if "init" in state and Process.from_dict(state["init"]).alive():
                labs.append(_from_state(path.parent, state))
    return tuple(sorted(labs, key=lambda lab: lab.settings.gateway_port))


def sweep_stale(state_dir: Path | None = None) -> tuple[Path, ...]:
    """Remove the files of labs that are gone, killed before they could; return what went."""
    swept = []
    for path in (state_dir or LabSettings().state_dir).glob(f"lab-*/{STATE}"):
        with contextlib.suppress(OSError, ValueError):
            state = json.loads(path.read_text())
            if not Process.from_dict(state.get("init") or state["controller"]).alive():
                cgroups.remove(path.parent)
                shutil.rmtree(path.parent)
                swept.append(path.parent)
    cgroups.sweep(state_dir or LabSettings().state_dir)
    return tuple(swept)


def _from_state(lab_dir: Path, state: dict[str, Any]) -> Lab:
    return Lab(
        settings=LabSettings.from_dict(state["settings"]),
        lab_dir=lab_dir,
        init=Process.from_dict(state["init"]),
        launcher=Process.from_dict(state["launcher"]),
        inventory=Inventory.from_dict(state["inventory"]),
        up_s=state["up_s"],
        detached=state["detached"],
    )
