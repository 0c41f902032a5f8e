"""The program at a device's hook: which packets it takes, and what becomes of them.

    packet ─ fresh? ─ gate open? ─ no VLAN tag? ─ IPv4, IPv6? ─ address in the trie? ─ port?
               │ seen    │ no         │ tagged       │ ARP …       │ absent, or "pass"   │ no
               └─────────┴────────────┴──────────────┴─────────────┴─────────────────────┴─> next

What is left is counted; then it is dropped, always or by a model of loss, or sent on a detour.
In the trie the longest prefix wins. ICMPv6 neighbour discovery passes, as ARP does: a partition
cuts routes, it doesn't unplug the wire. The gate holds the lease's end on CLOCK_BOOTTIME, 0 while
shut, so the kernel itself stops when the lease is over, even with a stopped agent.

A packet that was on a detour (detour.py) comes by the same hook again. Who has seen it already?
Each program has a rank, higher for a newer one, and newer ones come first in line. On egress the
packet's `ingress_ifindex` is the end of the detour that it comes from, whose number is the rank of
the program that sent it: programs of that rank and above have seen it, older ones have not. On
ingress the device overwrites that field, so the packet's mark carries the rank until the program
that sent it sees it again and takes the mark away. No packet can go round in circles: on egress
ranks only fall, on ingress nobody touches a packet with another's mark.
"""

from __future__ import annotations

import struct
from typing import Dict, List, NamedTuple, Sequence, Union

from .asm import Assembler

DIRECTIONS = ("ingress", "egress")
NAMES = {"ingress": "aftershock_in", "egress": "aftershock_out"}
RETURN_NAME = "aftershock_back"
RANKS = 0x40000000  # and above: detours' numbers, far from what the kernel gives to devices

KEY_BYTES = 24  # prefix length, family, 16 bytes of address: one trie for both families
FAMILY_BITS = 32
PROTOCOLS = {"tcp": (6,), "udp": (17,), "icmp": (1, 58)}
PEER, LOCAL = 1, 2  # whose port it is, in the ports' map

_NEXT, _SHOT = -1, 2  # 0 would skip everyone else's programs
_LOOKUP, _RANDOM, _TAIL_CALL, _REDIRECT, _BOOT_NS, _CSUM_LEVEL = 1, 7, 12, 23, 125, 135
_CSUM_RESET = 3
_IPV4, _IPV6 = struct.unpack("<HH", b"\x08\x00\x86\xdd")
_ICMPV6, _ND_FIRST, _ND_LAST = 58, 133, 137
_ADDRESS = {"ingress": (12, 8), "egress": (16, 24)}  # source or destination, in IPv4 and IPv6
_MARK, _PROTOCOL, _VLAN, _FROM = 8, 16, 20, 36  # fields of a __sk_buff
_ALL = 1 << 32
_INGRESS = 1  # to bpf_redirect: as if the device had received it


class Loss(NamedTuple):
    """Gilbert and Elliott's model: chances a packet of turning bad or good, and of loss in each."""

    to_bad: float
    to_good: float
    in_good: float
    in_bad: float


class Detour(NamedTuple):
    """The device that a packet is sent through."""

    ifindex: int


class Maps(NamedTuple):
    """What steers a program and what it counts, as file descriptors."""

    gate: int
    trie: int
    ports: int  # -1: any port
    state: int  # of the loss model
    counter: int


def assemble(
    direction: str, maps: Maps, rank: int, protocols: Sequence[str], effect: Union[Loss, Detour]
) -> bytes:
    """The program for one direction."""
    asm = Assembler()
    asm.op(0xBF, 6, 1)  # r6 = the packet
    _been_here(asm, direction, rank, isinstance(effect, Detour))
    asm.op(0x85, imm=_BOOT_NS)
    asm.map(1, maps.gate, value=True)
    asm.op(0x79, 1, 1)
    asm.op(0x3D, 0, 1, to="pass")  # now >= the lease's end, or shut (0)
    asm.op(0x61, 1, 6, _VLAN)
    asm.op(0x55, 1, to="pass")
    asm.op(0x61, 1, 6, _PROTOCOL)
    asm.op(0x7A, 10, off=-16)
    asm.op(0x7A, 10, off=-8)
    asm.op(0x15, 1, imm=_IPV4, to="ipv4")
    asm.op(0x15, 1, imm=_IPV6, to="ipv6")
    asm.go("pass")
    deep = bool(protocols) or maps.ports >= 0
    _read_ipv4(asm, _ADDRESS[direction][0], deep)
    _read_ipv6(asm, _ADDRESS[direction][1], deep)
    _look_up(asm, maps.trie)
    _check_protocol(asm, protocols)
    if maps.ports >= 0:
        _check_ports(asm, direction, maps.ports)
    _count(asm, maps.counter, 0)
    if isinstance(effect, Detour):
        _count(asm, maps.counter, 16)
        _divert(asm, direction, rank, effect.ifindex)
    else:
        _decide(asm, effect, maps.state)
        _count(asm, maps.counter, 16)
        _drop(asm, direction)
    asm.label("pass")
    _exit(asm, _NEXT)
    return asm.assemble()


