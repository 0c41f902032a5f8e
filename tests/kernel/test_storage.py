"""Storage faults that want a kernel with dm-delay, or with cgroups of version 2."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest

from aftershock.agent.errors import CannotDo
from aftershock.agent.remapping import swapped
from aftershock.agent.volumes import Volume
from aftershock.errors import InvalidFault, InvalidInput, NotApplied, Unsupported
from aftershock.faults.base import Fault
from aftershock.faults.delaying import IoDelay
from aftershock.faults.failing import IoErrors
from aftershock.faults.throttling import IoThrottle
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.ledger import Ledger
from tests.agent.boots import recover_after_restart
from tests.agent.disks import volume
from tests.agent.wires import wait_for

from .fetch import ORDINARY
from .worlds import HOST, run

pytestmark = pytest.mark.root
one_kernel = pytest.mark.one_kernel
NAME = "as-weights"


@contextmanager
def looped(image: Path) -> Iterator[str]:
    """A loop device of 32 MiB."""
    with image.open("wb") as file:
        file.truncate(32 << 20)
    loop = run("losetup", "--find", "--show", str(image))
    yield loop
    run("losetup", "--detach", loop)


@contextmanager
def null_block(name: str) -> Iterator[str]:
    """One of as much in memory, which takes no time by itself."""
    configfs = Path("/sys/kernel/config")
    if not (configfs / "nullb").exists():
        run("mount", "-t", "configfs", "configfs", str(configfs))
    made = configfs / "nullb" / name
    made.mkdir()
    for key, value in {"memory_backed": 1, "size": 32, "power": 1}.items():
        (made / key).write_text(str(value))
    index = (made / "index").read_text().strip()
    device = next(path for path in (f"/dev/{name}", f"/dev/nullb{index}") if Path(path).exists())
    yield device
    made.rmdir()


@contextmanager
def mapped(name: str, folder: Path, below: str = "") -> Iterator[None]:
    """An ext4 on a linear device-mapper device, as LVM would make it, mounted at a folder.

    `below`: the device under it; a loop device if none is named.
    """
    if not shutil.which("dmsetup") or not Path("/dev/mapper/control").exists():
        pytest.skip("no device-mapper here: its kernel module and dmsetup are needed")
    if not below:
        with looped(folder.with_suffix(".img")) as loop, mapped(name, folder, loop):
            yield
        return
    run("dmsetup", "create", name, "--noudevsync", text=f"0 65536 linear {below} 0")
    device = f"/dev/mapper/{name}"
    if not Path(device).exists():  # nobody here listens to the kernel's events
        run("dmsetup", "mknodes", name)
    run("mkfs.ext4", "-q", "-E", "nodiscard", device)
    folder.mkdir()
    run("mount", device, str(folder))
    yield
    run("umount", str(folder))
    run("dmsetup", "remove", "--noudevsync", name)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """For all who leave it whole."""
    folder = tmp_path_factory.mktemp("volumes") / "weights"
    with mapped(NAME, folder):
        yield folder


@pytest.fixture
def as_before(disk: Path) -> Iterator[str]:
    before = run("dmsetup", "table", NAME)
    yield before
    assert run("dmsetup", "table", NAME) == before and "linear" in before
    assert "INACTIVE" not in run("dmsetup", "info", NAME)


@contextmanager
def injected(fault: Fault, fleet: Fleet, ledger: Ledger) -> Iterator[Injection]:
    injection = Injection(fault, [HOST], lease_s=120, ledger=ledger, fleet=fleet)
    try:
        injection.arm()
        if not isinstance(fault, IoThrottle):
            assert run("dmsetup", "table", NAME).split()[2] == "linear", "armed, nothing is felt"
        injection.fire()
        yield injection
    finally:
        injection.revert()


def direct_ms(disk: Path, count: int = 5) -> list[float]:
    """How long `dd` says that single direct reads take."""
    took = []
    for at in range(count):
        words = f"dd if={disk}/file of=/dev/null bs=4k count=1 skip={at} iflag=direct"
        done = subprocess.run(words.split(), check=True, capture_output=True, text=True)
        took.append(float(done.stderr.split(" s, ")[0].split()[-1]) * 1000)
    return took


@one_kernel
def test_a_delay_is_what_was_asked_for(
    agents: Fleet, ledger: Ledger, disk: Path, as_before: str
) -> None:
    (disk / "file").write_bytes(os.urandom(1 << 17))
    os.sync()
    before = direct_ms(disk)
    fault = IoDelay(str(disk), read_ms=200, write_ms=50, volume=str(disk))
    with injected(fault, agents, ledger) as injection:
        assert "200" in run("dmsetup", "table", NAME)
        during = direct_ms(disk)
        # It is counted in ticks of up to 10 ms, and the first may be nearly over.
        assert min(during) >= 190 and min(during) - min(before) <= 220, (before, during)
        evidence = injection.observe(within_s=60)
        assert evidence["bit"] is True, evidence
    told = injection.to_dict()
    assert told["clean"] and told["ordered"], told
    assert median(direct_ms(disk)) < 200


@pytest.mark.survival
@pytest.mark.one_kernel(ORDINARY)
def test_a_delay_of_a_disk_that_takes_no_time(
    agents: Fleet, ledger: Ledger, tmp_path: Path
) -> None:
    """All that is measured is what was asked for."""
    folder = tmp_path / "volume"
    with null_block("asnull") as device, mapped(NAME, folder, device):
        (folder / "file").write_bytes(os.urandom(1 << 17))
        os.sync()
        before = direct_ms(folder)
        with injected(IoDelay(str(folder), read_ms=200), agents, ledger) as injection:
            during = direct_ms(folder)
            assert min(during) >= 190 and median(during) - median(before) <= 220, (before, during)
            assert injection.observe(within_s=120)["bit"] is True, injection.evidence
        told = injection.to_dict()
        assert told["clean"] and told["ordered"], told
        assert max(direct_ms(folder)) < 190


@one_kernel
def test_the_watcher_swaps_the_old_table_in(
    agents: Fleet, ledger: Ledger, disk: Path, as_before: str
) -> None:
    own = Fleet()
    try:
        with injected(IoDelay(str(disk), read_ms=100), own, ledger):
            assert "delay" in run("dmsetup", "table", NAME)
            os.kill(own.fresh(HOST).pid, signal.SIGKILL)
            assert wait_for(lambda: run("dmsetup", "table", NAME) == as_before, 30)
    finally:
        own.close()


@contextmanager
def left_alone(fault: Fault) -> Iterator[Injection]:
    """A fault whose agent and watcher are killed in the end."""
    own, ledger = Fleet(), Ledger.open("left-alone")
    injection = Injection(fault, [HOST], lease_s=120, ledger=ledger, fleet=own)
    try:
        injection.arm()
        injection.fire()
        yield injection
        agent = own.fresh(HOST)
        watcher = agent.ask("record", injection=injection.id)["watcher"]["pid"]
        for pid in (watcher, agent.pid):
            os.kill(pid, signal.SIGKILL)
    finally:
        own.close()


@one_kernel
def test_after_a_restart_a_table_of_ours_goes(disk: Path, as_before: str, tmp_path: Path) -> None:
    """No table outlives a kernel; one that was made again as somebody found it is swapped."""
    with left_alone(IoDelay(str(disk), read_ms=100)):
        pass
    assert "delay" in run("dmsetup", "table", NAME), "nobody healed"
    said = recover_after_restart(tmp_path)
    assert f"restarted since, and {NAME}'s table had been made again" in said, said
    assert run("dmsetup", "table", NAME) == as_before


def direct(disk: Path) -> str:
    """How a direct read of a file by `dd` ends."""
    words = f"dd if={disk}/file of=/dev/null bs=4k count=1 iflag=direct"
    done = subprocess.run(words.split(), check=False, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def test_reads_fail_and_the_file_system_lives_on(
    agents: Fleet, ledger: Ledger, disk: Path, as_before: str
) -> None:
    """Where the kernel can let reads alone fail: the older of the two can't."""
    (disk / "file").write_bytes(b"?" * 4096)
    os.sync()
    assert direct(disk) == ""
    fault = IoErrors(str(disk), volume=str(disk))
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 6):
        with pytest.raises(NotApplied, match=r"can't fail reads alone \(error_reads"):
            Injection(fault, [HOST], lease_s=99, ledger=ledger, fleet=agents).arm()
        return
    with injected(fault, agents, ledger) as injection:
        assert "Input/output error" in direct(disk)
        evidence = injection.observe(within_s=60)
        assert evidence["bit"] is True, evidence
        (disk / "other").write_bytes(b"!")
        os.sync()  # writes go through
    assert direct(disk) == "" and (disk / "other").read_bytes() == b"!"
    told = injection.to_dict()
    assert told["clean"] and told["ordered"], told
    (after,) = [one for one in told["evidence"]["pieces"] if one["name"] == "after"]
    assert after["ok"] is True, after


