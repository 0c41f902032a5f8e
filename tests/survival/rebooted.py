"""What a guest does whose power is cut in mid-fault: `rebooted.py before`, then `after`.

Each boot makes what a host's own boot would make: a volume on a device-mapper device, a cgroup with
a process in it. The second one makes two of them as somebody saved them in mid-fault: the device's
table, and the cgroup's limit of processes. What it sees goes to REPORTS, a line of JSON each.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aftershock.faults.base import Fault
from aftershock.faults.covering import FileDelay
from aftershock.faults.delaying import IoDelay
from aftershock.faults.exhaustion import NoRoom
from aftershock.faults.filling import DiskFull
from aftershock.faults.freeze import Freeze
from aftershock.faults.processes import Processes
from aftershock.faults.throttling import IoThrottle
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger
from tests.kernel.guest import DISKS, REPORTS

HERE = Node("here", "none", ("127.0.0.1",), devices=())
LASTING, VOLUME = Path("/run/lasting"), Path("/run/weights")
MODEL = VOLUME / "model"
CGROUPS, POD = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/pod")
NAME = "as-weights"
SAVED = LASTING / "saved.json"
MIB = 48


def run(*words: str, told: str = "") -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True, input=told)
    assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr}"
    return done.stdout.strip()


def boot() -> int:
    """As a host's own boot; the PID of the process in the cgroup."""
    LASTING.mkdir()
    run("mount", next(disk for disk in DISKS if Path(disk).exists()), str(LASTING))
    saved = json.loads(SAVED.read_text()) if SAVED.exists() else {}
    image = LASTING / "weights.img"
    if not saved:
        with image.open("wb") as file:
            file.truncate(MIB << 20)
    loop = run("losetup", "--find", "--show", str(image))
    table = saved.get("table") or f"0 {MIB << 11} linear {loop} 0"
    run("dmsetup", "create", NAME, "--noudevsync", told=table)
    run("dmsetup", "mknodes", NAME)
    if not saved:
        run("mkfs.ext4", "-q", "-E", "nodiscard", f"/dev/mapper/{NAME}")
    VOLUME.mkdir()
    run("mount", f"/dev/mapper/{NAME}", str(VOLUME))
    if not saved:
        MODEL.mkdir()
        (MODEL / "layer").write_bytes(os.urandom(1 << 20))
        os.sync()
    run("mount", "-t", "cgroup2", "none", str(CGROUPS))
    (CGROUPS / "cgroup.subtree_control").write_text("+io +pids")
    POD.mkdir()
    sleeper = subprocess.Popen(["sleep", "9999"])
    (POD / "cgroup.procs").write_text(str(sleeper.pid))
    if saved:
        (POD / "pids.max").write_text(saved["pids"])
    return sleeper.pid


def look() -> dict[str, Any]:
    room = os.statvfs(VOLUME)
    return {
        "free_mib": room.f_bfree * room.f_frsize >> 20,
        "table": run("dmsetup", "table", NAME),
        "pids": (POD / "pids.max").read_text().strip(),
        "io": (POD / "io.max").read_text().strip(),
        "covered": [
            line for line in run("findmnt", "-rno", "TARGET").split() if str(MODEL) in line
        ],
        "model": hashlib.sha256((MODEL / "layer").read_bytes()).hexdigest(),
    }


def tell(**what: Any) -> None:
    with Path(REPORTS).open("w") as wire:
        wire.write(json.dumps(what) + "\n")


def before(pid: int) -> None:
    """Every fault on, the books and all else on disk; then nothing until the power is cut."""
    tell(before=look())
    fleet, ledger = Fleet(), Ledger.open("run-to-be-cut-off")
    faults: tuple[Fault, ...] = (
        FileDelay(str(MODEL), read_ms=30, read_only=True),
        DiskFull(str(VOLUME), free_mib=8),
        IoDelay(str(VOLUME), read_ms=30),
        IoThrottle(str(VOLUME), read_mib_s=2, cgroup="pod"),
        NoRoom("pids", Processes(cgroup="/pod")),
        Freeze(processes=(Processes(pid=pid),)),
    )
    for fault in faults:
        injection = Injection(fault, [HERE], lease_s=500, ledger=ledger, fleet=fleet)
        injection.arm()
        injection.fire()
    during = look()
    SAVED.write_text(json.dumps(during))
    os.sync()
    tell(during=during)
    time.sleep(9999)


def after() -> None:
    """What is there, what `aftershock recover` says of it, twice, and what is there then."""
    tell(booted=look())
    said = [run(str(Path(sys.executable).with_name("aftershock")), "recover") for _ in range(2)]
    books = [str(path) for path in (LASTING / "state").rglob("*") if path.is_file()]
    tell(said=said, recovered=look(), books=books)


if __name__ == "__main__":
    os.environ["AFTERSHOCK_STATE"] = str(LASTING / "state")
    inmate = boot()
    before(inmate) if sys.argv[1] == "before" else after()