def assemble_return(direction: str, rank: int, ifindex: int) -> bytes:
    """The program at a detour's end: back to the device, in the direction it was going.

    A checksum that the network card found good is forgotten: netem may have spoilt it since.
    """
    asm = Assembler()
    asm.op(0xBF, 6, 1)
    if direction == "ingress":
        asm.op(0x61, 1, 6, _MARK)
        asm.op(0x55, 1, imm=rank, to="stray")
        asm.op(0xBF, 1, 6)
        asm.op(0xB7, 2, imm=_CSUM_RESET)
        asm.op(0x85, imm=_CSUM_LEVEL)
    asm.op(0x61, 1, 6, _PROTOCOL)
    asm.op(0x15, 1, imm=_IPV4, to="back")
    asm.op(0x15, 1, imm=_IPV6, to="back")
    asm.label("stray")  # somebody's own packet on our device: it goes nowhere
    _exit(asm, _SHOT)
    asm.label("back")
    asm.op(0xB7, 1, imm=ifindex)
    asm.op(0xB7, 2, imm=_INGRESS if direction == "ingress" else 0)
    asm.op(0x85, imm=_REDIRECT)
    asm.op(0x95)
    return asm.assemble()


def assemble_tied(table: int) -> bytes:
    """A program that goes on as the first one of a table of programs, or lets pass if it is empty.

    The kernel empties such a table when its last descriptor is closed, which a process' death does:
    so a filter that outlives us bites no more.
    """
    asm = Assembler()
    asm.map(2, table)
    asm.op(0xB7, 3)
    asm.op(0x85, imm=_TAIL_CALL)
    _exit(asm, _NEXT)
    return asm.assemble()


def _been_here(asm: Assembler, direction: str, rank: int, diverts: bool) -> None:
    if direction == "egress":
        asm.op(0x61, 1, 6, _FROM)
        asm.op(0xA5, 1, imm=RANKS, to="fresh")
        asm.op(0xB5, 1, imm=rank, to="pass")
    else:
        asm.op(0x61, 1, 6, _MARK)
        asm.op(0xA5, 1, imm=RANKS, to="fresh")
        if diverts:
            asm.op(0x55, 1, imm=rank, to="pass")
            asm.op(0xB7, 2)
            asm.op(0x63, 6, 2, _MARK)
        asm.go("pass")
    asm.label("fresh")
    if diverts and direction == "ingress":
        asm.op(0x55, 1, to="pass")  # a mark that is somebody's would be lost


def _read_ipv4(asm: Assembler, offset: int, deep: bool) -> None:
    asm.label("ipv4")
    asm.op(0x62, 10, off=-24, imm=FAMILY_BITS + 32)
    asm.op(0x62, 10, off=-20, imm=4)
    asm.load_bytes(offset, -16, 4)
    asm.op(0x55, 0, to="pass")
    if deep:
        asm.load_bytes(0, -40, 12)
        asm.op(0x55, 0, to="pass")
        asm.op(0x71, 7, 10, -40)
        asm.op(0x57, 7, imm=15)
        asm.op(0x67, 7, imm=2)  # r7 = where the next header begins
        asm.op(0x71, 8, 10, -31)  # r8 = its protocol
        asm.op(0x69, 1, 10, -34)
        asm.op(0x57, 1, imm=0xFF1F)
        asm.op(0x15, 1, to="look up")
        asm.op(0xB7, 7)  # a later fragment: no ports in it
    asm.go("look up")


def _read_ipv6(asm: Assembler, offset: int, deep: bool) -> None:
    asm.label("ipv6")
    asm.load_bytes(6, -32, 1)
    asm.op(0x55, 0, to="pass")
    asm.op(0x71, 8, 10, -32)
    asm.op(0x55, 8, imm=_ICMPV6, to="ipv6 address")
    asm.load_bytes(40, -32, 1)
    asm.op(0x55, 0, to="ipv6 address")
    asm.op(0x71, 1, 10, -32)
    asm.op(0xA5, 1, imm=_ND_FIRST, to="ipv6 address")
    asm.op(0xB5, 1, imm=_ND_LAST, to="pass")
    asm.label("ipv6 address")
    asm.op(0x62, 10, off=-24, imm=FAMILY_BITS + 128)
    asm.op(0x62, 10, off=-20, imm=6)
    asm.load_bytes(offset, -16, 16)
    asm.op(0x55, 0, to="pass")
    if deep:
        asm.op(0xB7, 7, imm=40)  # extension headers are not walked: such a packet has no ports


def _look_up(asm: Assembler, trie: int) -> None:
    asm.label("look up")
    asm.map(1, trie)
    asm.op(0xBF, 2, 10)
    asm.op(0x07, 2, imm=-KEY_BYTES)
    asm.op(0x85, imm=_LOOKUP)
    asm.op(0x15, 0, to="pass")
    asm.op(0x61, 1, 0)
    asm.op(0x15, 1, to="pass")  # a spared prefix


