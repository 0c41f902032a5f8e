"""Guest kernels for tests/kernel: what can't be had is told, and none outlives who booted it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.agent.wires import is_gone
from tests.kernel.debian import Missing, Package, Release
from tests.kernel.fetch import WHY_NOT, Kernel, fetch_kernel
from tests.kernel.guest import Guest, GuestFailed, slowness, why_not

needs_guest = pytest.mark.skipif(
    os.geteuid() != 0 or bool(why_not("clsact")),
    reason=f"no guest kernel: {why_not('clsact') or 'needs root'}",
)
BOOT = """
import sys
from tests.kernel.guest import Guest
guest = Guest("clsact", ["-p", "no:cacheprovider", "tests/unit/test_ledger.py"])
print(*[process.pid for process in guest.processes], flush=True)
sys.stdin.read()
"""


@needs_guest
def test_a_guest_that_ends_too_early_says_what_its_console_said() -> None:
    guest = Guest("clsact", ["--no-such-option"])
    try:
        with pytest.raises(GuestFailed, match="no-such-option"):
            list(guest.reports())
    finally:
        guest.end()
    assert all(is_gone(process.pid) for process in guest.processes)


@needs_guest
def test_a_guest_ends_with_whoever_booted_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as booting:
        assert booting.stdout
        processes = [int(word) for word in booting.stdout.readline().split()]
        assert processes and not any(is_gone(pid) for pid in processes)
        time.sleep(1)
        booting.send_signal(signal.SIGKILL)
    until = time.monotonic() + 5
    while not all(is_gone(pid) for pid in processes) and time.monotonic() < until:
        time.sleep(0.05)
    assert all(is_gone(pid) for pid in processes)


def test_a_kernel_that_no_package_brings_is_told(tmp_path: Path) -> None:
    if not shutil.which("apt-cache"):
        pytest.skip("no apt-cache here")
    nobody = Kernel((Package("linux-image-of-nobody"),), (1, 0), (99, 0))
    assert fetch_kernel(tmp_path / "x", nobody) is False
    assert "linux-image-of-nobody: " in (tmp_path / "x" / WHY_NOT).read_text()
    with pytest.raises(Missing):
        Release("", tmp_path).version_of("linux-image-of-nobody")
    with pytest.raises(Missing):
        Release("no-such-release", tmp_path)


@pytest.mark.parametrize(
    ("version", "new", "old"),
    [("6.12.117+deb12-cloud-amd64", True, False), ("6.1.0-56-cloud-amd64", False, True)],
)
def test_versions(version: str, new: bool, old: bool) -> None:
    assert Kernel((), (6, 6), (99, 0)).fits(version) is new
    assert Kernel((), (5, 10), (6, 6)).fits(version) is old


def test_what_cannot_be_had_comes_last() -> None:
    assert slowness("no-such-guest") == 2
