"""`aftershock lab up | status | down`, as lines of text."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import groupby

from aftershock.errors import InvalidInput
from aftershock.lab.gateway import Slot
from aftershock.lab.settings import LabSettings
from aftershock.lab.world import Lab, gateway_status, running, sweep_stale


def lab_up(settings: LabSettings | None = None) -> list[str]:
    """Start a lab that stays until `lab_down`; how to reach it."""
    lab = Lab.up(settings, detached=True)
    made = lab.settings
    summary = (
        f"lab        {made.zones} zones, {len(made.places())} nodes, {made.replicas} replicas, "
        f"{made.gateway} gateway, seed {made.seed}, up in {lab.up_s:.1f} s"
    )
    return [summary, *_ways_in(lab), "down       aftershock lab down"]


def lab_status() -> list[str]:
    """Every running lab with what its gateway says of each zone."""
    sweep_stale()
    lines: list[str] = []
    for lab in running():
        kept = "detached" if lab.detached else "held by a running experiment"
        age_s = time.time() - (lab.lab_dir / "state.json").stat().st_mtime
        lines.append(f"lab        up for {age_s:.0f} s, {kept}, pid {lab.pid}")
        lines += [*_ways_in(lab), *_zones(gateway_status(lab))]
    return lines or ["no lab is running: `aftershock lab up` starts one"]


def lab_down(port: int | None = None) -> list[str]:
    """End the detached labs, or the one on that port whoever holds it."""
    stale = len(sweep_stale())
    labs = running()
    chosen = [
        lab for lab in labs if lab.settings.gateway_port == port or (not port and lab.detached)
    ]
    if not chosen and port:
        raise InvalidInput(f"no lab is running on port {port}")
    if not chosen and labs:
        ports = ", ".join(str(lab.settings.gateway_port) for lab in labs)
        raise InvalidInput(f"a running experiment holds the lab on port {ports}: name it to end it")
    for lab in chosen:
        lab.down()
    ended = [f"lab on port {lab.settings.gateway_port} is gone" for lab in chosen]
    swept = [f"removed the files of {stale} that had been killed"] if stale else []
    return [*ended, *swept] or ["no lab was running"]


def _ways_in(lab: Lab) -> list[str]:
    lines = [f"gateway    {lab.gateway_url}/v1/completions (model {lab.inventory.model})"]
    if lab.kubeconfig:
        lines.append(f"kubectl    export KUBECONFIG={lab.kubeconfig}")
    return lines


def _zones(slots: Iterable[Slot]) -> list[str]:
    lines = []
    for zone, group in groupby(slots, key=lambda slot: slot.zone):
        nodes = ", ".join(f"{s.node} {s.status} {s.requests_total} requests" for s in group)
        lines.append(f"{zone:<10} {nodes}")
    return lines
