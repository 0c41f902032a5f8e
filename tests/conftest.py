"""Every test leaves the machine as it found it: checked here, after each one."""

import ctypes
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MARK = "AFTERSHOCK_TEST_MARK"
WAIT_S = 5.0

# A shell starts its background jobs with SIGINT ignored, `nohup` its job with SIGHUP, and so would
# all be that tests start: then no Ctrl-C would reach them. Children inherit "ignored", but not a
# handler.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure() -> None:
    """A worker of several has a network, shared memory and named namespaces of its own.

    Otherwise one worker would take what the other's test has just made for its own leftovers.
    """
    if "PYTEST_XDIST_WORKER" in os.environ and os.geteuid() == 0:
        new_mounts, new_network = 0x20000, 0x40000000
        if ctypes.CDLL(None, use_errno=True).unshare(new_mounts | new_network):
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/run/netns").mkdir(parents=True, exist_ok=True)
        has_cgroups = Path("/sys/fs/cgroup").is_dir()
        for line in (*_OWN_WORLD, *(_KEPT_CGROUPS if has_cgroups else (_SYSFS,)), _LOOPBACK):
            subprocess.run(line.split(), check=True)


_OWN_WORLD = (
    "mount --make-rprivate /",
    "mount -t tmpfs tmpfs /run/netns",
    "mount -t tmpfs tmpfs /dev/shm",
)
_SYSFS = "mount -t sysfs sysfs /sys"  # whose /sys/class/net is that of the network it is mounted in
_KEPT_CGROUPS = (  # it has none itself
    "mkdir /run/netns/kept",
    "mount --rbind /sys/fs/cgroup /run/netns/kept",
    _SYSFS,
    "mount --rbind /run/netns/kept /sys/fs/cgroup",
    "umount --lazy /run/netns/kept",
    "rmdir /run/netns/kept",
)
_LOOPBACK = "ip link set lo up"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What touches the kernel needs root; without it such tests say so and are skipped."""
    needs_root = pytest.mark.skipif(
        os.geteuid() != 0, reason="needs root for namespaces and bpf: run the tests with sudo"
    )
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(needs_root)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger and a journal of the test's own."""
    monkeypatch.setenv("AFTERSHOCK_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("AFTERSHOCK_JOURNAL", str(tmp_path / "journal"))


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After the test: no process it began, no link, namespace or shared memory of ours.

    Processes are known by a variable in their environment, which all descendants inherit, whatever
    session, namespace or parent they have moved to. Listening ports end with their processes.
    """
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    with as_found(mark):
        yield


@contextmanager
def as_found(mark: str) -> Iterator[None]:
    """What has begun inside is gone soon after it."""
    before = _kernel_things()
    yield
    deadline = time.monotonic() + WAIT_S
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, f"processes left: {left}"
    while (more := _kernel_things() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not more, f"left behind: {sorted(more)}"


def marked_processes(mark: str) -> dict[int, str]:
    """The live processes, other than this one, that carry the mark: PID → command line."""
    needle = f"{MARK}={mark}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if needle in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(entry.name)] = command.strip()
        except OSError:
            continue
    return found


def _kernel_things() -> set[str]:
    """Links, named namespaces and shared memory of this machine, as one set of names."""
    things = {f"link {p.name}" for p in Path("/sys/class/net").iterdir()}
    for folder in ("/run/netns", "/dev/shm"):
        if Path(folder).is_dir():
            things |= {str(p) for p in Path(folder).iterdir()}
    return things
