"""A lab whose nodes and containers have real cgroups: used as they are meant, and never left."""

import os
import signal
import time
from pathlib import Path

import pytest

from aftershock.lab.cgroups import NodeGroups
from aftershock.lab.settings import LabSettings
from aftershock.lab.world import Lab
from tests.agent.cgroups import require

from .labs import free_port

pytestmark = pytest.mark.root


def folders(lab: Lab) -> list[Path]:
    """The lab's cgroups, in every hierarchy."""
    name = NodeGroups(lab.lab_dir).name
    root = Path("/sys/fs/cgroup")
    return [path for path in (root / name, *root.glob(f"*/{name}")) if path.exists()]


def test_containers_are_in_cgroups_that_go_with_a_killed_lab() -> None:
    require()
    settings = LabSettings(
        zones=2, nodes_per_zone=1, replicas=2, gateway_port=free_port(), node_cpus=0.7
    )
    lab = Lab.up(settings)
    try:
        made = folders(lab)
        assert made
        scopes = [
            path for top in made for path in top.glob("az-*/node-*-1/kubepods-pod*/cri-*.scope")
        ]
        (pids,) = {(path / "cgroup.procs").read_text() for path in scopes if "node-a" in str(path)}
        server, _ = map(int, pids.split())  # and its engine core
        words = Path(f"/proc/{server}/cmdline").read_text()
        assert "model_server" in words
        quotas = [
            path.read_text() for top in made for path in top.glob("az-a/node-a-1/cpu.[cm]*s*_us")
        ]
        quotas += [path.read_text() for top in made for path in top.glob("az-a/node-a-1/cpu.max")]
        assert any("70000" in text for text in quotas), quotas
        # Whatever holds the lab is killed; nothing but what waits for that is left to remove them.
        os.kill(lab.pid, signal.SIGKILL)
        until = time.monotonic() + 20
        while folders(lab) and time.monotonic() < until:
            time.sleep(0.05)
        assert not folders(lab)
    finally:
        lab.down()
