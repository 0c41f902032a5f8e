"""Limits of cgroup version 2, which a guest has for itself: lowered, felt, and as they were."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aftershock.errors import NotApplied
from aftershock.faults.base import Fault
from aftershock.faults.exhaustion import NoRoom, OutOfMemory
from aftershock.faults.processes import Processes
from aftershock.faults.stress import CpuStress, MemoryPressure
from aftershock.faults.swapping import SwapOut
from aftershock.faults.throttling import IoThrottle
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.lab.cgroups import NodeGroups, remove
from aftershock.lab.settings import LabSettings
from aftershock.lab.volumes import Volumes, path_of
from aftershock.lab.world import Lab
from aftershock.ledger import Ledger
from tests.agent import cgroups
from tests.agent.held import held
from tests.agent.wires import wait_for

from .worlds import HOST, run

pytestmark = [pytest.mark.root, pytest.mark.one_kernel]
ROOT = Path("/sys/fs/cgroup")
# Reads a file, and not from memory, once it is told to.
READER = 'echo up; read go <"$1"; dd if="$0" of=/dev/null bs=256k iflag=direct; echo read; sleep 9'
ZSWAP = Path("/sys/module/zswap/parameters/enabled")


@pytest.fixture
def version_2(kernel: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Its controllers, all of them given to the root's children."""
    if not (ROOT / "cgroup.controllers").exists():
        if kernel == "here":
            pytest.skip("this machine has cgroup version 1, which tests/agent/test_host.py uses")
        subprocess.run(["mount", "-t", "cgroup2", "none", str(ROOT)], check=True)
    found = set((ROOT / "cgroup.controllers").read_text().split())
    (ROOT / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(found)))
    monkeypatch.setattr(cgroups, "V1", False)
    yield found


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    made = Fleet()
    yield made
    made.close()


def fired(fault: Fault, fleet: Fleet, ledger: Ledger) -> Injection:
    injection = Injection(fault, [HOST], lease_s=100, ledger=ledger, fleet=fleet)
    injection.arm()
    injection.fire()
    return injection


def test_limits_of_version_2(version_2: set[str], fleet: Fleet) -> None:
    told = f"it has {sorted(version_2)}"
    ledger = Ledger.open("in-the-guest")
    tried = []
    for name, play in (("memory", _memory), ("pids", _pids), ("cpu", _cpu)):
        if name in version_2:
            play(fleet, ledger)
            tried.append(name)
    ledger.close()
    if not tried:
        pytest.skip(f"this kernel has none of the controllers: {told}")


