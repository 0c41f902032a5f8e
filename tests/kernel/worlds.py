"""What the kernel tests share: faults that are looked at with other tools than ours, and flows."""

import re
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import inf
from operator import itemgetter
from statistics import median
from typing import Any, NamedTuple, TypeVar

from aftershock.faults.base import Fault
from aftershock.faults.traffic import Traffic, networks
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger
from tests.agent.wires import FAMILIES, World, inside, talk

T = TypeVar("T")
HOST = Node("here", "none", ("127.0.0.1",), devices=())
_TIMESTAMP = 35  # SO_TIMESTAMPNS: when the kernel had it, however late we look
_REPETITION_S = 0.03  # it comes right behind
_NO_CHECKSUM = 11  # SO_NO_CHECK: what was damaged arrives all the same
_STILL_MS = 15.0  # a guest that got no CPU for so long makes packets late by itself
_TAKES = 8


class Arrival(NamedTuple):
    """A datagram that got there."""

    number: int
    delay_ms: float
    intact: bool


class Flow:
    """Numbered datagrams from one node to another, and what became of them."""

    def __init__(self, count: int, arrivals: Sequence[Arrival]) -> None:
        self.count, self.arrivals = count, arrivals
        first: dict[int, float] = {}
        for one in arrivals:
            first.setdefault(one.number, one.delay_ms)
        self.delays = [delay for _, delay in sorted(first.items())]
        self.lost = 1 - len(first) / count
        self.repeated = (len(arrivals) - len(first)) / count
        self.damaged = sum(not one.intact for one in arrivals) / count
        numbers = list(first)
        self.overtaken = sum(now < before for before, now in pairwise(numbers)) / count

    @property
    def median(self) -> float:
        """Milliseconds that half of them took at most."""
        return median(self.delays)


def flow(
    source: Node,
    target: Node,
    count: int = 50,
    *,
    family: int = 4,
    gap_s: float = 0.002,
    wait_s: float = 0.3,
    checked: bool = True,
    size: int = 900,
    takes: int = _TAKES,
) -> Flow:
    """Send so many, one every `gap_s`; wait up to `wait_s` for the last, and for its repetition."""
    return undisturbed(
        lambda: _flow(source, target, count, family, gap_s, wait_s, checked, size), takes
    )


def undisturbed(measure: Callable[[], T], takes: int = _TAKES) -> T:
    """What is measured while the machine doesn't stand still, which a clock of its own tells.

    If it does, it is done again, up to `takes` times, and the one that was disturbed the least
    counts.
    """
    done: list[tuple[float, T]] = []
    while len(done) < takes and min((still for still, _ in done), default=inf) > _STILL_MS:
        with standstill() as longest:
            one = measure()
        done.append((longest(), one))
    return min(done, key=itemgetter(0))[1]


@contextmanager
def standstill() -> Iterator[Callable[[], float]]:
    """Watch for how many milliseconds at most a thread that wants to run every two doesn't."""
    longest, over = 0.0, threading.Event()

    def tick() -> None:
        nonlocal longest
        now, done = time.monotonic(), False
        while not done:
            before, done = now, over.wait(0.002)
            now = time.monotonic()
            longest = max(longest, (now - before) * 1000 - 2)

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        yield lambda: longest
    finally:
        over.set()
        ticking.join()


def _flow(
    source: Node,
    target: Node,
    count: int,
    family: int,
    gap_s: float,
    wait_s: float,
    checked: bool,
    size: int,
) -> Flow:
    arrivals: list[Arrival] = []
    sent: list[float] = []
    filling = b"\x55" * (size - 4)
    with talk(source, target, family) as (here, there):
        there.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        here.setsockopt(socket.SOL_SOCKET, _NO_CHECKSUM, 0 if checked else 1)
        for number in range(count):
            until = time.monotonic() + (wait_s if number == count - 1 else gap_s)
            sent.append(time.time())
            here.send(struct.pack("!I", number) + filling)
            while select.select([there], [], [], max(0.0, until - time.monotonic()))[0]:
                arrivals.append(_arrival(there, sent, filling))
                if len({one.number for one in arrivals}) == count:
                    until = min(until, time.monotonic() + _REPETITION_S)
    return Flow(count, [one for one in arrivals if one.number < count])


def _arrival(there: socket.socket, sent: Sequence[float], filling: bytes) -> Arrival:
    text, extra, _, _ = there.recvmsg(2048, 64)
    seconds, nanoseconds = struct.unpack("=qq", extra[0][2])
    number = struct.unpack_from("!I", text)[0]
    begun = sent[number] if number < len(sent) else 0
    return Arrival(number, (seconds + nanoseconds / 1e9 - begun) * 1000, text[4:] == filling)


