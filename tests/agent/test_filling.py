"""A full volume: nothing can be written there until the heal, and nothing stays behind."""

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disks import volume
from held import HERE, held
from wires import is_gone, wait_for

from aftershock.errors import AftershockError, InvalidFault
from aftershock.faults.base import Fault
from aftershock.faults.filling import DiskFull, InodesFull
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.ledger import Ledger

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A volume for all tests, in which each must leave what it found."""
    folder = tmp_path_factory.mktemp("volumes") / "weights"
    with volume(folder):
        yield folder


@pytest.fixture(autouse=True)
def as_before(disk: Path) -> Iterator[None]:
    before = free(disk), inodes(disk), sorted(disk.iterdir())
    yield
    assert wait_for(lambda: (free(disk), inodes(disk), sorted(disk.iterdir())) == before, 8)


@pytest.fixture
def own(fleet: Fleet) -> AgentChannel:
    """One to be killed."""
    return fleet.fresh(HERE)


def free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bfree * found.f_frsize


def inodes(disk: Path) -> int:
    return os.statvfs(disk).f_ffree


def takes(disk: Path, size: int = 2 * MIB) -> bool:
    """Whether somebody can write so much there."""
    try:
        (disk / "mine").write_bytes(b"x" * size)
    except OSError as error:
        assert error.errno == errno.ENOSPC
        return False
    finally:
        (disk / "mine").unlink(missing_ok=True)
    return True


def fill(disk: Path, what: str = "space", **more: Any) -> dict[str, Any]:
    where = {"kind": "fill", "path": str(disk), "volume": "", "what": what}
    return {**where, "free": 0, "reserve": 0, **more}


@pytest.mark.parametrize("what", ["space", "inodes"])
def test_before_during_after(agent: AgentChannel, disk: Path, what: str) -> None:
    with held(agent, fill(disk, what), fire=False) as holding:
        assert takes(disk), "armed, yet nothing is felt"
        holding.ask("fire")
        assert not takes(disk) and holding.ask("observe")[0]["held"] > 1000
        assert list(disk.iterdir()) == [disk / "lost+found"], "what fills it has no name"
        assert holding.ask("revert")["ordered"] is True
    assert takes(disk)


def test_what_others_free_is_taken_too(agent: AgentChannel, disk: Path) -> None:
    (disk / "old").write_bytes(b"x" * 4 * MIB)
    with held(agent, fill(disk)):
        (disk / "old").unlink()
        assert wait_for(lambda: not takes(disk)), "within a second"


def test_as_much_is_left_as_was_asked_for(agent: AgentChannel, disk: Path) -> None:
    with held(agent, fill(disk, free=8 * MIB)):
        assert 7 * MIB <= free(disk) <= 8 * MIB and takes(disk, 6 * MIB)
        with held(agent, fill(disk, free=4 * MIB)):
            assert 3 * MIB <= free(disk) <= 4 * MIB
        assert free(disk) <= 8 * MIB, "the other is still there"


def test_it_ends_with_its_agent(own: AgentChannel, disk: Path) -> None:
    with held(own, fill(disk)), held(own, fill(disk, "inodes")):
        assert not takes(disk) and not inodes(disk)
        os.kill(own.pid, signal.SIGKILL)
        assert wait_for(lambda: takes(disk)) and wait_for(lambda: not own.is_open)


def test_the_deadline_ends_it_even_where_the_agent_is_stopped(
    own: AgentChannel, disk: Path
) -> None:
    with held(own, fill(disk), lease_s=3.0):
        os.kill(own.pid, signal.SIGSTOP)
        assert wait_for(lambda: takes(disk), 10)
        assert wait_for(lambda: is_gone(own.pid)) and wait_for(lambda: not own.is_open)


def test_what_the_host_needs_is_given_back(
    fleet: Fleet, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's own records are on this volume, so it is one that the host needs."""
    monkeypatch.setenv("AFTERSHOCK_STATE", str(disk / "state"))
    agent = fleet.fresh(HERE)
    with pytest.raises(AftershockError, match="our own records, which the host and the journal"):
        agent.ask("arm", injection="greedy", steps=[fill(disk, reserve=8 * MIB)], lease_s=9)
    with held(agent, fill(disk, free=8 * MIB, reserve=8 * MIB)) as holding:
        assert takes(disk, 2 * MIB)
        (disk / "journal").write_bytes(b"x" * 5 * MIB)
        os.sync()
        assert wait_for(lambda: free(disk) >= 8 * MIB)
        (disk / "journal").unlink()
        assert wait_for(lambda: free(disk) <= 8 * MIB), "and taken again"
    holding.ask("forget")
    shutil.rmtree(disk / "state")