def test_a_lab_has_cgroups_under_version_2(
    version_2: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes with processors of their own, in zones with volumes of their own, in one tree."""
    if not {"memory", "pids", "cpu", "io"} <= version_2:
        pytest.skip(f"this kernel has only the controllers {sorted(version_2)}")
    monkeypatch.setattr("aftershock.lab.volumes.FOLDER", str(tmp_path / "volumes"))
    lab_dir = Path("lab-in-the-guest")
    slow = {"volume_mib": 8, "weights_mib": 4, "volume_mib_s": 2}
    settings = LabSettings(zones=1, nodes_per_zone=1, replicas=1, **slow)
    (place,) = settings.places()
    made, volumes = NodeGroups(lab_dir), Volumes(settings, lab_dir)
    made.make([place], 0.5)
    os.mkfifo(tmp_path / "go")
    try:
        volumes.build()
        words = ("sh", "-c", READER, volumes.arguments(place)[1], str(tmp_path / "go"))
        with cgroups.running(*words) as one:
            volumes.enter(place, one.pid)
            assert joined(one.pid) == f"/{made.name}/az-a/host"
            made.enter(one.pid, place, "a-b", "1234")
            scope = f"{made.name}/az-a/node-a-1/kubepods-poda_b.slice/cri-containerd-1234.scope"
            assert joined(one.pid) == f"/{scope}"
            assert (ROOT / made.name / "az-a/node-a-1/cpu.max").read_text() == "50000 100000\n"
            names = {path.name for path in (ROOT / scope).iterdir()}
            assert {"memory.max", "pids.max", "io.max"} <= names
            began = time.monotonic()
            (tmp_path / "go").write_text("go\n")
            assert one.stdout and one.stdout.readline() == "read\n"
            assert time.monotonic() - began > 1, "4 MiB at 2 MiB/s, which the zone has in all"
    finally:
        subprocess.run(["umount", path_of("az-a")], check=False)
        assert remove(lab_dir) == [] and not (ROOT / made.name).exists()


def joined(pid: int) -> str:
    """The cgroup that a process is in."""
    return Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition(":")[2]


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[None]:
    """Some swap, which a guest has for itself."""
    if Path("/proc/swaps").read_text().count("\n") > 1:
        yield
        return
    image = tmp_path / "swap"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    loop = run("losetup", "--find", "--show", str(image))
    try:
        if ZSWAP.exists():  # else the kernel waits a tenth of a second for each 32 pages
            ZSWAP.write_text("1")
        run("mkswap", loop)
        tried = subprocess.run(["swapon", loop], check=False, capture_output=True, text=True)
        if tried.returncode:
            pytest.skip(f"this kernel can't swap: {tried.stderr}")
        yield
        run("swapoff", loop)
    finally:
        run("losetup", "--detach", loop)


@pytest.mark.survival
def test_with_swap_the_right_process_dies_and_pressure_stays_in_memory(
    version_2: set[str], swap: None, fleet: Fleet
) -> None:
    if "memory" not in version_2:
        pytest.skip("this kernel has no memory controller")
    ledger = Ledger.open("with-swap")
    words = (sys.executable, "-c", cgroups.HOLDER)
    with (
        cgroups.group("memory") as made,
        cgroups.running(*words, "40", within=made) as other,
        cgroups.running(*words, "60", within=made) as chosen,
    ):
        folder = made.folders["memory"]
        (folder / "memory.reclaim").write_text("20M")  # so much of both is swapped out by now
        assert swapped(folder) > 8 << 20
        injection = fired(OutOfMemory(Processes(pid=chosen.pid)), fleet, ledger)
        assert wait_for(lambda: chosen.poll() == -signal.SIGKILL, 60)
        assert injection.observe()["bit"] is True, injection.evidence
        assert other.poll() is None and made.oom_kills in (1, 2), "ours is the second, if any"
        assert wait_for(lambda: made.memory_limit == "max", 20)
        assert (folder / "memory.swap.max").read_text() == "max\n"
        injection.revert()
        assert injection.to_dict()["clean"]
        pressure = fired(MemoryPressure(available_mb=70, reserve_mb=64), fleet, ledger)
        assert pressure.observe()["bit"] is True, pressure.evidence
        agent = fleet.fresh(HOST).pid
        pids = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
        locked = [int(found[1]) for text in status if (found := re.search(r"VmLck:\s+(\d+)", text))]
        assert max(locked) > 100 << 10, "in KiB: what is locked is never swapped out"
        pressure.revert()
        assert pressure.to_dict()["clean"] and other.poll() is None
    ledger.close()


def swapped(folder: Path) -> int:
    """Bytes of a cgroup that are in swap."""
    return int((folder / "memory.swap.current").read_text())


def _memory(fleet: Fleet, ledger: Ledger) -> None:
    with cgroups.group("memory") as made:
        words = (sys.executable, "-c", cgroups.HOLDER)
        with (
            cgroups.running(*words, "40", within=made) as other,
            cgroups.running(*words, "25", within=made) as chosen,
        ):
            injection = fired(OutOfMemory(Processes(pid=chosen.pid)), fleet, ledger)
            assert wait_for(lambda: chosen.poll() == -signal.SIGKILL, 60)
            assert injection.observe()["bit"] is True, injection.evidence
            assert other.poll() is None and made.oom_kills in (1, 2), "ours is the second, if any"
            assert wait_for(lambda: made.memory_limit == "max", 20)
            injection.revert()
            assert injection.to_dict()["clean"]


def _pids(fleet: Fleet, ledger: Ledger) -> None:
    with (
        cgroups.group("pids") as made,
        cgroups.running("sh", "-c", "echo up; sleep 600; :", within=made) as one,
    ):
        injection = fired(NoRoom("pids", Processes(pid=one.pid)), fleet, ledger)
        assert injection.observe()["bit"] is True, injection.evidence
        os.kill(fleet.fresh(HOST).pid, signal.SIGKILL)
        assert wait_for(lambda: made.pids_limit == "max", 30), "the watcher has it"
        injection.revert()


def _cpu(fleet: Fleet, ledger: Ledger) -> None:
    with cgroups.group("cpu") as made:
        injection = fired(CpuStress(0.5, cgroup=made.path), fleet, ledger)
        assert injection.observe()["bit"] is True, injection.evidence
        injection.revert()


def test_a_service_is_swapped_out_and_its_bound_put_back(
    version_2: set[str], swap: None, fleet: Fleet
) -> None:
    """What the chosen one holds is in swap meanwhile, nobody dies, and the watcher heals."""
    if "memory" not in version_2:
        pytest.skip("this kernel has no memory controller")
    ledger = Ledger.open("swapped-out")
    words = (sys.executable, "-c", cgroups.HOLDER)
    with cgroups.group("memory") as made, cgroups.running(*words, "48", within=made) as one:
        folder = made.folders["memory"]
        injection = fired(SwapOut(Processes(pid=one.pid), keep_share=0.25), fleet, ledger)
        assert injection.observe()["bit"] is True, injection.evidence
        assert swapped(folder) > 24 << 20 and (folder / "memory.high").read_text() != "max\n"
        os.kill(fleet.fresh(HOST).pid, signal.SIGKILL)
        assert wait_for(lambda: (folder / "memory.high").read_text() == "max\n", 30)
        injection.revert()
        with pytest.raises(NotApplied, match="which nobody could tell from chance"):
            fired(SwapOut(Processes(pid=one.pid), keep_share=0.9), fleet, ledger)
        assert one.poll() is None and made.oom_kills == 0
    ledger.close()


@pytest.mark.survival
def test_a_lab_with_nodes_and_volumes_stands_under_version_2(
    version_2: set[str], fleet: Fleet, tmp_path: Path
) -> None:
    """Servers are in their containers' cgroups, agents beside the nodes, and nothing stays."""
    if not {"memory", "pids", "cpu", "io"} <= version_2:
        pytest.skip(f"this kernel has only the controllers {sorted(version_2)}")
    slow = {"volume_mib": 40, "weights_mib": 16, "up_within_s": 120, "state_dir": tmp_path}
    settings = LabSettings(zones=2, nodes_per_zone=1, replicas=2, node_cgroups=True, **slow)
    with Lab.up(settings) as lab:
        top = ROOT / NodeGroups(lab.lab_dir).name
        scopes = list(top.glob("az-*/node-*-1/kubepods-*/cri-*.scope"))
        assert sorted(path.parts[-4] for path in scopes) == ["az-a", "az-b"]
        assert all((path / "cgroup.procs").read_text() for path in scopes)
        assert all("rbps=62914560" in path.read_text() for path in top.glob("az-*/io.max"))
        agent = fleet.fresh(lab.inventory.in_zone("az-a")[0])
        assert joined(agent.pid) == f"/{top.name}/az-a/host"
        (scope,) = top.glob("az-a/*/*/cri-*.scope")
        number = scope.name.removeprefix("cri-containerd-").removesuffix(".scope")
        fault = IoThrottle(str(path_of("az-a")), read_mib_s=1, containers=(number,))
        with held(agent, {"kind": "throttle", **fault.options()}):
            assert "rbps=1048576" in (scope / "io.max").read_text(), "the container has its own"
        assert "rbps" not in (scope / "io.max").read_text()
    assert not top.exists()
