"""How fast a GPU's memory is taken and free again, and what NVML's readings cost.

On the first real GPU that nobody uses; where there is none, on the lab's mock of an 80 GiB card:
then the rows' names begin with `emulated`, and are about our own part, not about a driver's.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from aftershock.agent import gpu
from aftershock.agent.errors import AgentError
from aftershock.faults.gpu import GpuMemoryPressure
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger
from benchmarks.rows import row
from tests.agent.cards import Cards

TIMES, SHARE, OVER_S = 5, 0.8, 20.0
PRESSED_S, FREE_S, SAMPLING_PERCENT = 2.0, 0.5, 1.0  # what is promised
_SLACK_MIB = 64
_ENOUGH = 0.98  # of what was to be taken, as NVML counts
_LATEST_S = 30.0
UsedMib = Callable[[], float]


def rows() -> list[dict[str, Any]]:
    """Medians, each beside what is promised."""
    with tempfile.TemporaryDirectory() as folder, _card(Path(folder)) as (kind, node, used_mib):
        lives = [_life(node, used_mib) for _ in range(TIMES)]
        pressed, free = (median(times) for times in zip(*lives, strict=True))
        sampled = _sampling_percent(node)
    return [
        row(f"{kind}gpu_press_80_percent", pressed, "s", "promised", PRESSED_S),
        row(f"{kind}gpu_free_after_sigkill", free, "s", "promised", FREE_S),
        row(f"{kind}gpu_nvml_10_hz_core", sampled, "%", "promised", SAMPLING_PERCENT),
    ]


@contextmanager
def _card(folder: Path) -> Iterator[tuple[str, Node, UsedMib]]:
    """How the rows' names begin, whose GPU it is, and how to ask NVML for its used memory."""
    try:
        found = gpu.looked_at()[:1]
    except AgentError:
        found = []
    if found and not found[0]["processes"]:
        here = Node("gpu-host", "none", ("127.0.0.1",), devices=())
        yield "", here, lambda: float(gpu.gpus()[0]["memory_used_mib"])
        return
    cards = Cards(folder, count=1)
    with cards.reader() as reader:
        yield "emulated ", cards.node, lambda: float(reader.read()[0]["used_mib"])


def _life(node: Node, used_mib: UsedMib) -> tuple[float, float]:
    """From the order until NVML shows the memory taken; from SIGKILL until it shows it free."""
    fleet, ledger = Fleet(), Ledger.open(f"bench-{os.urandom(3).hex()}")
    before = used_mib()
    injection = Injection(
        GpuMemoryPressure(("0",), share=SHARE), [node], lease_s=60, ledger=ledger, fleet=fleet
    )
    try:
        injection.arm()
        (step,) = fleet.fresh(node).ask("observe", injection=injection.id)
        wanted, armed = step["cards"][0]["asked"] / (1 << 20), used_mib()
        began = time.monotonic()
        injection.fire()
        pressed = _until(lambda: used_mib() - armed >= _ENOUGH * wanted) - began
        killed = time.monotonic()
        os.kill(fleet.fresh(node).pid, signal.SIGKILL)
        return pressed, _until(lambda: used_mib() <= before + _SLACK_MIB) - killed
    finally:
        injection.revert()
        fleet.close()
        ledger.close()


def _until(seen: Callable[[], bool]) -> float:
    limit = time.monotonic() + _LATEST_S
    while not seen():
        assert time.monotonic() < limit, f"not within {_LATEST_S:g} s"
        time.sleep(0.002)
    return time.monotonic()


def _sampling_percent(node: Node) -> float:
    """Of a core, while the agent reads NVML ten times a second, as a probe has it do."""
    fleet = Fleet()
    try:
        agent = fleet.fresh(node)
        agent.ask("gpu", over_s=0.0)  # which imports
        before = _used_s(agent.pid)
        agent.ask("gpu", OVER_S + 5, over_s=OVER_S)
        return (_used_s(agent.pid) - before) / OVER_S * 100
    finally:
        fleet.close()


def _used_s(pid: int) -> float:
    """Seconds that a process ran, threads that have ended since included."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    for line in rows():
        print(line, file=sys.stderr)