@one_kernel
def test_everything_fails_by_dm_error_until_recover_heals(tmp_path: Path) -> None:
    """With no module of its own; what is mounted there is seen by another process to fail."""
    name, spare = "as-spare", tmp_path / "spare"
    with mapped(name, spare):
        linear = run("dmsetup", "table", name)
        raw = f"dd if=/dev/mapper/{name} of=/dev/null bs=4k count=1 iflag=direct".split()
        run(*raw)
        with left_alone(IoErrors(str(spare), "both", file_system_may_break=True)) as injection:
            assert run("dmsetup", "table", name).split()[2] == "error"
            evidence = injection.observe(within_s=60)
            assert evidence["bit"] is True, evidence
            (piece,) = [one for one in evidence["pieces"] if one["name"] == "fails"]
            assert "a read: EIO; a write: E" in piece["seen"], piece
            failed = subprocess.run(raw, check=False, capture_output=True, text=True)
            assert "Input/output error" in failed.stderr
        assert run("dmsetup", "table", name).split()[2] == "error", "nobody healed"
        run(str(Path(sys.executable).with_name("aftershock")), "recover", "--force")
        assert run("dmsetup", "table", name) == linear
        # What the kernel could not write back meanwhile it tells a first reader, even now.
        assert wait_for(lambda: subprocess.run(raw, check=False).returncode == 0, 30)


