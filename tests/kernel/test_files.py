"""Files that are late for who opens them: a read-only copy on dm-delay, over the directory."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aftershock.errors import InvalidInput, NotApplied, NotReverted
from aftershock.faults.covering import FileDelay
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.ledger import Ledger
from tests.agent.disks import volume
from tests.agent.wires import wait_for

from .worlds import HOST, run, undisturbed

pytestmark = pytest.mark.root
one_kernel = pytest.mark.one_kernel
READ_MS = 200
MIB = 1 << 20


def things() -> list[str]:
    """Mounts, loop devices, device-mapper's devices and their nodes."""
    nodes = sorted(str(path) for path in Path("/dev/mapper").iterdir())
    mounts = run("findmnt", "--raw", "--noheadings", "--output", "TARGET,SOURCE,OPTIONS")
    return [mounts, run("losetup", "-a"), run("dmsetup", "ls"), *nodes]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("volumes") / "disk"
    with volume(folder, mib=96):
        yield folder


@pytest.fixture(scope="module")
def weights(disk: Path) -> Path:
    """A directory of a model's files: links, owners, modes and attributes among them."""
    made = disk / "weights"
    (made / "layers").mkdir(parents=True)
    (made / "file").write_bytes(os.urandom(2 * MIB))
    (made / "layers" / "first").write_bytes(os.urandom(9000))
    (made / "layers" / "first").chmod(0o4750)
    os.chown(made / "layers" / "first", 1234, 70000)
    (made / "layers").chmod(0o2770)
    os.chown(made, 1000, 1001)
    made.chmod(0o750)
    (made / "link").symlink_to("layers/first")
    (made / "hard").hardlink_to(made / "layers" / "first")
    (made / "long").symlink_to("x" * 100)
    os.mkfifo(made / "fifo")
    os.utime(made / "file", (1e9, 1e9))
    os.setxattr(made / "file", "user.digest", b"sha256:0")
    os.sync()
    return made


@pytest.fixture(autouse=True)
def as_before(weights: Path) -> Iterator[None]:
    """The last user's close frees all, in the kernel, a little later."""
    before, held = things(), content(weights)
    yield
    assert wait_for(lambda: things() == before, 10), (before, things())
    assert content(weights) == held


def content(folder: Path) -> dict[str, Any]:
    """All of what is below a folder, and of it itself, as anybody sees it."""
    found: dict[str, Any] = {}
    for path in sorted([folder, *folder.rglob("*")]):
        told = path.lstat()
        about: list[Any] = [oct(told.st_mode), told.st_uid, told.st_gid]
        if path.is_symlink():
            about.append(path.readlink())
        elif path.is_file():
            about += [told.st_nlink, int(told.st_mtime), path.read_bytes(), os.listxattr(path)]
        found[str(path.relative_to(folder))] = about
    return found


def fault(weights: Path, **more: Any) -> FileDelay:
    return FileDelay(str(weights), **{"read_ms": READ_MS, "read_only": True, **more})


@contextmanager
def injected(what: FileDelay, fleet: Fleet, ledger: Ledger, lease_s: float = 120) -> Any:
    injection = Injection(what, [HOST], lease_s=lease_s, ledger=ledger, fleet=fleet)
    try:
        injection.arm()
        injection.fire()
        yield injection
    finally:
        injection.revert()


