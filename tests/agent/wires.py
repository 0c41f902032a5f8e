"""Network namespaces joined by a bridge, and packets sent between them by the test itself."""

import ctypes
import os
import secrets
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aftershock.faults.partition import EVERYONE, Partition, networks
from aftershock.injection import Injection
from aftershock.inventory import Node

T = TypeVar("T")
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
HOOKS = ("tcx", "clsact")
Inject = Callable[..., Injection]
ABSENT_S = 0.12
PRESENT_S = 2.0


@dataclass
class World:
    """Nodes by name: `a` and `b` in one zone, `w` outside of it."""

    prefix: str
    nodes: dict[str, Node] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def netns(self, name: str) -> str:
        """A namespace's name for `ip -n`."""
        return f"{self.prefix}-{name}"

    def tc(self, name: str, *words: str) -> str:
        """Run tc on a node's device."""
        command = ["tc", "-n", self.netns(name), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def world(names: str = "abw") -> Iterator[World]:
    """A bridge in a namespace of its own, and a namespace on it for each name."""
    made = World(f"as-t{secrets.token_hex(3)}")
    try:
        _ip([f"netns add {made.prefix}", *(f"netns add {made.netns(name)}" for name in names)])
        _ip(_bridge(made, names), "-n", made.prefix)
        for number, name in enumerate(names, 1):
            _ip(_end(number), "-n", made.netns(name))
            made.nodes[name] = Node(
                name=f"node-{name}",
                zone="out" if name == "w" else "in",
                addresses=(f"10.99.0.{number}", f"fd99::{number}"),
                netns=f"/run/netns/{made.netns(name)}",
            )
        yield made
    finally:
        for name in (made.prefix, *(made.netns(name) for name in names)):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(lines: list[str], *where: str) -> None:
    command = ["ip", *where, "-batch", "-"]
    subprocess.run(command, check=True, input="\n".join(lines), text=True, capture_output=True)


def _bridge(made: World, names: str) -> list[str]:
    lines = ["link add br0 type bridge", "link set br0 up"]
    for name in names:
        lines += [
            f"link add p{name} type veth peer name eth0 netns {made.netns(name)}",
            f"link set p{name} master br0 up",
        ]
    return lines


def _end(number: int) -> list[str]:
    return [
        "link set lo up",
        f"addr add 10.99.0.{number}/24 dev eth0",
        f"addr add fd99::{number}/64 dev eth0 nodad",
        "link set eth0 up",
    ]


def cut_off(wires: World, nodes: str = "a", spare: str = "ab", **options: Any) -> Partition:
    """Everything is cut but the zone's own nodes."""
    kept = [address for name in spare for address in wires[name].addresses]
    return Partition(options.pop("peers", EVERYONE), networks(kept), **options)


def inside(netns: str | None, make: Callable[[], T]) -> T:
    """Call something in a network namespace; sockets made there stay there."""
    results: list[T] = []

    def work() -> None:
        with Path(str(netns)).open(encoding="utf-8") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000):
                raise OSError(ctypes.get_errno(), f"setns {netns}")
        results.append(make())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return results[0]


@contextmanager
def talk(source: Node, target: Node, family: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected UDP socket at the source, and the one it sends to."""
    kind = FAMILIES[family]
    address = target.addresses[0 if family == 4 else 1]
    with (
        inside(target.netns, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as there,
        inside(source.netns, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as here,
    ):
        there.bind((address, 0))
        here.connect((address, there.getsockname()[1]))
        yield here, there


def arrives(source: Node, target: Node, family: int = 4, within_s: float = PRESENT_S) -> bool:
    """Whether a datagram gets from one node to another; sending it must not fail.

    Sent again every 50 ms, since the very first may be lost while neighbours find each other.
    """
    until = time.monotonic() + within_s
    with talk(source, target, family) as (here, there):
        while time.monotonic() < until:
            here.send(b"?")
            if select.select([there], [], [], 0.05)[0]:
                return True
    return False


def lost(source: Node, target: Node, family: int = 4) -> bool:
    """Whether datagrams from one node to another are lost, silently for their sender."""
    return not arrives(source, target, family, ABSENT_S)


def share_lost(source: Node, target: Node, count: int, family: int = 4) -> float:
    """The share of so many datagrams that does not get there."""
    return 1 - sum(fates(source, target, count, family)) / count


def fates(source: Node, target: Node, count: int, family: int = 4) -> list[bool]:
    """Which of so many numbered datagrams get from one node to another."""
    got: set[bytes] = set()
    with talk(source, target, family) as (here, there):
        for number in range(count):
            here.send(b"%d" % number)
            last = number == count - 1
            if number % 50 == 49 or last:  # before the socket's buffer is full
                while select.select([there], [], [], 0.2 if last else 0.02)[0]:
                    got.add(there.recv(16))
    return [b"%d" % number in got for number in range(count)]


def back_after(source: Node, target: Node, event: Callable[[], object], within_s: float) -> float:
    """Seconds from an event until datagrams arrive again; sent every millisecond."""
    with talk(source, target, 4) as (here, there):
        here.send(b"?")
        assert not select.select([there], [], [], ABSENT_S)[0], "nothing was cut before the event"
        event()
        begin = time.monotonic()
        while time.monotonic() < begin + within_s:
            here.send(b"?")
            if select.select([there], [], [], 0.001)[0]:
                return time.monotonic() - begin
    raise AssertionError(f"not back within {within_s} s")


def wait_for(condition: Callable[[], bool], within_s: float = 20.0) -> bool:
    """Whether something becomes true in time; a busy machine has plenty of it."""
    until = time.monotonic() + within_s
    while not (result := condition()) and time.monotonic() < until:
        time.sleep(0.02)
    return result


def is_gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return text.rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
