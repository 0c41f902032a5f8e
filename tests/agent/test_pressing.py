"""A device that fio keeps busy: others wait for it, until the heal, and nothing stays behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disks import volume
from held import HERE, held
from wires import is_gone, wait_for

from aftershock.agent import pressing, programs
from aftershock.errors import AftershockError, InvalidFault
from aftershock.faults.pressing import IoPressure
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.ledger import Ledger

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("fio"), reason="there is no fio: apt-get install fio"),
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A volume for all tests."""
    folder = tmp_path_factory.mktemp("volumes") / "weights"
    with volume(folder, mib=64):
        yield folder


@pytest.fixture(autouse=True)
def as_before(disk: Path) -> Iterator[None]:
    before, shared = (os.statvfs(disk).f_bfree, sorted(disk.iterdir())), segments()
    yield
    assert wait_for(lambda: (os.statvfs(disk).f_bfree, sorted(disk.iterdir())) == before)
    assert wait_for(lambda: segments() <= shared, 20), "other tests' go, too"


def segments() -> set[str]:
    """SysV shared memory, which outlives processes, by its ID."""
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


def step(disk: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "press", **IoPressure(str(disk), size_mib=16, **more).options()}


def children(agent: AgentChannel) -> list[int]:
    path = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    return [int(word) for word in path.read_text().split()]