class Reader:
    """A process that has a file open, and reads a block of it whenever it is asked to."""

    _READS = """
import mmap, os, sys, time
file = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 4096)
print(flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    os.preadv(file, [buffer], int(line) * 4096)
    print((time.perf_counter() - began) * 1000, flush=True)
"""

    def __init__(self, file: Path, *before: str) -> None:
        words = [*before, sys.executable, "-c", self._READS, str(file)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        self._line()

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def read_ms(self, block: int = 0) -> float:
        """How long one takes."""
        assert self.process.stdin
        self.process.stdin.write(f"{block}\n")
        return float(self._line())

    def close(self) -> None:
        """The process ends."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


Opens = Callable[..., Reader]


@pytest.fixture
def opens() -> Iterator[Opens]:
    """Readers, ended after the test, however it ended."""
    with ExitStack() as made:
        yield lambda *words: made.enter_context(closing(Reader(*words)))


@pytest.fixture
def injects(agents: Fleet, ledger: Ledger) -> Iterator[Callable[[FileDelay], Injection]]:
    """Injections, reverted after the test, however it ended."""
    with ExitStack() as made:

        def make(what: FileDelay) -> Injection:
            one = Injection(what, [HOST], lease_s=120, ledger=ledger, fleet=agents)
            made.callback(one.revert)
            return one

        yield make


def dd_ms(file: Path, block: int = 1) -> float:
    """How long `dd` says that it took to read one block of a file that it opened."""
    words = f"dd if={file} of=/dev/null bs=4k count=1 skip={block} iflag=direct"
    done = subprocess.run(words.split(), check=True, capture_output=True, text=True)
    return float(done.stderr.split(" s, ")[0].split()[-1]) * 1000


def test_who_opens_a_file_waits_and_who_had_it_open_does_not(
    injects: Callable[[FileDelay], Injection], opens: Opens, weights: Path
) -> None:
    file = weights / "file"
    before, had = content(weights), opens(file)
    injection = injects(fault(weights))
    injection.arm()
    assert dd_ms(file) < READ_MS / 2, "armed, yet nothing is felt"
    injection.fire()
    opened = opens(file)
    during = undisturbed(lambda: [dd_ms(file, 7), dd_ms(file, 8), opened.read_ms(9)])
    assert all(READ_MS - 10 <= ms <= READ_MS + 60 for ms in during), during
    assert had.read_ms(3) < READ_MS / 2
    assert injection.observe(within_s=60)["bit"] is True, injection.evidence
    assert content(weights) == before, "the copy has all as the original has it"
    injection.revert()
    assert opened.read_ms(10) < READ_MS / 2 and had.read_ms(4) < READ_MS / 2
    assert dd_ms(file, 11) < READ_MS / 2
    assert run("findmnt", "--target", str(weights), "-no", "TARGET") == str(weights.parent)
    assert "aftershock-files" in run("dmsetup", "ls"), "until its last file is closed"
    told = injection.to_dict()
    assert told["clean"] and told["ordered"] and told["felt"], told
    (held,) = [one["seen"] for one in told["evidence"]["pieces"] if one["name"] == "held"]
    assert f"process {opened.process.pid} (" in held and str(had.process.pid) not in held
    opened.close()
    assert wait_for(lambda: "aftershock-files" not in run("dmsetup", "ls"), 10)


@one_kernel
def test_a_write_is_refused_and_nothing_is_lost(
    agents: Fleet, ledger: Ledger, weights: Path
) -> None:
    with injected(fault(weights), agents, ledger):
        for write in (lambda: (weights / "file").open("ab"), (weights / "new").touch):
            with pytest.raises(OSError) as refused:
                write()
            assert refused.value.errno == errno.EROFS


@one_kernel
def test_where_nobody_read_the_run_is_told_so(agents: Fleet, ledger: Ledger, weights: Path) -> None:
    with injected(fault(weights), agents, ledger) as injection:
        for _ in range(2):
            assert injection.observe(within_s=60)["bit"] is True, injection.evidence
        run("ls", "-lR", str(weights))
    assert injection.to_dict()["felt"] is False, injection.evidence
    (piece,) = [one for one in injection.evidence["pieces"] if one["name"] == "felt"]
    assert piece["seen"] == "nobody but us read there"
    with injected(fault(weights), agents, ledger) as injection:
        assert injection.observe(within_s=60)["bit"] is True, injection.evidence
        assert injection.to_dict()["felt"] is None, "nobody knows before the end"
        (weights / "layers" / "first").read_bytes()
    assert injection.to_dict()["felt"] is True, injection.evidence


@one_kernel
def test_a_process_in_mounts_of_its_own_is_told_where_it_has_the_copy(
    agents: Fleet, ledger: Ledger, opens: Opens, weights: Path
) -> None:
    """As a container: begun before, it reads the original; begun meanwhile, it has the copy."""
    alone = ("unshare", "--mount", "--propagation", "private")
    earlier = opens(weights / "layers" / "first", *alone)
    with injected(fault(weights), agents, ledger) as injection:
        assert earlier.read_ms() < READ_MS / 2
        later = opens(weights / "file", *alone)
        assert later.read_ms(5) >= READ_MS - 10
    assert later.read_ms(6) < READ_MS / 2
    told = str(injection.to_dict()["evidence"])
    assert f"process {later.process.pid} (" in told and str(earlier.process.pid) not in told


@one_kernel
def test_the_watcher_heals_what_its_agent_left(ledger: Ledger, weights: Path) -> None:
    own = Fleet()
    try:
        with injected(fault(weights), own, ledger):
            assert dd_ms(weights / "file") >= READ_MS - 10
            os.kill(own.fresh(HOST).pid, signal.SIGKILL)
            assert wait_for(lambda: dd_ms(weights / "file") < READ_MS / 2, 10)
    finally:
        own.close()


@one_kernel
def test_the_deadline_ends_it_where_the_agent_is_stopped(ledger: Ledger, weights: Path) -> None:
    own = Fleet()
    try:
        with injected(fault(weights), own, ledger, lease_s=8):
            agent = own.fresh(HOST)
            os.kill(agent.pid, signal.SIGSTOP)
            assert wait_for(lambda: dd_ms(weights / "file") < READ_MS / 2, 12)
            os.kill(agent.pid, signal.SIGCONT)
    finally:
        own.close()


@one_kernel
@pytest.mark.parametrize("state", ["armed", "fired"])
def test_recover_heals_what_everybody_left(opens: Opens, weights: Path, state: str) -> None:
    words = [sys.executable, "-m", "tests.kernel.abandoned", str(weights), str(READ_MS), state]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    recover = (str(Path(sys.executable).with_name("aftershock")), "recover")
    if state == "fired":
        reader = opens(weights / "file")
        assert dd_ms(weights / "file") >= READ_MS - 10, "nobody healed"
        others = f"nothing is left but what others have: process {reader.process.pid} ("
        assert others in run(*recover)
        assert reader.read_ms(2) < READ_MS / 2
        reader.close()
    else:
        assert "healed now (the agent's death), nothing is left\n" in run(*recover) + "\n"
    assert dd_ms(weights / "file") < READ_MS / 2
    assert "Nothing was left behind" in run(*recover)


@one_kernel
def test_who_hears_of_the_hosts_mounts_hears_of_both(
    agents: Fleet, ledger: Ledger, opens: Opens, weights: Path
) -> None:
    """As a container whose volume has HostToContainer."""
    run("mount", "--make-shared", str(weights.parent))
    inside = opens(weights / "file", "unshare", "--mount", "--propagation", "slave")
    into = ("nsenter", "--mount", "--target", str(inside.process.pid))
    try:
        with injected(fault(weights), agents, ledger):
            later = opens(weights / "file", *into)
            assert later.read_ms(5) >= READ_MS - 10 and inside.read_ms(5) < READ_MS / 2
            later.close()
        assert "aftershock-files" not in run(*into, "cat", "/proc/self/mountinfo")
    finally:
        inside.close()
        run("mount", "--make-private", str(weights.parent))


@one_kernel
def test_a_directory_is_covered_once(
    injects: Callable[[FileDelay], Injection], weights: Path
) -> None:
    def refused(what: FileDelay, said: str) -> None:
        with pytest.raises((InvalidInput, NotApplied), match=said):
            injects(what).arm()

    armed = injects(fault(weights))
    armed.arm()
    refused(fault(weights), "another fault of ours is about to cover it: heal that first")
    armed.fire()
    for folder in (weights, weights / "layers", weights.parent):
        refused(fault(folder), f"cover: {weights} is covered by a fault of ours: heal that first")
    armed.revert()


@one_kernel
def test_two_directories_at_once_in_either_order(
    agents: Fleet, ledger: Ledger, weights: Path, tmp_path: Path
) -> None:
    with volume(tmp_path / "other") as _:
        other = tmp_path / "other" / "more"
        other.mkdir()
        (other / "file").write_bytes(os.urandom(MIB))
        for first, second in ((weights, other), (other, weights)):
            with injected(fault(first), agents, ledger) as one:
                with injected(fault(second, read_ms=50), agents, ledger):
                    one.revert()
                    assert dd_ms(first / "file") < READ_MS / 2
                    assert dd_ms(second / "file") >= 40
                assert dd_ms(second / "file") < 40
        os.sync()


@one_kernel
def test_what_somebody_put_on_it_stays(agents: Fleet, ledger: Ledger, weights: Path) -> None:
    with injected(fault(weights), agents, ledger) as injection:
        run("mount", "-t", "tmpfs", "mine", str(weights / "layers"))
        with pytest.raises(
            NotReverted, match=r"somebody mounted .*layers on it since: unmount that"
        ):
            injection.revert()
        assert dd_ms(weights / "file") < READ_MS / 2, "nobody waits any more"
        run("umount", str(weights / "layers"))
        injection.revert()


@one_kernel
def test_what_is_read_only_for_others_stays_as_safe(
    agents: Fleet, ledger: Ledger, weights: Path
) -> None:
    run("mount", "-o", "remount,nosuid,noexec,nodev", str(weights.parent))
    try:
        with injected(fault(weights), agents, ledger):
            options = run("findmnt", "-no", "OPTIONS", str(weights)).split(",")
            assert {"ro", "nosuid", "noexec", "nodev"} <= set(options), options
    finally:
        run("mount", "-o", "remount,suid,exec,dev", str(weights.parent))
