"""What an agent costs while a fault holds: percent of a core, beside the 1 % that is promised.

The agent's own process and its watcher, by the processor time that the kernel counts for them; the
children that use a host up are the fault itself.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aftershock.faults.base import Fault
from aftershock.faults.filling import DiskFull
from aftershock.faults.freeze import Freeze
from aftershock.faults.processes import Processes
from aftershock.faults.stress import CpuStress
from aftershock.faults.throttling import IoThrottle
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger
from benchmarks.rows import row
from tests.agent.cgroups import Group, group, running
from tests.agent.disks import volume

OVER_S, PROMISED = 5.0, 1.0
HERE = Node("here", "none", ("127.0.0.1",), devices=())


def rows() -> list[dict[str, Any]]:
    """A row a fault, in percent of one core."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        had = os.environ.get("AFTERSHOCK_STATE")
        os.environ["AFTERSHOCK_STATE"] = str(folder / "state")
        stack.callback(_put_back, had)
        disk = folder / "volume"
        stack.enter_context(volume(disk))
        made = stack.enter_context(group("freezer", "cpu", "cpuacct", "blkio"))
        stack.enter_context(running("sh", "-c", "echo up; exec sleep 600", within=made))
        return [
            row(f"agent_holds_{name}", _percent(make()), "%", "promised", PROMISED)
            for name, make in _faults(made, disk).items()
        ]


def _put_back(state: str | None) -> None:
    """Where the other benchmarks keep their records."""
    os.environ.pop("AFTERSHOCK_STATE")
    if state is not None:
        os.environ["AFTERSHOCK_STATE"] = state


def _faults(made: Group, disk: Path) -> dict[str, Callable[[], Fault]]:
    return {
        "freeze": lambda: Freeze(processes=(Processes(cgroup=made.path),)),
        "cpu_stress": lambda: CpuStress(0.2, cgroup=made.path),
        "throttle": lambda: IoThrottle(str(disk), read_mib_s=1, cgroup=made.path.strip("/")),
        "fill": lambda: DiskFull(str(disk), free_mib=1),
    }


def _percent(fault: Fault) -> float:
    fleet, ledger = Fleet(), Ledger.open(f"bench-{os.urandom(3).hex()}")
    injection = Injection(fault, [HERE], lease_s=60, ledger=ledger, fleet=fleet)
    try:
        injection.arm()
        injection.fire()
        agent = fleet.fresh(HERE)
        watcher = (agent.ask("record", injection=injection.id).get("watcher") or {}).get("pid")
        pids = [agent.pid, *([watcher] if watcher else [])]
        before, began = sum(map(_used_s, pids)), time.monotonic()
        time.sleep(OVER_S)
        return (sum(map(_used_s, pids)) - before) / (time.monotonic() - began) * 100
    finally:
        injection.revert()
        fleet.close()
        ledger.close()


def _used_s(pid: int) -> float:
    """Seconds that a process ran, to the nanosecond (schedstat), all of its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


if __name__ == "__main__":
    for line in rows():
        print(line, file=sys.stderr)
