"""Limits on what processes read from a device: they and those beside them, before and after."""

import contextlib
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boots import recover_after_restart
from disks import volume
from held import HERE, held
from wires import is_gone, wait_for

from aftershock.agent import blkio, cgroups
from aftershock.agent.errors import CannotDo
from aftershock.errors import AftershockError, InvalidFault
from aftershock.faults.throttling import IoThrottle
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.ledger import Ledger

pytestmark = pytest.mark.root
MIB = 1 << 20
READ = """
import ctypes, mmap, os, struct, sys
ctypes.CDLL(None).prctl(1, 9)
count = mmap.mmap(os.open(sys.argv[2], os.O_RDWR), 8)
file, buffer, done = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 65536), 0
while True:
    os.preadv(file, [buffer], 0)
    done += 65536
    count[:8] = struct.pack("q", done)
"""


@pytest.fixture(scope="module", autouse=True)
def hierarchy() -> blkio.Hierarchy:
    try:
        return blkio.hierarchy()
    except CannotDo as why:
        pytest.skip(str(why))


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("volumes") / "weights"
    with volume(folder):
        (folder / "weights").write_bytes(os.urandom(MIB))
        os.sync()
        yield folder


@pytest.fixture(autouse=True)
def as_before(hierarchy: blkio.Hierarchy) -> Iterator[None]:
    before = ours(hierarchy)
    yield
    assert wait_for(lambda: not ours(hierarchy) - before, 20), "other tests' go, too"


def ours(hierarchy: blkio.Hierarchy) -> set[Path]:
    return set(Path(hierarchy.top).glob("aftershock-throttle-*"))


class Reader:
    """A process that reads as fast as it can, and counts."""

    def __init__(self, disk: Path, folder: Path, name: str) -> None:
        counter = folder / f"{name}.count"
        counter.write_bytes(b"\0" * 8)
        program = folder / name
        program.symlink_to(sys.executable)
        self._count = mmap.mmap(os.open(counter, os.O_RDWR), 8)
        words = [str(program), "-I", "-S", "-c", READ, str(disk / "weights"), str(counter)]
        self.process = subprocess.Popen(words)

    def mib_s(self, over_s: float = 0.5) -> float:
        before, began = self._done(), time.monotonic()
        time.sleep(over_s)
        return (self._done() - before) / MIB / (time.monotonic() - began)

    def _done(self) -> int:
        done: int = struct.unpack("q", self._count[:8])[0]
        return done


@pytest.fixture
def readers(disk: Path, tmp_path: Path) -> Iterator[list[Reader]]:
    """Two of them: one to be throttled, and a neighbour."""
    made = [Reader(disk, tmp_path, name) for name in ("as-reader", "as-neighbour")]
    assert wait_for(lambda: all(one.mib_s(0.1) > 20 for one in made), 15)
    yield made
    for one in made:
        one.process.kill()
        one.process.wait()


def step(disk: Path, mib_s: float = 2, **who: Any) -> dict[str, Any]:
    fault = IoThrottle(str(disk), read_mib_s=mib_s, **(who or {"named": ("as-reader",)}))
    return {"kind": "throttle", **fault.options()}


def test_before_during_after(
    agents: Fleet, ledger: Ledger, disk: Path, readers: list[Reader], hierarchy: blkio.Hierarchy
) -> None:
    reader, neighbour = readers
    where = Path(f"/proc/{reader.process.pid}/cgroup").read_text()
    fault = IoThrottle(str(disk), read_mib_s=2, named=("as-reader",), volume=str(disk))
    injection = Injection(fault, [HERE], lease_s=60, ledger=ledger, fleet=agents)
    injection.arm()
    assert reader.mib_s() > 10, "armed, yet nothing is felt"
    injection.fire()
    evidence = injection.observe()
    assert evidence["bit"] is True, evidence
    assert reader.mib_s(1.0) < 4 and neighbour.mib_s() > 10
    injection.revert()
    told = injection.to_dict()
    assert told["clean"] and told["ordered"]
    assert wait_for(lambda: reader.mib_s() > 10)
    assert Path(f"/proc/{reader.process.pid}/cgroup").read_text() == where