def program(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def requests_per_s(disk: Path, over_s: float = 0.4) -> float:
    """What the kernel counts for the volume's device: reads and writes that were served."""
    number = disk.stat().st_dev
    device = [str(os.major(number)), str(os.minor(number))]

    def served() -> int:
        lines = [line.split() for line in Path("/proc/diskstats").read_text().splitlines()]
        return next(int(one[3]) + int(one[7]) for one in lines if one[:2] == device)

    before, began = served(), time.monotonic()
    time.sleep(over_s)
    return (served() - before) / (time.monotonic() - began)


@pytest.fixture
def injection(agents: Fleet, ledger: Ledger, disk: Path) -> Iterator[Injection]:
    fault = IoPressure(str(disk), size_mib=32, depth=64, volume=str(disk))
    made = Injection(fault, [HERE], lease_s=60, ledger=ledger, fleet=agents)
    yield made
    made.revert()


def test_before_during_after(agents: Fleet, injection: Injection, disk: Path) -> None:
    injection.arm()
    before = requests_per_s(disk)
    (child,) = children(agents.fresh(HERE))
    assert program(child) != "fio", "armed, yet nothing is felt"
    injection.fire()
    began = time.monotonic()
    evidence = injection.observe()
    took_s = time.monotonic() - began
    assert evidence["bit"] is True, evidence
    during = requests_per_s(disk)
    assert program(child) == "fio" and during > 100 + 2 * before
    agents.fresh(HERE).ask("revert", injection=injection.id)
    healed = injection.observe(within_s=0)["pieces"]
    assert [piece["ok"] for piece in healed if piece["name"] == "busy"] == [False], healed
    injection.revert()
    told = injection.to_dict()
    assert told["clean"] and told["ordered"] and is_gone(child)
    assert wait_for(lambda: requests_per_s(disk) < during / 2, 20)
    measured = told["per_host"]["here"]["seen"][0]["fio"]
    for way in ("read", "write"):
        assert measured[way]["iops"] > 1 and measured[way]["mib_per_s"] > 0.1
        assert 0 < measured[way]["p50_ms"] <= measured[way]["p99_ms"] <= measured[way]["p99.9_ms"]
    names = [piece["name"] for piece in told["evidence"]["pieces"]]
    assert names == ["slower", "busy", "after"], f"seen after {took_s:.1f} s"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_it_ends_with_its_agent_or_at_its_deadline(
    fleet: Fleet, disk: Path, number: signal.Signals
) -> None:
    agent = fleet.fresh(HERE)
    with held(agent, step(disk, pattern="write"), lease_s=60 if number == 9 else 4):
        (child,) = children(agent)
        assert wait_for(lambda: program(child) == "fio")
        os.kill(agent.pid, number)
        assert wait_for(lambda: is_gone(child), 10)
        if number == signal.SIGSTOP:
            os.kill(agent.pid, signal.SIGCONT)
        else:
            assert wait_for(lambda: not agent.is_open)


def test_fio_that_dies_is_an_early_end(agent: AgentChannel, disk: Path) -> None:
    with held(agent, step(disk, pattern="randread")) as holding:
        (child,) = children(agent)
        assert wait_for(lambda: program(child) == "fio")
        os.kill(child, signal.SIGKILL)
        assert wait_for(lambda: holding.ask("record")["state"] == "reverted")
        record = holding.ask("revert")
    assert record["ordered"] is False and record["ended_by"].startswith("fio ended by itself")


def test_a_cap_is_kept(agent: AgentChannel, disk: Path) -> None:
    capped = step(disk, pattern="write", rate_mib_s=4, jobs=2, block_kib=64, engine="libaio")
    with held(agent, capped) as holding:
        time.sleep(1.5)
        record = holding.ask("revert")
    (seen,) = record["seen"]
    assert seen["engine"] == "libaio" and list(seen["fio"]) == ["write"]
    assert 0.5 < seen["fio"]["write"]["mib_per_s"] < 8


def test_nothing_is_touched_by_what_is_refused(
    agents: Fleet, ledger: Ledger, disk: Path, tmp_path: Path
) -> None:
    for fault, said in (
        (IoPressure("/nowhere"), "path /nowhere: it is not there: name a directory on the volume"),
        (IoPressure(str(tmp_path), volume=str(disk)), f"not on {disk}: name a directory there"),
        (IoPressure("/dev/shm"), "is memory: it has no device to keep busy"),
        (IoPressure("/", reserve_mib=1 << 29), "of them must stay so: free some"),
    ):
        injection = Injection(fault, [HERE], lease_s=30, ledger=ledger, fleet=agents)
        with pytest.raises(AftershockError) as refused:
            injection.arm()
        assert said in str(refused.value) and "here" in str(refused.value), fault
    assert "arming" not in ledger.path.read_text(), "nothing was begun"


def test_without_fio_it_says_how_to_install_it(
    fleet: Fleet, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_FOLDERS", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(pressing.CannotDo, match="apt-get install fio"):
        pressing.check(step(disk))


IN_A_POD = """
import json, os, sys
from aftershock.agent import cgroups, pressing, programs
options = json.loads(sys.argv[1])
assert os.readlink("/proc/self/ns/mnt") != os.readlink("/proc/1/ns/mnt")
print(len(programs.host_program("fio", "fio")) > 1)
volume, _, engine = pressing.check(options)
print(volume.path, volume.mount, engine)
try:
    pressing.check({**options, "path": options["path"] + "/link"})
except pressing.Invalid as error:
    print(error)
"""


def test_in_a_pod_the_volume_and_fio_are_the_hosts(disk: Path) -> None:
    """It finds the host at /proc/1/root; here the host is another mount namespace."""
    (disk / "link").symlink_to("/etc")
    host = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    words = [*host, "sh", "-c", 'unshare --mount "$@"; true', "sh", sys.executable, "-c", IN_A_POD]
    env = {**os.environ, "AFTERSHOCK_HOST_ROOT": "/proc/1/root"}
    done = subprocess.run(
        [*words, json.dumps(step(disk))], env=env, capture_output=True, text=True, check=True
    )
    (disk / "link").unlink()
    goes_home, seen, refused = done.stdout.splitlines()
    path, mount, engine = seen.split()
    assert goes_home == "True" and engine in pressing.ENGINES
    assert (path, mount) == (f"/proc/1/root{disk}", str(disk))
    assert "a link is on the way to it: name the directory itself" in refused


def test_an_engine_that_the_kernel_lacks(agent: AgentChannel, disk: Path) -> None:
    """A kernel without io_uring, by a filter that refuses its system call to the agent."""
    script = f"""
import ctypes, json, sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "src")!r})
from aftershock.agent import pressing, programs
libc = ctypes.CDLL(None, use_errno=True)
import struct
code = struct.pack("<HBBIHBBIHBBIHBBI", 0x20, 0, 0, 0, 0x15, 0, 1, 425, 6, 0, 0, 0x50026,
                   6, 0, 0, 0x7FFF0000)
text = ctypes.create_string_buffer(code)
program = struct.pack("@HxxxxxxP", 4, ctypes.addressof(text))
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, ctypes.create_string_buffer(program)) == 0
options = json.loads(sys.argv[1])
print(pressing.check(options)[2])
try:
    pressing.check({{**options, "engine": "io_uring"}})
except pressing.CannotDo as error:
    print(error)
"""
    words = [sys.executable, "-c", script, json.dumps(step(disk))]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fallback, refusal = done.stdout.splitlines()
    assert fallback == "libaio"
    assert "io_uring: fio:" in refusal and "name another engine" in refusal


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"path": "weights"}, "path 'weights': give it whole, from / on"),
        ({"pattern": "sideways"}, "pattern 'sideways': one of read, write, randread"),
        ({"engine": "posixaio"}, "engine 'posixaio': one of auto, io_uring, libaio"),
        ({"block_kib": 5}, "block_kib 5: a multiple of 4"),
        ({"depth": 0}, "depth 0: from 1 to 4096"),
        ({"read_share": 2}, "read_share 2: from 0 to 1"),
        ({"size_mib": 1}, "size_mib 1: from 4 to"),
    ],
)
def test_nonsense_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidFault, match=said):
        IoPressure(**{"path": "/", **words})