@pytest.mark.parametrize("fault", [DiskFull, InodesFull])
def test_it_is_seen_by_another_process(
    agents: Fleet, ledger: Ledger, disk: Path, fault: Any
) -> None:
    injection = injected(fault(str(disk), volume=str(disk)), agents, ledger)
    evidence = injection.observe()
    assert evidence["bit"] is True, evidence
    pieces = {piece["name"]: piece for piece in evidence["pieces"]}
    assert pieces["full"]["ok"] and "ENOSPC" in pieces["refused"]["seen"]
    injection.revert()
    told = injection.to_dict()
    assert told["clean"] and told["ordered"] and takes(disk)


def test_without_the_fault_nothing_is_proven(agents: Fleet, ledger: Ledger, disk: Path) -> None:
    injection = injected(DiskFull(str(disk)), agents, ledger)
    agents.fresh(HERE).ask("revert", injection=injection.id)
    evidence = injection.observe(within_s=0)
    assert evidence["bit"] is False and "still can write" in evidence["pieces"][1]["seen"]
    injection.revert()


def injected(fault: Fault, fleet: Fleet, ledger: Ledger) -> Injection:
    injection = Injection(fault, [HERE], lease_s=30, ledger=ledger, fleet=fleet)
    injection.arm()
    injection.fire()
    return injection


def test_nothing_is_touched_by_what_is_refused(
    agents: Fleet, ledger: Ledger, disk: Path, tmp_path: Path
) -> None:
    (disk / "file").touch()
    most = free(disk) / MIB + 1
    for fault, said in (
        (DiskFull("/nowhere"), "path /nowhere: it is not there: name a directory on the volume"),
        (DiskFull(str(disk / "file")), "a file, not a directory"),
        (DiskFull(str(disk), volume="/mnt/other"), f"is on {disk} (/dev/loop"),
        (DiskFull(str(tmp_path), volume=str(disk)), f"not on {disk}: name a directory there"),
        (DiskFull("/", free_mib=8), "the host and the journal need: leave at least 256 MiB free"),
        (DiskFull("/", free_mib=1e8), "were to be left: nothing would happen"),
        (DiskFull(str(disk), free_mib=most), "nothing would happen"),
        (DiskFull("/proc"), "no fixed number of bytes"),
        (InodesFull("/"), "leave at least 1000 inodes free"),
    ):
        injection = Injection(fault, [HERE], lease_s=30, ledger=ledger, fleet=agents)
        with pytest.raises(AftershockError) as refused:
            injection.arm()
        assert said in str(refused.value) and "here" in str(refused.value), fault
    assert "arming" not in ledger.path.read_text(), "nothing was begun"
    (disk / "file").unlink()


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        (DiskFull, {"path": "weights"}, "path 'weights': give it whole, from / on"),
        (DiskFull, {"path": "/", "free_mib": -1}, "free_mib -1: 0 or more"),
        (DiskFull, {"path": "/", "reserve_mib": 1}, "reserve_mib 1: 64 or more"),
        (InodesFull, {"path": "/", "free_inodes": -1}, "free_inodes -1: 0 or more"),
    ],
)
def test_nonsense_is_refused(kind: Any, words: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidFault, match=said):
        kind(**words)
