"""Cutting a host off from N prefixes, both ways, and letting it go: ours beside `tc`.

Ours is armed (programs loaded and attached, prefixes in their trie) with nothing felt, and fired
by one map update: `partition_fire` is from the controller's order to that update done, brought over
on one clock. `partition_arm` is what the agent needs for programs, prefixes and attaching, which is
what `tc` does; what the order waits for in all, with records on disk, is a row of its own. The
agent is up, and `tc` finds its qdisc there. `tc` gets u32 filters both ways that send the prefix to
a device that is down, since a kernel may come without gact.
"""

import os
import signal
import socket
import struct
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

from aftershock.agent import bpf
from aftershock.faults.partition import Partition
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.lab.netns import entered
from aftershock.ledger import Ledger
from benchmarks import traffic
from benchmarks.rows import middle_of, row, timed_ms

NAMESPACE = f"as-bench-{os.getpid()}"
NEIGHBOUR = "10.99.0.2"
TIMES = 7
LIVES = 15  # an attaching takes three to five of the kernel's ticks
# What a heal took off the kernel frees in grace periods to come; attaching waits for those, too.
REST_S = 0.2
BATCH, EACH = "tc -batch", "tc, a process each"
_PYTHON = "python3 -c 'import pyroute2'"
_BARE = "two empty TCX programs"
_NEXT = bytes((0xB7, 0, 0, 0)) + struct.pack("<i", -1) + bytes((0x95, 0, 0, 0, 0, 0, 0, 0))


def rows() -> list[dict[str, Any]]:
    """An agent's start, a partition's life for 1000 and 5000 prefixes, and what others pay."""
    with tempfile.TemporaryDirectory() as state, _namespace() as node:
        os.environ["AFTERSHOCK_STATE"] = state
        started = middle_of(lambda: _agent_start(node))
        table = [row("agent_start", started, "ms", _PYTHON, middle_of(_python))]
        table += _thousand(node)
        table += _five_thousand(node)
        table.append(_sigkill(node))
        ways: dict[str, traffic.Rules] = {
            "ours": lambda: _held(node, _peers(1000)),
            "flat u32": lambda: _filters(_peers(1000)),
            "no rules": nullcontext,
        }
        return table + traffic.rows(NAMESPACE, NEIGHBOUR, ways)


def _thousand(node: Node) -> list[dict[str, Any]]:
    peers = _peers(1000)
    batch = middle_of(partial(_tc_batch, peers), TIMES)
    each = _tc_each(peers)
    tcx, clsact = _life(node, peers, "tcx"), _life(node, peers, "clsact")
    at_once = _life(node, peers, "tcx", rest_s=0)
    return [
        row("partition_fire_1000", tcx["fire"], "ms", BATCH, batch),
        row("partition_fire_1000", tcx["fire"], "ms", EACH, each),
        row("partition_arm_1000", tcx["arm"], "ms", BATCH, batch),
        row("partition_arm_1000", tcx["arm"], "ms", EACH, each),
        row("partition_arm_1000", tcx["arm"], "ms", _BARE, middle_of(partial(_bare, node), LIVES)),
        row("partition_arm_1000_after_heal", at_once["arm"], "ms", "ours, at rest", tcx["arm"]),
        row("partition_arm_1000_clsact", clsact["arm"], "ms", BATCH, batch),
        row("partition_armed_on_order_1000", tcx["ordered"], "ms", BATCH, batch),
    ]


def _five_thousand(node: Node) -> list[dict[str, Any]]:
    peers = _peers(5000)
    batch, gone = (
        median(times) for times in zip(*(_tc_life(peers) for _ in range(3)), strict=True)
    )
    tcx, clsact = _life(node, peers, "tcx"), _life(node, peers, "clsact")
    few = _life(node, peers[:1], "tcx")
    return [
        row("partition_arm_5000", tcx["arm"], "ms", BATCH, batch),
        row("partition_arm_5000_clsact", clsact["arm"], "ms", BATCH, batch),
        row("partition_revert_5000", tcx["disarm"], "ms", "tc qdisc del", gone),
        row("partition_detach_5000", tcx["detach"], "ms", "ours, 1 prefix", few["detach"]),
    ]


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
def _book() -> Iterator[tuple[Fleet, Ledger]]:
    fleet, ledger = Fleet(), Ledger(f"bench-{time.monotonic_ns()}")
    try:
        yield fleet, ledger
    finally:
        fleet.close()
        ledger.close()


def _cut(
    node: Node, peers: list[str], fleet: Fleet, ledger: Ledger, hook: str = "tcx"
) -> Injection:
    fault = Partition(tuple(ip_network(peer) for peer in peers), hook=hook)  # type: ignore[arg-type]
    return Injection(fault, [node], lease_s=60, ledger=ledger, fleet=fleet)


