"""Cutting a host off from N prefixes: ours beside `tc`, one process a rule or all in one batch.

Timed is what a user waits for: from the order to armed and fired, with the agent there already; for
`tc`, with its qdisc there already. `tc` gets u32 filters that send the prefix to a device that is
down, since a kernel may come without gact.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from statistics import median
from typing import Any

from aftershock.faults.partition import Partition
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger
from benchmarks import traffic
from benchmarks.rows import middle_of, row, timed_ms

NAMESPACE = f"as-bench-{os.getpid()}"
NEIGHBOUR = "10.99.0.2"
_PYTHON = "python3 -c 'import pyroute2'"


def rows() -> list[dict[str, Any]]:
    """An agent's start, install for 100 and 1000 prefixes, firing alone, and what others pay."""
    table = []
    with tempfile.TemporaryDirectory() as state, _namespace() as node:
        os.environ["AFTERSHOCK_STATE"] = state
        started = middle_of(lambda: _agent_start(node))
        table.append(row("an agent is up and answers", started, "ms", _PYTHON, middle_of(_python)))
        for count in (100, 1000):
            peers = _peers(count)
            armed, fired = (median(times) for times in zip(*_ours(node, peers), strict=True))
            batch = middle_of(partial(_tc_batch, peers))
            name = f"partition armed and fired, {count} prefixes"
            table.append(row(name, armed + fired, "ms", "tc -batch", batch))
            if count == 100:
                single = middle_of(partial(_tc_each, peers), times=3)
                table.append(row(name, armed + fired, "ms", "tc, a process each", single))
            else:
                one = middle_of(_tc_one)
                table.append(row(f"firing alone, {count} prefixes", fired, "ms", "one tc", one))
        ways: dict[str, traffic.Rules] = {
            "ours": lambda: _held(node, _peers(1000)),
            "flat u32": lambda: _filters(_peers(1000)),
            "no rules": nullcontext,
        }
        table += traffic.rows(NAMESPACE, NEIGHBOUR, ways)
    return table


def _peers(count: int) -> list[str]:
    return [f"10.{n // 250}.{n % 250}.0/24" for n in range(count)]


def _agent_start(node: Node) -> float:
    fleet = Fleet()
    try:
        return timed_ms(lambda: fleet.channels([node]))
    finally:
        fleet.close()


def _python() -> float:
    words = [sys.executable, "-c", "import pyroute2"]
    return timed_ms(lambda: subprocess.run(words, check=True))


@contextmanager
def _armed(node: Node, peers: list[str]) -> Iterator[Injection]:
    """An injection that is not armed yet; its agent is there before a fault is ordered."""
    fleet, ledger = Fleet(), Ledger(f"bench-{time.monotonic_ns()}")
    try:
        fleet.channels([node])
        fault = Partition(peers=tuple(ip_network(peer) for peer in peers))
        injection = Injection(fault, [node], lease_s=30, ledger=ledger, fleet=fleet)
        yield injection
        injection.revert()
    finally:
        fleet.close()
        ledger.close()


def _ours(node: Node, peers: list[str]) -> list[tuple[float, float]]:
    """Times to arm and to fire."""
    times = []
    for _ in range(5):
        with _armed(node, peers) as injection:
            times.append((timed_ms(injection.arm), timed_ms(injection.fire)))
    return times


@contextmanager
def _held(node: Node, peers: list[str]) -> Iterator[None]:
    with _armed(node, peers) as injection:
        injection.arm()
        injection.fire()
        yield


@contextmanager
def _filters(peers: list[str]) -> Iterator[None]:
    _tc("qdisc", "add", "dev", "as-b0", "clsact")
    try:
        _feed(peers)
        yield
    finally:
        _tc("qdisc", "del", "dev", "as-b0", "clsact")


def _tc_one() -> float:
    """The least that a `tc` user waits for: one filter, one process, the qdisc there already."""
    with _filters([]):
        return timed_ms(lambda: _tc(*_filter("10.0.0.0/24").split()))


def _tc_batch(peers: list[str]) -> float:
    with _filters([]):
        return timed_ms(lambda: _feed(peers))


def _feed(peers: list[str]) -> None:
    lines = "".join(f"{_filter(peer)}\n" for peer in peers)
    words = ["ip", "netns", "exec", NAMESPACE, "tc", "-batch", "-"]
    subprocess.run(words, input=lines, text=True, check=True)


def _tc_each(peers: list[str]) -> float:
    with _filters([]):
        began = time.perf_counter()
        for peer in peers:
            _tc(*_filter(peer).split())
        return (time.perf_counter() - began) * 1000


def _filter(peer: str) -> str:
    return (
        f"filter add dev as-b0 egress protocol ip u32 match ip dst {peer} "
        "action mirred egress redirect dev as-ifb"
    )


def _tc(*words: str) -> None:
    subprocess.run(["ip", "netns", "exec", NAMESPACE, "tc", *words], check=True)


@contextmanager
def _namespace() -> Iterator[Node]:
    _ip("netns", "add", NAMESPACE)
    try:
        _ip("-n", NAMESPACE, "link", "add", "as-b0", "type", "veth", "peer", "name", "as-b1")
        _ip("-n", NAMESPACE, "link", "add", "as-ifb", "type", "ifb")
        _ip("-n", NAMESPACE, "addr", "add", "10.99.0.1/24", "dev", "as-b0")
        for device in ("as-b0", "as-b1"):
            _ip("-n", NAMESPACE, "link", "set", device, "up")
        # A neighbour that is nobody: what is sent to it crosses the wire and is dropped there.
        _ip(*f"-n {NAMESPACE} neigh add {NEIGHBOUR} lladdr 02:00:00:00:00:99 dev as-b0".split())
        path = str(Path("/run/netns") / NAMESPACE)
        yield Node("bench", "here", ("10.99.0.1",), devices=("as-b0",), netns=path)
    finally:
        _ip("netns", "del", NAMESPACE)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
