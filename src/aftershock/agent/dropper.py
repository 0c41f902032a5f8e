"""The partition's program: what it reads, what it drops, and the maps that steer it.

    packet ─ gate open? ─ no VLAN tag? ─ IPv4 or IPv6? ─ address in the trie, longest prefix wins
                │ no         │ tagged       │ ARP, other    │ absent, or marked "pass"
                └────────────┴──────────────┴───────────────┴──> pass on to the next program

What is left is counted and dropped. ICMPv6 neighbour discovery passes, as ARP does: a partition
cuts routes, it doesn't unplug the wire. The gate holds the lease's end on CLOCK_BOOTTIME, 0 while
shut, so the kernel itself stops dropping when the lease is over, even with a stopped agent.
"""

from __future__ import annotations

import os
import struct
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Dict, Iterable, List, Optional, Tuple, Union

from . import bpf
from .errors import Invalid

DIRECTIONS = ("ingress", "egress")
NAMES = {"ingress": "aftershock_in", "egress": "aftershock_out"}

_ZERO = struct.pack("<I", 0)
_KEY_BYTES = 24  # prefix length, family, 16 bytes of address: one trie for both families
_FAMILY_BITS = 32
_NEXT, _SHOT = -1, 2  # 0 would skip everyone else's programs
_FROM_NETWORK_HEADER = 1

_LOOKUP, _REDIRECT, _LOAD_BYTES, _BOOT_NS = 1, 23, 68, 125
_IPV4, _IPV6 = struct.unpack("<HH", b"\x08\x00\x86\xdd")
_ICMPV6, _ND_FIRST, _ND_LAST = 58, 133, 137
_OFFSETS = {"ingress": (12, 8), "egress": (16, 24)}  # source or destination, in IPv4 and IPv6


class _Assembler:
    """Instructions with labels for the jumps."""

    def __init__(self) -> None:
        self._code: List[Tuple[int, int, int, int, int, Optional[str]]] = []
        self._labels: Dict[str, int] = {}

    def op(
        self,
        code: int,
        dst: int = 0,
        src: int = 0,
        off: int = 0,
        imm: int = 0,
        to: Optional[str] = None,
    ) -> None:
        self._code.append((code, dst, src, off, imm, to))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def map(self, register: int, map_fd: int, value: bool = False) -> None:
        """Load a map, or the address of a one-entry array's value."""
        self.op(0x18, register, 2 if value else 1, 0, map_fd)
        self.op(0)

    def load_bytes(self, offset: int, stack: int, count: int) -> None:
        """Copy from the packet's network header to the stack; r0 is 0 when it was that long."""
        self.op(0xBF, 1, 6)
        self.op(0xB7, 2, imm=offset)
        self.op(0xBF, 3, 10)
        self.op(0x07, 3, imm=stack)
        self.op(0xB7, 4, imm=count)
        self.op(0xB7, 5, imm=_FROM_NETWORK_HEADER)
        self.op(0x85, imm=_LOAD_BYTES)

    def assemble(self) -> bytes:
        lines = []
        for index, (code, dst, src, off, imm, to) in enumerate(self._code):
            jump = self._labels[to] - index - 1 if to else off
            lines.append(struct.pack("<BBhi", code, dst | src << 4, jump, imm))
        return b"".join(lines)


def assemble(direction: str, gate: int, trie: int, counter: int) -> bytes:
    """The program for one direction, over the file descriptors of its maps."""
    asm = _Assembler()
    asm.op(0xBF, 6, 1)  # r6 = the packet
    asm.op(0x85, imm=_BOOT_NS)
    asm.map(1, gate, value=True)
    asm.op(0x79, 1, 1)
    asm.op(0x3D, 0, 1, to="pass")  # now >= the lease's end, or shut (0)
    asm.op(0x61, 1, 6, 20)
    asm.op(0x55, 1, to="pass")  # vlan_present
    asm.op(0x61, 1, 6, 16)
    asm.op(0x7A, 10, off=-16)
    asm.op(0x7A, 10, off=-8)
    asm.op(0x15, 1, imm=_IPV4, to="ipv4")
    asm.op(0x15, 1, imm=_IPV6, to="ipv6")
    asm.op(0x05, to="pass")
    _read_ipv4(asm, _OFFSETS[direction][0])
    _read_ipv6(asm, _OFFSETS[direction][1])
    _look_up(asm, trie)
    _count(asm, counter)
    _drop(asm, direction)
    return asm.assemble()


def _read_ipv4(asm: _Assembler, offset: int) -> None:
    asm.label("ipv4")
    asm.op(0x62, 10, off=-24, imm=_FAMILY_BITS + 32)
    asm.op(0x62, 10, off=-20, imm=4)
    asm.load_bytes(offset, -16, 4)
    asm.op(0x55, 0, to="pass")
    asm.op(0x05, to="look up")


