"""What others have on a device works on, before, during and after; what we put there goes."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from aftershock.agent import bpf
from aftershock.agent.asm import Assembler
from aftershock.faults.base import Fault
from aftershock.faults.partition import Partition, networks
from aftershock.faults.shaping import Bandwidth, Corrupt, Delay, Duplicate, Loss, Reorder
from tests.agent.wires import arrives, inside, lost

from .worlds import Rig, flow, look, pings, tc, tcp_rate, to

pytestmark = pytest.mark.root
MBIT = 1_000_000
SHAPED = (
    "qdisc add dev eth0 root handle 1: htb default 10",
    "class add dev eth0 parent 1: classid 1:1 htb rate 100mbit",
    "class add dev eth0 parent 1:1 classid 1:10 htb rate 1mbit ceil 1mbit burst 10k",
    "class add dev eth0 parent 1:1 classid 1:20 htb rate 90mbit burst 200k",
    "qdisc add dev eth0 parent 1:10 handle 10: fq_codel",
    "qdisc add dev eth0 parent 1:20 handle 20: sfq perturb 10",
    "filter add dev eth0 parent 1: protocol ip prio 7 u32 match ip dst 10.99.0.2/32 flowid 1:20",
)
ROOTS = {
    "htb": SHAPED,
    "fq_codel": ("qdisc add dev eth0 root handle 9: fq_codel limit 500",),
    "prio": ("qdisc add dev eth0 root handle 3: prio", "qdisc add dev eth0 parent 3:1 sfq"),
    "netem": ("qdisc add dev eth0 root handle 8: netem delay 30ms",),
}


@contextmanager
def root_qdisc(rig: Rig, lines: Sequence[str]) -> Iterator[None]:
    before = look(rig.a)
    try:
        for line in lines:
            tc(rig.a, *line.split())
        yield
    finally:
        tc(rig.a, "qdisc", "del", "dev", "eth0", "root")
    assert look(rig.a) == before


def a_few(rig: Rig) -> list[Fault]:
    """A detour, a loss and a partition, between `a` and `w`."""
    w = to(rig.w)
    return [Delay(20, 5, traffic=w), Loss(0.1, traffic=w), Partition(networks(rig.w.addresses))]


def everything(rig: Rig) -> list[Fault]:
    """One fault of each kind."""
    w = to(rig.w)
    more = [Duplicate(0.1, traffic=w), Corrupt(0.1, traffic=w), Reorder(0.1, traffic=w)]
    return [*a_few(rig), *more, Bandwidth(9000, traffic=w)]


@contextmanager
def all_at_once(rig: Rig, faults: Sequence[Fault]) -> Iterator[None]:
    before = look(rig.a)
    with ExitStack() as some:
        for fault in faults:
            some.enter_context(rig.inject(fault, witness=None, alone=False))
        yield
    assert look(rig.a) == before


@pytest.mark.one_kernel
@pytest.mark.parametrize("kind", ROOTS)
def test_a_devices_own_root_qdisc_is_not_touched(rig: Rig, kind: str) -> None:
    faults = everything(rig) if kind == "htb" else a_few(rig)
    with root_qdisc(rig, ROOTS[kind]):
        theirs = tc(rig.a, "qdisc", "show", "dev", "eth0").splitlines()
        with all_at_once(rig, faults):
            now = tc(rig.a, "qdisc", "show", "dev", "eth0").splitlines()
            assert [line for line in now if "clsact" not in line] == theirs


@pytest.mark.one_kernel
def test_a_shaped_device_goes_on_shaping(rig: Rig) -> None:
    a, b, w = rig.a, rig.b, rig.w
    with root_qdisc(rig, SHAPED):
        assert 0.4 * MBIT < tcp_rate(a, w) < 1.4 * MBIT and tcp_rate(a, b) > 2 * MBIT
        with rig.inject(Bandwidth(200, traffic=to(w))), rig.inject(Delay(20, traffic=to(w))):
            assert tcp_rate(a, w) < 0.4 * MBIT, "a target: through ours, then theirs"
            assert tcp_rate(a, b) > 2 * MBIT, "not a target: as before"
        with rig.inject(Delay(20, traffic=to(b)), witness=None):
            assert 0.4 * MBIT < tcp_rate(a, w) < 1.4 * MBIT
        assert 0.4 * MBIT < tcp_rate(a, w) < 1.4 * MBIT and tcp_rate(a, b) > 2 * MBIT


@pytest.mark.one_kernel
def test_somebodys_netem_and_ours_add_up(rig: Rig) -> None:
    with root_qdisc(rig, ROOTS["netem"]):
        assert 29.9 < min(pings(rig.w, rig.a, 3)) < 60
        with rig.inject(Delay(50, traffic=to(rig.w, direction="egress"))) as injection:
            assert min(pings(rig.w, rig.a, 3)) >= 79.9
            assert 29.9 < min(pings(rig.b, rig.a, 3)) < 60
            assert injection.observe()["bit"] is True
        assert 29.9 < min(pings(rig.w, rig.a, 3)) < 60


@contextmanager
def filters(rig: Rig) -> Iterator[list[str]]:
    """An ingress filter that drops what comes from `b`, and an egress one that only counts."""
    before = look(rig.a)
    try:
        for line in (
            "qdisc add dev eth0 clsact",
            "filter add dev eth0 ingress proto ip prio 50 u32 match ip src 10.99.0.2 action drop",
            "filter add dev eth0 egress protocol all prio 60 matchall action ok",
        ):
            tc(rig.a, *line.split())
        yield look(rig.a)
    finally:
        tc(rig.a, "qdisc", "del", "dev", "eth0", "clsact")
    assert look(rig.a) == before


def test_somebodys_filters_go_on_filtering(rig: Rig) -> None:
    with filters(rig) as theirs:
        assert lost(rig.b, rig.a) and arrives(rig.w, rig.a)
        with all_at_once(rig, a_few(rig)):
            assert lost(rig.b, rig.a), "theirs"
        with rig.inject(Delay(60, traffic=to(rig.w))):
            assert min(pings(rig.w, rig.a, 3)) >= 119.9, "ours, though theirs ends the egress line"
        assert lost(rig.b, rig.a) and min(pings(rig.w, rig.a, 3)) < 60 and look(rig.a) == theirs


def stranger() -> bytes:
    """A program that drops datagrams of 777 bytes, and ends the line for all others."""
    asm = Assembler()
    asm.op(0xB7, 0, imm=0)  # TCX_PASS
    asm.op(0x61, 2, 1, 0)  # the packet's length, with its headers
    asm.op(0x55, 2, imm=777 + 14 + 20 + 8, to="out")
    asm.op(0xB7, 0, imm=2)  # TCX_DROP
    asm.label("out")
    asm.op(0x95)
    return asm.assemble()


def test_somebodys_tcx_program_stays_and_goes_on(rig: Rig) -> None:
    ifindex = inside(rig.a.netns, lambda: socket.if_nametoindex("eth0"))
    if not inside(rig.a.netns, lambda: bpf.has_tcx(ifindex)):
        pytest.skip("no TCX before Linux 6.6")
    program = bpf.load(stranger(), "stranger")
    link = inside(rig.a.netns, lambda: bpf.link(program, ifindex, "ingress"))
    theirs = inside(rig.a.netns, lambda: bpf.attached(ifindex, "ingress"))
    assert [one.name for one in theirs] == ["stranger"]
    assert flow(rig.w, rig.a, 5, size=777).lost == 1 and flow(rig.w, rig.a, 5).lost == 0
    with all_at_once(rig, a_few(rig)):
        assert theirs[0] in inside(rig.a.netns, lambda: bpf.attached(ifindex, "ingress"))
        assert flow(rig.b, rig.a, 5, size=777).lost == 1 and flow(rig.b, rig.a, 5).lost == 0
    assert inside(rig.a.netns, lambda: bpf.attached(ifindex, "ingress")) == theirs
    with rig.inject(Delay(60, traffic=to(rig.w))):
        assert min(pings(rig.w, rig.a, 3)) >= 119.9, "ours, though theirs ends the line"
        assert flow(rig.w, rig.a, 5, size=777).lost == 1, "theirs, after the detour too"
    bpf.detach(link)
    for descriptor in (link, program):
        os.close(descriptor)
