"""A volume a zone: one zone's is not another's, and none of it stays, however the lab ends."""

import os
import signal
from dataclasses import replace
from pathlib import Path

from aftershock.cluster import Cluster
from aftershock.faults.throttling import IoThrottle
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.lab.settings import LabSettings
from aftershock.lab.volumes import cgroup_of, home_of, path_of
from aftershock.lab.world import Lab
from tests.agent.held import held

from .labs import wait_until

WEIGHTS_MIB, SPEED_MIB_S = 16, 40


def room(agent: AgentChannel, zone: str, tries: str = "") -> dict[str, object]:
    options = {"path": str(path_of(zone)), "volume": str(path_of(zone)), "tries": tries}
    told: dict[str, object] = agent.ask("storage", 20, what="room", options=options)
    return told


def loops(lab: Lab) -> set[Path]:
    """The loop devices of a lab's volumes, as folders of the kernel's own."""
    mounts = Path(f"/proc/{lab.pid}/mountinfo").read_text().splitlines()
    return {Path("/sys/dev/block", line.split()[2]) for line in mounts if "/dev/loop" in line}


def uses(loops: set[Path]) -> set[tuple[Path, str]]:
    """Those in use, each with a number that its next use won't have."""
    return {(loop, (loop / "diskseq").read_text()) for loop in loops if (loop / "loop").exists()}


def throttle_a_pod(lab: Lab, agent: AgentChannel) -> None:
    """A pod's processes are moved where they are limited, and back to their zone's cgroup."""
    cluster = Cluster(lab.inventory.kubeconfig, lab.inventory.namespace, emulated=True)
    try:
        (pod,) = (p for p in cluster.described("") if p["spec"]["nodeName"] == agent.name)
    finally:
        cluster.close()
    container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("//")[2]
    home = Path(home_of(lab.lab_dir, "az-a")) / "cgroup.procs"
    before = set(home.read_text().split())
    fault = IoThrottle(str(path_of("az-a")), read_mib_s=1, containers=(container,))
    with held(agent, {"kind": "throttle", **fault.options()}) as holding:
        (seen,) = holding.ask("observe")
        assert seen["processes"] == 1 and seen["limits"]["rbps"] == 1 << 20
        assert len(before - set(home.read_text().split())) == 1
    assert before <= set(home.read_text().split())


def test_each_zone_has_a_volume_and_killing_the_lab_leaves_none(settings: LabSettings) -> None:
    told = {"volume_mib": 40, "weights_mib": WEIGHTS_MIB, "volume_mib_s": SPEED_MIB_S}
    with Lab.up(replace(settings, **told)) as lab:
        fleet, cgroup = Fleet(), Path(cgroup_of(lab.lab_dir))
        try:
            a, b = (fleet.fresh(lab.inventory.in_zone(zone)[0]) for zone in ("az-a", "az-b"))
            words = {"path": str(path_of("az-a") / "weights"), "size": WEIGHTS_MIB << 20}
            took = a.ask("storage", 20, what="load", options=words)["seconds"]
            assert took > 0.6 * WEIGHTS_MIB / SPEED_MIB_S, "as slow as it is said to be"
            where = {"what": "space", "path": str(path_of("az-a")), "volume": ""}
            with held(a, {"kind": "fill", **where, "free": 0, "reserve": 0}):
                assert room(a, "az-a", "space")["tried"] == "ENOSPC"
                assert room(b, "az-b", "space")["tried"] == ""
            assert room(a, "az-a", "space")["tried"] == ""
            throttle_a_pod(lab, a)
            own = loops(lab)
            used = uses(own)
            assert len(used) == 3 and len(list(cgroup.glob("az-*"))) == 3
            os.kill(lab.pid, signal.SIGKILL)
            wait_until(lambda: not used & uses(own) and not cgroup.exists(), 15, "all of it gone")
        finally:
            fleet.close()