def pings(source: Node, target: Node, count: int = 5, family: int = 4) -> list[float]:
    """Round trips in milliseconds, as ping has them; a repeated answer is there again."""
    address = target.addresses[0 if family == 4 else 1]
    tool = ["ping"] if shutil.which("ping") else ["busybox", "ping"]
    words = [*tool, f"-{family}", "-c", str(count), "-i", "0.05", "-w", "5", "-W", "1", address]
    said = run(*_enter(source), *words, check=False)
    return [float(found) for found in re.findall(r"time=([\d.]+)", said)]


def tcp_rate(source: Node, target: Node, within_s: float = 1.0, family: int = 4) -> float:
    """Bits a second that TCP gets from one node to another."""
    address = (target.addresses[0 if family == 4 else 1], 0)
    with inside(
        target.netns, lambda: socket.create_server(address, family=FAMILIES[family])
    ) as server:
        where = server.getsockname()[:2]
        got: list[int] = []
        taker = threading.Thread(target=lambda: got.append(_take(server, within_s)))
        taker.start()
        with inside(source.netns, lambda: socket.create_connection(where, 10)) as giver:
            giver.settimeout(0.1)
            while taker.is_alive():
                try:
                    giver.send(b"x" * (1 << 15))
                except TimeoutError:
                    continue
                except OSError:
                    break
            taker.join()
    return got[0] * 8 / within_s


def _take(server: socket.socket, within_s: float) -> int:
    got = 0
    taken, _ = server.accept()
    with taken:
        until = time.monotonic() + within_s
        while (left := until - time.monotonic()) > 0:
            taken.settimeout(left)
            try:
                got += len(taken.recv(1 << 16))
            except TimeoutError:
                break
    return got


def tc(node: Node, *words: str) -> str:
    """Run tc where a node is."""
    return run(*_enter(node), "tc", *words)


def ip(node: Node, *words: str) -> str:
    """Run ip where a node is."""
    return run(*_enter(node), "ip", *words)


def look(node: Node) -> list[str]:
    """Links, qdiscs, classes and filters of a node, as iproute2 tells them, without counters.

    The classes of fq_codel and sfq are flows that are there by now, and nobody's settings.
    """
    links = [line for line in ip(node, "-o", "link").splitlines() if line]
    devices = [line.split(": ")[1].partition("@")[0] for line in links]
    asked = ["qdisc show"]
    for device in devices:
        asked.append(f"class show dev {device}")
        asked += [f"filter show dev {device} {at}" for at in ("root", "ingress", "egress")]
    batch = [*_enter(node), "tc", "-force", "-batch", "-"]  # a device may go meanwhile
    shown = run(*batch, check=False, text="\n".join(asked))
    shown = re.sub(r"class (fq_codel|sfq) .*| *\((rule hit|success).*?\)", "", shown)
    return links + [line for line in shown.splitlines() if line]


def _enter(node: Node) -> list[str]:
    return ["nsenter", f"--net={node.netns}", "--"]


def run(*words: str, check: bool = True, text: str = "") -> str:
    """What a command prints, with `text` as its input."""
    done = subprocess.run(words, check=False, input=text, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def to(*nodes: Node, **options: Any) -> Traffic:
    """What goes between a host and these."""
    return Traffic(networks([a for node in nodes for a in node.addresses]), **options)


class Rig:
    """Three nodes with an agent each, kept for all tests, since starting one is slow in a guest."""

    def __init__(self, wires: World, fleet: Fleet) -> None:
        self.wires, self.fleet = wires, fleet
        self.a, self.b, self.w = (wires[name] for name in "abw")

    @contextmanager
    def inject(
        self,
        fault: Fault,
        node: Node | None = None,
        *,
        fire: bool = True,
        alone: bool = True,
        **options: Any,
    ) -> Iterator[Injection]:
        """Armed and fired within, and gone afterwards: as iproute2 sees it, too, if it is alone."""
        node = node or self.a
        before = look(node)
        ledger = Ledger.open("run-on-a-kernel")
        words = {
            "lease_s": 180,
            "grace_s": 60,
            "witness": self.w,
            **options,
        }  # an emulated CPU is slow
        injection = Injection(fault, [node], ledger=ledger, fleet=self.fleet, **words)
        try:
            injection.arm()
            if fire:
                injection.fire()
            yield injection
        finally:
            injection.revert()
            ledger.close()
        told = injection.to_dict()
        assert told["clean"] is True and not told["foreign_changes"], told
        changed = set(look(node)).symmetric_difference(before) if alone else ()
        assert not changed, changed


def passed(injection: Injection, name: str) -> bool | None:
    """What became of a piece of evidence."""
    (found,) = [piece for piece in injection.pieces if piece.name == name]
    return found.ok
