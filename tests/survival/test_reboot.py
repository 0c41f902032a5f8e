"""A host whose power is cut in mid-fault: what a boot brings back is healed, the rest is gone."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.fetch import KERNELS
from tests.kernel.guest import Machine, slowness, why_not

pytestmark = [pytest.mark.root, pytest.mark.survival, pytest.mark.timeout(600)]
KINDS = ("file-delay", "disk-full", "io-delay", "io-throttle", "no-more-pids", "freeze")
KERNEL = min(KERNELS, key=slowness)
DISK_MIB = 128


@contextmanager
def booted(disk: Path, word: str) -> Iterator[Iterator[dict[str, Any]]]:
    """What a boot tells; its power is cut at the end."""
    words = [sys.executable, "-m", "tests.survival.rebooted", word]
    machine = Machine(KERNEL, f"{shlex.join(words)} 2>&1\n", disk)
    try:
        yield (json.loads(line) for line in machine.lines() if line.startswith("{"))
    finally:
        machine.end()


@pytest.mark.skipif(bool(why_not(KERNEL)), reason=f"no guest kernel: {why_not(KERNEL)}")
def test_what_a_boot_brings_back_is_healed_and_the_rest_is_gone(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
    with booted(disk, "before") as told:
        before, during = next(told)["before"], next(told)["during"]
    assert during["free_mib"] <= 8 and before["free_mib"] > 30, (before, during)
    assert during["covered"] and not before["covered"] and during["model"] == before["model"]
    assert "delay" in during["table"] and during["pids"] == "1" and "rbps=2097152" in during["io"]
    with booted(disk, "after") as told:
        there, last = next(told)["booted"], next(told)
    assert there["free_mib"] == before["free_mib"], "files without a name are gone with the boot"
    assert there["covered"] == [] and there["model"] == before["model"], there
    assert there["io"] == "" and there["pids"] == "1" and "delay" in there["table"], there
    first, second = last["said"]
    lines = {line.split(": ")[1].split(" on ")[0]: line for line in first.splitlines()}
    found = {kind: next(line for key, line in lines.items() if kind in key) for kind in KINDS}
    for kind in ("file-delay", "disk-full", "io-throttle", "freeze"):
        assert found[kind].endswith("restarted since, so nothing of it is left"), found[kind]
    assert "as-weights's table had been made again as we had set it: undone" in found["io-delay"]
    assert "/sys/fs/cgroup/pod/pids.max (1) had been made again" in found["no-more-pids"]
    assert last["recovered"] == before and not last["books"], last
    assert "Nothing was left behind" in second, second
