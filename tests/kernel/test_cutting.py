"""Partitions, DNS, resets and commands, felt by sockets of the test's own and by ping."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from aftershock.errors import Unsupported
from aftershock.faults.command import Command
from aftershock.faults.dns import Dns
from aftershock.faults.partition import Partition, networks
from aftershock.faults.reset import Reset
from aftershock.inventory import Node
from tests.agent.wires import FAMILIES, arrives, inside, lost

from .worlds import Rig, passed, pings, tc, to

pytestmark = pytest.mark.root
QUESTION = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x04host\x07example\0\x00\x01\x00\x01"


def cut(*nodes: Node, **options: object) -> Partition:
    """Nothing between a host and these."""
    peers = networks([address for node in nodes for address in node.addresses])
    return Partition(peers, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", ["both", "egress", "ingress"])
def test_a_partition_is_silent_in_its_directions(rig: Rig, direction: str) -> None:
    a, b, w = rig.a, rig.b, rig.w
    ways = {"egress": (a, w), "ingress": (w, a)}
    with rig.inject(cut(w, direction=direction), fire=False) as injection:
        assert len(pings(w, a, 2)) == 2, "armed, yet nothing is felt"
        injection.fire()
        for way, (here, there) in ways.items():
            for family in (4, 6):
                gone = lost(here, there, family)
                assert gone if direction in ("both", way) else arrives(here, there, family)
        assert not pings(w, a, 2) and not pings(w, a, 2, family=6)
        assert arrives(a, b) and arrives(b, w) and arrives(b, a, 6)
        assert injection.observe()["bit"] is True and passed(injection, "silent")
    assert len(pings(w, a, 2)) == 2 and arrives(a, w, 6)


@pytest.mark.one_kernel
def test_a_partition_that_cuts_nobody_has_no_effect(rig: Rig) -> None:
    with rig.inject(cut(rig.w), replace(rig.a, devices=("lo",))) as injection:
        assert len(pings(rig.w, rig.a, 2)) == 2
        assert injection.observe(within_s=0)["bit"] is False and not passed(injection, "silent")


@contextmanager
def tcp_server(node: Node, family: int, port: int = 0) -> Iterator[tuple[str, int]]:
    where = (node.addresses[0 if family == 4 else 1], port)
    with inside(node.netns, lambda: socket.create_server(where, family=FAMILIES[family])) as server:
        yield server.getsockname()[:2]


def connects(source: Node, where: tuple[str, int]) -> bool:
    """Whether a TCP connection comes about."""

    def attempt() -> bool:
        with socket.socket(FAMILIES[6 if ":" in where[0] else 4]) as one:
            one.settimeout(0.5)
            return one.connect_ex(where) == 0

    return inside(source.netns, attempt)


@pytest.mark.one_kernel
@pytest.mark.parametrize("family", [4, 6])
def test_a_port_is_cut_and_its_neighbours_are_not(rig: Rig, family: int) -> None:
    with tcp_server(rig.w, family) as chosen, tcp_server(rig.w, family) as other:
        port = chosen[1]
        fault = cut(rig.w, protocols=("tcp",), peer_ports=((port, port),))
        with rig.inject(fault, fire=False) as injection:
            assert connects(rig.a, chosen)
            injection.fire()
            assert not connects(rig.a, chosen)
            assert connects(rig.a, other) and connects(rig.b, chosen)
            assert arrives(rig.a, rig.w, family) and len(pings(rig.a, rig.w, 1)) == 1
            assert injection.observe()["bit"] is True
        assert connects(rig.a, chosen)


@pytest.mark.one_kernel
@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_a_protocol_is_cut_and_others_are_not(rig: Rig, protocol: str) -> None:
    with tcp_server(rig.w, 4) as v4, tcp_server(rig.w, 6) as v6:
        with rig.inject(cut(rig.w, protocols=(protocol,))):
            assert {connects(rig.a, v4), connects(rig.a, v6)} == {protocol != "tcp"}
            for family in (4, 6):
                assert arrives(rig.a, rig.w, family, 0.5) == (protocol != "udp")
                assert bool(pings(rig.a, rig.w, 1, family)) == (protocol != "icmp")
        assert connects(rig.a, v4) and arrives(rig.a, rig.w) and pings(rig.a, rig.w, 1)


@contextmanager
def resolver(node: Node) -> Iterator[None]:
    """Answers every question on UDP port 53 by itself, and takes connections there."""
    kind = socket.SOCK_DGRAM
    with (
        inside(node.netns, lambda: socket.socket(socket.AF_INET, kind)) as server,
        tcp_server(node, 4, 53),
    ):
        server.bind((node.addresses[0], 53))
        over = threading.Event()

        def answer() -> None:
            while not over.is_set():
                if select.select([server], [], [], 0.05)[0]:
                    question, who = server.recvfrom(512)
                    server.sendto(question[:2] + b"\x81\x80" + question[4:], who)

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        over.set()
        thread.join()


def resolves(node: Node, server: Node) -> bool:
    """Whether a question sent by UDP is answered."""
    with inside(node.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as one:
        one.settimeout(0.3)
        one.sendto(QUESTION, (server.addresses[0], 53))
        try:
            return one.recv(512)[:2] == QUESTION[:2]
        except TimeoutError:
            return False


@pytest.mark.one_kernel
def test_names_no_longer_resolve(rig: Rig) -> None:
    dns = (rig.w.addresses[0], 53)
    with resolver(rig.w), tcp_server(rig.w, 4) as other:
        with rig.inject(Dns(), fire=False) as injection:
            assert resolves(rig.a, rig.w) and connects(rig.a, dns)
            injection.fire()
            assert not resolves(rig.a, rig.w) and not connects(rig.a, dns)
            assert connects(rig.a, other) and arrives(rig.a, rig.w)
            assert resolves(rig.b, rig.w), "another host still asks"
            assert injection.observe()["bit"] is True
        assert resolves(rig.a, rig.w) and connects(rig.a, dns)


@contextmanager
def connection(source: Node, target: Node, family: int) -> Iterator[list[socket.socket]]:
    """Both ends of an established connection."""
    where = (target.addresses[0 if family == 4 else 1], 0)
    with inside(
        target.netns, lambda: socket.create_server(where, family=FAMILIES[family])
    ) as server:
        there = server.getsockname()[:2]
        with (
            inside(source.netns, lambda: socket.create_connection(there, 10)) as one,
            server.accept()[0] as other,
        ):
            yield [one, other]


def is_reset(end: socket.socket) -> bool:
    end.settimeout(0.5)
    try:
        end.recv(1)
    except (ConnectionResetError, ConnectionAbortedError):
        return True
    except TimeoutError:
        pass
    return False


@pytest.mark.parametrize("family", [4, 6])
def test_connections_are_reset_and_only_those_chosen(rig: Rig, family: int) -> None:
    with connection(rig.a, rig.w, family) as chosen, connection(rig.a, rig.b, family) as others:
        try:
            with rig.inject(Reset(traffic=to(rig.w)), fire=False) as injection:
                assert not any(is_reset(end) for end in chosen), "armed, yet nothing is felt"
                injection.fire()
                assert all(is_reset(end) for end in chosen)
                assert not any(is_reset(end) for end in others)
                assert injection.observe()["bit"] is True
        except Unsupported as error:
            if "User Mode" not in Path("/proc/cpuinfo").read_text():
                raise
            pytest.skip(f"user-mode Linux: {error}")


def test_somebodys_own_netem_by_command(rig: Rig) -> None:
    netem = "tc qdisc {} dev eth0 root handle 7: netem delay 80ms"
    fault = Command(
        apply=tuple(netem.format("add").split()),
        undo=("sh", "-c", "tc qdisc del dev eth0 root handle 7: 2>/dev/null || true"),
        check=("sh", "-c", "tc qdisc show dev eth0 | grep -q 'netem 7:'"),
    )
    with rig.inject(fault, witness=None, fire=False) as injection:
        assert min(pings(rig.w, rig.a, 3)) < 80
        injection.fire()
        assert min(pings(rig.w, rig.a, 3)) >= 79.9
        assert injection.observe()["bit"] is True and passed(injection, "check")
        tc(rig.a, "qdisc", "del", "dev", "eth0", "root")
        assert injection.observe(within_s=0)["pieces"][0]["ok"] is False
    assert min(pings(rig.w, rig.a, 3)) < 80