def test_a_limit_above_what_the_device_gives_is_no_effect(
    agents: Fleet, ledger: Ledger, disk: Path, readers: list[Reader]
) -> None:
    fault = IoThrottle(str(disk), read_mib_s=1 << 20, named=("as-reader",))
    injection = Injection(fault, [HERE], lease_s=60, ledger=ledger, fleet=agents)
    injection.arm()
    injection.fire()
    assert injection.observe(within_s=0)["bit"] is False
    injection.revert()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_watcher_heals(
    fleet: Fleet, disk: Path, readers: list[Reader], number: signal.Signals
) -> None:
    agent = fleet.fresh(HERE)
    with held(agent, step(disk), lease_s=60 if number == signal.SIGKILL else 4):
        assert readers[0].mib_s(0.3) < 10
        os.kill(agent.pid, number)
        assert wait_for(lambda: readers[0].mib_s(0.1) > 10, 10)
        if number == signal.SIGSTOP:
            os.kill(agent.pid, signal.SIGKILL)
        assert wait_for(lambda: is_gone(agent.pid)) and wait_for(lambda: not agent.is_open)


def test_who_comes_after_heals_when_the_watcher_is_dead_too(
    fleet: Fleet, ledger: Ledger, disk: Path, readers: list[Reader]
) -> None:
    fault = IoThrottle(str(disk), read_mib_s=2, named=("as-reader",))
    injection = Injection(fault, [HERE], lease_s=60, ledger=ledger, fleet=fleet)
    injection.arm()
    injection.fire()
    agent = fleet.fresh(HERE)
    watcher = agent.ask("record", injection=injection.id)["watcher"]["pid"]
    for pid in (watcher, agent.pid):
        os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: not agent.is_open) and readers[0].mib_s(1.0) < 4, "nobody healed"
    injection.revert()
    told = injection.to_dict()
    assert told["clean"] and told["healed_early"] is True
    assert wait_for(lambda: readers[0].mib_s(0.1) > 10)


@pytest.mark.parametrize("left", ["limits", "nothing"])
def test_after_a_restart(
    fleet: Fleet,
    disk: Path,
    readers: list[Reader],
    hierarchy: blkio.Hierarchy,
    tmp_path: Path,
    left: str,
) -> None:
    """No limit outlives a kernel; one that is there again, as we set it, is taken off."""
    with cgroup(hierarchy, readers[0].process.pid) as name:
        fault = IoThrottle(str(disk), read_mib_s=2, cgroup=name)
        ledger = Ledger.open("to-be-restarted")
        injection = Injection(fault, [HERE], lease_s=60, ledger=ledger, fleet=fleet)
        injection.arm()
        injection.fire()
        agent = fleet.fresh(HERE)
        watcher = agent.ask("record", injection=injection.id)["watcher"]["pid"]
        for pid in (watcher, agent.pid):
            os.kill(pid, signal.SIGKILL)
        assert wait_for(lambda: is_gone(agent.pid)) and readers[0].mib_s() < 10, "nobody healed"
        folder = f"{hierarchy.top}/{name}"
        device = f"{os.major(disk.stat().st_dev)}:{os.minor(disk.stat().st_dev)}"
        assert any(blkio.limits(hierarchy, folder, device).values())
        if left == "nothing":
            blkio.limit(hierarchy, folder, device, dict.fromkeys(blkio.KEYS, 0))
        said = recover_after_restart(tmp_path)
        told = {"nothing": "so nothing of it is left", "limits": "as we had set it: undone"}[left]
        assert "the machine was restarted since" in said and told in said, said
        assert not any(blkio.limits(hierarchy, folder, device).values())
        assert wait_for(lambda: readers[0].mib_s(0.1) > 10)
        records = tmp_path / "state"
        assert not [one for one in records.rglob("*") if one.is_file()], "all is forgotten"


