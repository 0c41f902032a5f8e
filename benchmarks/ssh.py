"""Fifty hosts over SSH: a partition fired on all of them, beside a cold `ssh` process for each.

One sshd stands for all, under fifty addresses, each with a network namespace of its own; so fifty
agents, and every `ssh` of the peer, share this machine's cores. Timed from the order until the last
host said that it is done; the skew is from the first to the last host, by the hosts' own clocks.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from aftershock.faults.partition import EVERYONE, Partition
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node, Ssh
from aftershock.ledger import Ledger
from benchmarks.rows import row, timed_ms
from tests.ssh.sshds import ROOT_ALONE, Sshd, etc, know, sshd, tool

COUNT, ROUNDS, PEER_ROUNDS = 50, 7, 3
PEER = f"{COUNT} cold ssh processes"


def rows() -> list[dict[str, Any]]:
    """What firing takes, and how far apart the hosts are."""
    with tempfile.TemporaryDirectory() as folder, _hosts(Path(folder)) as nodes:
        os.environ["AFTERSHOCK_STATE"] = f"{folder}/state"
        fired = _ours(nodes)
        peers = [_peer(nodes) for _ in range(PEER_ROUNDS)]
    (took, skew), (peer_took, peer_skew) = (
        map(median, zip(*rounds, strict=True)) for rounds in (fired, peers)
    )
    return [
        row("ssh_fire_50", took, "ms", PEER, peer_took),
        row("ssh_fire_50 skew", skew, "ms", PEER, peer_skew),
    ]


@contextmanager
def _hosts(folder: Path) -> Iterator[list[Node]]:
    names = [f"as-bench-{os.getpid()}-{number}" for number in range(COUNT)]
    addresses = tuple(f"127.0.0.{number + 1}" for number in range(COUNT))
    try:
        batch = "\n".join(f"netns add {name}" for name in names)
        subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
        # A plain shell without anybody's rc files: nobody's `ssh` is to pay for those.
        own = etc(folder, passwd=ROOT_ALONE)
        with sshd(folder / "sshd", "0.0.0.0", more="MaxStartups 200", before=own) as server:
            public = server.folder / "host_key.pub"
            know(server.folder / "known_hosts", public, addresses, server.port)
            yield [_node(server, *one) for one in zip(names, addresses, strict=True)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def _node(server: Sshd, name: str, address: str) -> Node:
    env = {"AFTERSHOCK_STATE": f"{server.folder}/far", "XDG_CACHE_HOME": f"{server.folder}/cache"}
    way, netns = server.way(address=address, timeout_s=40.0), f"/run/netns/{name}"
    return Node(name, "in", (address,), devices=("lo",), netns=netns, env=env, ssh=way)


def _ours(nodes: list[Node]) -> list[tuple[float, float]]:
    """Times to fire and skews, warm: the agents are there and armed."""
    fleet, ledger, found = Fleet(), Ledger(f"bench-{time.monotonic_ns()}"), []
    try:
        fleet.channels(nodes)
        for _ in range(ROUNDS):
            injection = Injection(
                Partition(EVERYONE), nodes, lease_s=60, ledger=ledger, fleet=fleet
            )
            injection.arm()
            took = timed_ms(injection.fire)
            assert injection.skew_ms is not None
            found.append((took, injection.skew_ms))
            injection.revert()
    finally:
        fleet.close()
        ledger.close()
    return found


def _peer(nodes: list[Node]) -> tuple[float, float]:
    """A process a host, all started at once, each running a command that tells when it ran."""
    began = time.monotonic()
    running = [
        subprocess.Popen(_ssh(node.ssh), stdout=subprocess.PIPE, text=True)
        for node in nodes
        if node.ssh
    ]
    moments = [float(process.communicate()[0]) for process in running]
    took = time.monotonic() - began
    return took * 1000, (max(moments) - min(moments)) * 1000


def _ssh(way: Ssh) -> list[str]:
    options = [f"UserKnownHostsFile={way.known_hosts}", "BatchMode=yes", "IdentitiesOnly=yes"]
    told = [word for option in options for word in ("-o", option)]
    where = ["-p", str(way.port), "-i", str(way.key), f"{way.user}@{way.address}"]
    return [tool("ssh"), "-F", "none", *told, *where, "date +%s.%N"]


if __name__ == "__main__":
    for line in rows():
        print(line, file=sys.stderr)