def _check_protocol(asm: Assembler, protocols: Sequence[str]) -> None:
    if protocols:
        for number in (number for name in protocols for number in PROTOCOLS[name]):
            asm.op(0x15, 8, imm=number, to="protocol")
        asm.go("pass")
        asm.label("protocol")


def _check_ports(asm: Assembler, direction: str, ports: int) -> None:
    asm.op(0x15, 8, imm=6, to="has ports")
    asm.op(0x55, 8, imm=17, to="pass")
    asm.label("has ports")
    asm.op(0x15, 7, to="pass")
    asm.load_bytes(0, -40, 4, base=7)
    asm.op(0x55, 0, to="pass")
    peer, local = (-40, -38) if direction == "ingress" else (-38, -40)
    for side, where in ((PEER, peer), (LOCAL, local)):
        asm.op(0x69, 1, 10, where)
        asm.op(0x6B, 10, 1, -48)
        asm.op(0x6A, 10, off=-46, imm=side)
        asm.map(1, ports)
        asm.op(0xBF, 2, 10)
        asm.op(0x07, 2, imm=-48)
        asm.op(0x85, imm=_LOOKUP)
        asm.op(0x55, 0, to="port")
    asm.go("pass")
    asm.label("port")


def _count(asm: Assembler, counter: int, offset: int) -> None:
    asm.map(1, counter, value=True)
    asm.op(0xB7, 2, imm=1)
    asm.op(0xDB, 1, 2, offset)
    asm.op(0x61, 2, 6)
    asm.op(0xDB, 1, 2, offset + 8)


def _decide(asm: Assembler, loss: Loss, state: int) -> None:
    """Fall through to be lost, or jump to `pass`."""
    if loss.to_bad <= 0:
        if loss.in_good < 1:
            _chance(asm, loss.in_good, "lost", "pass")
            asm.label("lost")
        return
    asm.map(7, state, value=True)
    asm.op(0x61, 8, 7)
    asm.op(0x55, 8, to="was bad")
    _chance(asm, min(loss.to_bad, 1 - 1 / _ALL), "turns bad", "good")
    asm.label("turns bad")
    asm.op(0x62, 7, imm=1)
    asm.go("bad")
    asm.label("was bad")
    _chance(asm, min(loss.to_good, 1 - 1 / _ALL), "turns good", "bad")
    if loss.to_good > 0:
        asm.label("turns good")
        asm.op(0x62, 7)
    asm.label("good")
    _chance(asm, loss.in_good, "lost", "pass")
    asm.label("bad")
    _chance(asm, loss.in_bad, "lost", "pass")
    asm.label("lost")


def _chance(asm: Assembler, share: float, hit: str, miss: str) -> None:
    # No code may be out of reach: older verifiers refuse it.
    if share <= 0 or share >= 1:
        asm.go(hit if share >= 1 else miss)
        return
    asm.op(0x85, imm=_RANDOM)
    below = max(0, round(share * _ALL) - 1)
    asm.op(0xB4, 1, imm=below - _ALL if below >= _ALL // 2 else below)
    asm.op(0x2D, 0, 1, to=miss)
    asm.go(hit)


def _drop(asm: Assembler, direction: str) -> None:
    if direction == "egress":
        # TC_ACT_SHOT is felt by local senders (ENOBUFS); a redirect to no interface is silent.
        asm.op(0xB7, 1)
        asm.op(0xB7, 2)
        asm.op(0x85, imm=_REDIRECT)
        asm.op(0x95)
    else:
        _exit(asm, _SHOT)


def _divert(asm: Assembler, direction: str, rank: int, ifindex: int) -> None:
    if direction == "ingress":
        asm.op(0xB7, 2, imm=rank)
        asm.op(0x63, 6, 2, _MARK)
    asm.op(0xB7, 1, imm=ifindex)
    asm.op(0xB7, 2)
    asm.op(0x85, imm=_REDIRECT)
    asm.op(0x95)


def _exit(asm: Assembler, verdict: int) -> None:
    asm.op(0xB7, 0, imm=verdict)
    asm.op(0x95)


def read_counts(value: bytes) -> Dict[str, int]:
    """A counter's value: what was matched, and what of it was hit (a GSO packet counts once)."""
    matched, matched_bytes, packets, size = struct.unpack("<4Q", value)
    of_matched = {"matched_packets": matched, "matched_bytes": matched_bytes}
    return {**of_matched, "packets": packets, "bytes": size}


def port_key(port: int, side: int) -> bytes:
    """A port's key in the ports' map."""
    return port.to_bytes(2, "big") + bytes([side, 0])


def expand(ranges: Sequence[Sequence[int]]) -> List[int]:
    """Port ranges, both ends in them, as ports."""
    return [port for low, high in ranges for port in range(low, high + 1)]