@contextlib.contextmanager
def cgroup(hierarchy: blkio.Hierarchy, pid: int) -> Iterator[str]:
    """One of its own for a process, as a container has."""
    name = f"test-{pid}"
    cgroups.make(f"{hierarchy.top}/{name}", hierarchy.version, ("io",))
    cgroups.enter(f"{hierarchy.top}/{name}", pid)
    yield name
    cgroups.enter(hierarchy.top, pid)
    Path(f"{hierarchy.top}/{name}").rmdir()


def test_who_has_a_cgroup_stays_there_and_two_on_one_are_refused(
    agent: AgentChannel, disk: Path, readers: list[Reader], hierarchy: blkio.Hierarchy
) -> None:
    with cgroup(hierarchy, readers[0].process.pid) as name:
        with held(agent, step(disk)) as holding:
            (seen,) = holding.ask("observe")
            assert seen["folder"].endswith(name) and seen["limits"]["rbps"] == 2 * MIB
            with (
                pytest.raises(AftershockError, match=r"has limits on .* already"),
                held(agent, step(disk, cgroup=name)),
            ):
                pass
        with held(agent, step(disk, cgroup=name)):
            assert readers[0].mib_s(1.0) < 4
        device = f"{os.major(disk.stat().st_dev)}:{os.minor(disk.stat().st_dev)}"
        assert not any(blkio.limits(hierarchy, f"{hierarchy.top}/{name}", device).values())


def test_nothing_is_touched_by_what_is_refused(
    agents: Fleet, ledger: Ledger, disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "sshd").symlink_to(sys.executable)
    words = [str(tmp_path / "sshd"), "-I", "-S", "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(words) as sshd:
        first = Path("/proc/1/comm").read_text().strip()
        for who, said in (
            ({"named": ("as-nobody",)}, "no process of program as-nobody here: has it ended?"),
            ({"containers": ("0123456789ab" * 5,)}, "no process of container 0123456789ab here"),
            ({"named": ("sshd",)}, f"{sshd.pid}, the SSH daemon (sshd): name another"),
            ({"named": (first,)}, "process 1, PID 1, which this host lives by: name another"),
            ({"cgroup": "/"}, "the topmost cgroup has everybody in it"),
            ({"cgroup": "no/such"}, "no cgroup "),
        ):
            fault = IoThrottle(str(disk), read_mib_s=1, **who)
            injection = Injection(fault, [HERE], lease_s=30, ledger=ledger, fleet=agents)
            with pytest.raises(AftershockError) as refused:
                injection.arm()
            told = str(refused.value)
            assert said in told or "no process of program" in told, told
        sshd.kill()
    assert "arming" not in ledger.path.read_text(), "nothing was begun"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"named": ("x",)}, "no limit: give MiB or requests a second"),
        ({"read_mib_s": 1}, "name a cgroup, or else containers or programs"),
        ({"read_mib_s": 1, "named": ("x",), "cgroup": "y"}, "name a cgroup, or else"),
        ({"read_mib_s": -1, "named": ("x",)}, "read_mib_s -1: 0 .no limit. or more"),
        ({"read_mib_s": 0.001, "named": ("x",)}, "would hang them"),
        ({"read_mib_s": 1, "cgroup": "a/../.."}, "give its whole path"),
    ],
)
def test_nonsense_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidFault, match=said):
        IoThrottle("/", **words)


def test_the_words_of_both_versions(tmp_path: Path) -> None:
    """Version 2's file takes all four at once, and says `max` for none."""
    (tmp_path / "io.max").write_text("7:0 rbps=1048576 wbps=max riops=max wiops=20\n")
    two = blkio.Hierarchy(2, str(tmp_path))
    there = blkio.limits(two, str(tmp_path), "7:0")
    assert there == {"rbps": MIB, "wbps": 0, "riops": 0, "wiops": 20}
    blkio.limit(two, str(tmp_path), "7:1", {"rbps": 0, "wbps": 5, "riops": 0, "wiops": 0})
    assert (tmp_path / "io.max").read_text() == "7:1 rbps=max wbps=5 riops=max wiops=max"