def _read_ipv6(asm: _Assembler, offset: int) -> None:
    asm.label("ipv6")
    asm.load_bytes(6, -32, 1)
    asm.op(0x55, 0, to="pass")
    asm.op(0x71, 1, 10, -32)
    asm.op(0x55, 1, imm=_ICMPV6, to="ipv6 address")
    asm.load_bytes(40, -32, 1)
    asm.op(0x55, 0, to="ipv6 address")
    asm.op(0x71, 1, 10, -32)
    asm.op(0xA5, 1, imm=_ND_FIRST, to="ipv6 address")
    asm.op(0xB5, 1, imm=_ND_LAST, to="pass")
    asm.label("ipv6 address")
    asm.op(0x62, 10, off=-24, imm=_FAMILY_BITS + 128)
    asm.op(0x62, 10, off=-20, imm=6)
    asm.load_bytes(offset, -16, 16)
    asm.op(0x55, 0, to="pass")


def _look_up(asm: _Assembler, trie: int) -> None:
    asm.label("look up")
    asm.map(1, trie)
    asm.op(0xBF, 2, 10)
    asm.op(0x07, 2, imm=-_KEY_BYTES)
    asm.op(0x85, imm=_LOOKUP)
    asm.op(0x15, 0, to="pass")
    asm.op(0x61, 1, 0)
    asm.op(0x15, 1, to="pass")  # a spared prefix


def _count(asm: _Assembler, counter: int) -> None:
    asm.map(1, counter, value=True)
    asm.op(0xB7, 2, imm=1)
    asm.op(0xDB, 1, 2)
    asm.op(0x61, 2, 6)
    asm.op(0xDB, 1, 2, 8)


def _drop(asm: _Assembler, direction: str) -> None:
    if direction == "egress":
        # TC_ACT_SHOT is felt by local senders (ENOBUFS); a redirect to no interface is silent.
        asm.op(0xB7, 1)
        asm.op(0xB7, 2)
        asm.op(0x85, imm=_REDIRECT)
    else:
        asm.op(0xB7, 0, imm=_SHOT)
    asm.op(0x95)
    asm.label("pass")
    asm.op(0xB7, 0, imm=_NEXT)
    asm.op(0x95)


def trie_entries(drop: Iterable[str], spare: Iterable[str]) -> List[Tuple[bytes, bytes]]:
    """Keys and values of the trie; a prefix that is in both is spared."""
    entries = {_key(ip_network(text)): struct.pack("<I", 1) for text in drop}
    entries.update({_key(ip_network(text)): _ZERO for text in spare})
    return sorted(entries.items())


def _key(network: Union[IPv4Network, IPv6Network]) -> bytes:
    head = struct.pack("<II", _FAMILY_BITS + network.prefixlen, network.version)
    return head + network.network_address.packed.ljust(16, b"\0")


class Dropper:
    """A partition's programs and maps in the kernel; nothing is attached by it."""

    def __init__(self, drop: List[str], spare: List[str], directions: Iterable[str]) -> None:
        try:
            entries = trie_entries(drop, spare)
        except ValueError as error:
            raise Invalid(f"partition: {error}") from None
        bpf.raise_memory_limit()
        self.gate = bpf.create_map(bpf.ARRAY, 4, 8, 1)
        self.trie = bpf.create_map(
            bpf.LPM_TRIE, _KEY_BYTES, 4, max(1, len(entries)), bpf.NO_PREALLOC
        )
        if entries:
            bpf.fill(self.trie, entries)
        self.counters: Dict[str, int] = {}
        self.programs: Dict[str, int] = {}
        for direction in directions:
            counter = self.counters[direction] = bpf.create_map(bpf.ARRAY, 4, 16, 1)
            code = assemble(direction, self.gate, self.trie, counter)
            self.programs[direction] = bpf.load(code, NAMES[direction])

    def open_gate(self, until: float) -> None:
        """Drop from this instant on, until a time on CLOCK_BOOTTIME."""
        bpf.update(self.gate, _ZERO, struct.pack("<Q", int(until * 1e9)))

    def shut_gate(self) -> None:
        """Drop nothing."""
        bpf.update(self.gate, _ZERO, struct.pack("<Q", 0))

    def counts(self) -> Dict[str, Dict[str, int]]:
        """Packets and bytes dropped so far, by direction (a GSO packet counts once)."""
        found = {}
        for direction, counter in self.counters.items():
            packets, size = struct.unpack("<QQ", bpf.lookup(counter, _ZERO, 16))
            found[direction] = {"packets": packets, "bytes": size}
        return found

    def close(self) -> None:
        """Give up every reference; unattached programs and maps vanish."""
        for fd in (*self.programs.values(), *self.counters.values(), self.trie, self.gate):
            os.close(fd)
        self.programs, self.counters = {}, {}