@one_kernel
def test_writes_fail_by_turns_and_a_dead_agents_watcher_heals(
    ledger: Ledger, tmp_path: Path
) -> None:
    """On a volume that nobody minds: the file system is broken by it, as was said."""
    own = Fleet()
    name, spare = "as-spare", tmp_path / "spare"
    with mapped(name, spare):
        linear = run("dmsetup", "table", name)
        fault = IoErrors(str(spare), "both", up_s=1, down_s=2, file_system_may_break=True)
        injection = Injection(fault, [HOST], lease_s=120, ledger=ledger, fleet=own)
        try:
            injection.arm()
            injection.fire()
            assert injection.observe(within_s=60)["bit"] is True, injection.evidence
            os.kill(own.fresh(HOST).pid, signal.SIGKILL)
            assert wait_for(lambda: run("dmsetup", "table", name) == linear, 30)
            raw = f"dd if=/dev/mapper/{name} of=/dev/null bs=4k count=1 iflag=direct"
            run(*raw.split())
        finally:
            injection.revert()
            own.close()


@one_kernel
def test_what_cannot_be_delayed_is_refused(
    agents: Fleet, ledger: Ledger, disk: Path, as_before: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidFault, match="after the heal, too, until it is unmounted"):
        IoErrors(str(disk), "write")
    with pytest.raises(InvalidInput, match="is on the volume of /run, and nobody could heal"):
        Injection(IoErrors("/run"), [HOST], lease_s=9, ledger=ledger, fleet=agents).arm()
    with pytest.raises(Unsupported, match="on no device-mapper device, such as LVM makes"):
        Injection(IoDelay("/run", read_ms=5), [HOST], lease_s=9, ledger=ledger, fleet=agents).arm()
    number = run("dmsetup", "info", NAME, "--columns", "--noheadings", "-o", "minor")
    device = os.open(f"/dev/dm-{number}", os.O_RDONLY)
    fcntl.flock(device, fcntl.LOCK_EX)  # as an agent of another host does that shares the device
    with pytest.raises(NotApplied, match="another agent has its device already: name one"):
        Injection(IoDelay(str(disk), 5), [HOST], lease_s=9, ledger=ledger, fleet=agents).arm()
    os.close(device)
    here = Volume("/x", "/x", "/dev/mapper/x", "ext4", "253:0", "")
    with pytest.raises(CannotDo, match="a part of kind crypt, and only linear ones"):
        crypt = "0 65536 crypt aes-xts-plain64 :64:logon:x 0 7:0 4096"
        swapped("delay", "delay", here, crypt, {"read_ms": 5})


@pytest.fixture
def cgroup() -> Iterator[str]:
    """A cgroup of version 2 with a process in it, in a hierarchy that a guest has for itself."""
    top = Path("/sys/fs/cgroup")
    if any(top.iterdir()):
        pytest.skip("cgroups are mounted here: tests/agent has the tests for these")
    run("mount", "-t", "cgroup2", "none", str(top))
    (top / "cgroup.subtree_control").write_text("+io")
    (top / "pod").mkdir()
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        (top / "pod" / "cgroup.procs").write_text(str(sleeper.pid))
        yield "pod"
        sleeper.kill()
    until = time.monotonic() + 10
    while (top / "pod").exists() and time.monotonic() < until:
        try:
            (top / "pod").rmdir()
        except OSError:
            time.sleep(0.05)
    run("umount", str(top))


@one_kernel
def test_io_max_is_kept_and_taken_off(
    agents: Fleet, ledger: Ledger, cgroup: str, tmp_path: Path
) -> None:
    with volume(tmp_path / "weights") as device:
        fault = IoThrottle(str(tmp_path / "weights"), read_mib_s=2, cgroup=cgroup, volume=device)
        limits = Path("/sys/fs/cgroup") / cgroup / "io.max"
        with injected(fault, agents, ledger) as injection:
            assert "rbps=2097152 wbps=max" in limits.read_text()
            evidence = injection.observe(within_s=60)
            assert evidence["bit"] is True, evidence
        assert limits.read_text().strip() == "" and injection.to_dict()["clean"]