def _life(node: Node, peers: list[str], hook: str, rest_s: float = REST_S) -> dict[str, float]:
    """Medians over several partitions of one agent, in ms; the first one, which imports, is not in.

    `rest_s`: how long after one's heal the next is armed.
    `ordered` and `arm`: armed as the controller waits for it, and the agent's own part. `fire` and
    `disarm`: from the order to its effect. `detach`: what is then left to take off.
    """
    lives = []
    with _book() as (fleet, ledger):
        channel = fleet.channels([node])[node.name]
        for _ in range(LIVES + 1):
            time.sleep(rest_s)
            injection = _cut(node, peers, fleet, ledger, hook)
            injection.check()
            lives.append({"ordered": timed_ms(injection.arm), **_fired(channel, injection.id)})
            injection.revert()
    return {name: median(life[name] for life in lives[1:]) for name in lives[0]}


def _bare(node: Node) -> float:
    """Programs that let everything pass, attached both ways: what the kernel itself takes for it.

    Each attaching waits until no processor can still be in the list of programs before it (RCU).
    """
    assert node.netns
    time.sleep(REST_S)
    program = bpf.load(_NEXT, "as_bench")
    links: list[int] = []
    with entered(node.netns):
        device = socket.if_nametoindex("as-b0")
        ways = ("ingress", "egress")
        took = timed_ms(lambda: links.extend(bpf.link(program, device, way) for way in ways))
    for file in (*links, program):
        os.close(file)
    return took


def _fired(channel: AgentChannel, injection: str) -> dict[str, float]:
    arm = channel.ask("record", injection=injection)["attached_in_s"]
    go = time.monotonic()
    fired = channel.ask("fire", injection=injection)
    cut = channel.to_monotonic(fired["fired_at"] + fired["took_s"])
    stop = time.monotonic()
    record = channel.ask("revert", injection=injection)
    let_go = channel.to_monotonic(record["reverted_at"])
    spans = {
        "arm": arm,
        "fire": cut - go,
        "disarm": let_go - stop,
        "detach": record["detached_in_s"],
    }
    return {name: 1000 * seconds for name, seconds in spans.items()}


@contextmanager
def _held(node: Node, peers: list[str]) -> Iterator[None]:
    with _book() as (fleet, ledger):
        injection = _cut(node, peers, fleet, ledger)
        injection.arm()
        injection.fire()
        yield
        injection.revert()


def _sigkill(node: Node) -> dict[str, Any]:
    """From SIGKILL of the agent until packets pass again: by its link, and by its emptied table."""
    tcx, clsact = (median(_restored(node, hook) for _ in range(5)) for hook in ("tcx", "clsact"))
    return row("sigkill_restore", tcx, "ms", "ours by cls_bpf", clsact)


def _restored(node: Node, hook: str) -> float:
    with _book() as (fleet, ledger), traffic.echo(NAMESPACE) as passes:
        assert passes(), "packets pass before the fault"
        injection = _cut(node, [f"{NEIGHBOUR}/32"], fleet, ledger, hook)
        injection.arm()
        injection.fire()
        assert not passes(), "and none during it"
        agent = fleet.channels([node])[node.name].pid
        killed = time.monotonic()
        os.kill(agent, signal.SIGKILL)
        while not passes() and time.monotonic() < killed + 30:
            pass
        back = time.monotonic()
        injection.revert()
    return (back - killed) * 1000


@contextmanager
def _filters(peers: list[str]) -> Iterator[None]:
    _tc("qdisc", "add", "dev", "as-b0", "clsact")
    try:
        _feed(peers)
        yield
    finally:
        _tc("qdisc", "del", "dev", "as-b0", "clsact")


def _tc_batch(peers: list[str]) -> float:
    with _filters([]):
        return timed_ms(lambda: _feed(peers))


def _tc_life(peers: list[str]) -> tuple[float, float]:
    _tc("qdisc", "add", "dev", "as-b0", "clsact")
    added = timed_ms(lambda: _feed(peers))
    return added, timed_ms(lambda: _tc("qdisc", "del", "dev", "as-b0", "clsact"))


def _lines(peers: list[str]) -> Iterator[str]:
    start, drop = "filter add dev as-b0", "action mirred egress redirect dev as-ifb"
    for number, peer in enumerate(peers):
        place = f"protocol ip pref {1 + number // 2000} u32"  # its table holds 2048
        yield f"{start} egress {place} match ip dst {peer} {drop}"
        yield f"{start} ingress {place} match ip src {peer} {drop}"


def _feed(peers: list[str]) -> None:
    lines = "".join(f"{line}\n" for line in _lines(peers))
    subprocess.run(["tc", "-n", NAMESPACE, "-batch", "-"], input=lines, text=True, check=True)


def _tc_each(peers: list[str]) -> float:
    with _filters([]):
        began = time.perf_counter()
        for line in _lines(peers):
            _tc(*line.split())
        return (time.perf_counter() - began) * 1000


def _tc(*words: str) -> None:
    subprocess.run(["tc", "-n", NAMESPACE, *words], check=True)


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
