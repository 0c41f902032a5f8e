"""Limits of cgroup version 2, which a guest has for itself: lowered, felt, and as they were."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aftershock.errors import NotApplied
from aftershock.faults.base import Fault
from aftershock.faults.exhaustion import NoRoom, OutOfMemory
from aftershock.faults.processes import Processes
from aftershock.faults.stress import CpuStress, MemoryPressure
from aftershock.faults.swapping import SwapOut
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.lab.cgroups import NodeGroups, remove
from aftershock.ledger import Ledger
from tests.agent import cgroups
from tests.agent.wires import wait_for

pytestmark = [pytest.mark.root, pytest.mark.one_kernel]
HERE = Node("here", "none", ("127.0.0.1",), devices=())
ROOT = Path("/sys/fs/cgroup")
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
    injection = Injection(fault, [HERE], lease_s=100, ledger=ledger, fleet=fleet)
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


def test_a_lab_has_cgroups_under_version_2(version_2: set[str]) -> None:
    made = NodeGroups(Path("lab-in-the-guest"))
    if not {"memory", "pids", "cpu"} <= version_2:
        pytest.skip(f"this kernel has only the controllers {sorted(version_2)}")
    made.make(["node-a-1"], 0.5)
    try:
        with cgroups.running("sh", "-c", "echo up; exec sleep 99") as one:
            made.enter(one.pid, "node-a-1", "a-b", "1234")
            path = Path(f"/proc/{one.pid}/cgroup").read_text().strip().rpartition(":")[2]
            scope = "node-a-1/kubepods-poda_b.slice/cri-containerd-1234.scope"
            assert path == f"/{made.name}/{scope}"
            assert (ROOT / made.name / "node-a-1" / "cpu.max").read_text() == "50000 100000\n"
            assert (ROOT / made.name / scope / "memory.max").exists()
    finally:
        assert remove(Path("lab-in-the-guest")) == [] and not (ROOT / made.name).exists()


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
        agent = fleet.fresh(HERE).pid
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


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


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
        os.kill(fleet.fresh(HERE).pid, signal.SIGKILL)
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
        os.kill(fleet.fresh(HERE).pid, signal.SIGKILL)
        assert wait_for(lambda: (folder / "memory.high").read_text() == "max\n", 30)
        injection.revert()
        with pytest.raises(NotApplied, match="which nobody could tell from chance"):
            fired(SwapOut(Processes(pid=one.pid), keep_share=0.9), fleet, ledger)
        assert one.poll() is None and made.oom_kills == 0
    ledger.close()
