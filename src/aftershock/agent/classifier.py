"""A fault's programs and maps in the kernel, loaded and steered; nothing is attached by it."""

from __future__ import annotations

import os
import struct
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple, Union

from . import bpf
from .clock import boottime
from .errors import Invalid
from .program import (
    DIRECTIONS,
    FAMILY_BITS,
    KEY_BYTES,
    LOCAL,
    NAMES,
    PEER,
    PROTOCOLS,
    RANKS,
    Detour,
    Loss,
    Maps,
    assemble,
    expand,
    port_key,
    read_counts,
)

_ZERO = struct.pack("<I", 0)
_REST = bytes(12)  # of the place for an address, of which IPv4 takes four
_MATCH = {"peers", "spare", "protocols", "peer_ports", "local_ports"}
_COUNTER_BYTES = 32
_TICKS = 100  # ranks a second


def _heads(version: int, bits: int) -> Dict[str, Tuple[bytes, int]]:
    """By a prefix's length as it is written: how its key begins, and the bits of its hosts."""
    return {
        str(length): (struct.pack("<II", FAMILY_BITS + length, version), (1 << bits - length) - 1)
        for length in range(bits + 1)
    }


_HEADS4, _HEADS6 = _heads(4, 32), _heads(6, 128)
Effects = Mapping[str, Union[Loss, Detour]]


def new_rank() -> int:
    """A number above those of all programs that were there before; it starts anew every 62 days."""
    return RANKS + int(boottime() * _TICKS) % RANKS


class Classifier:
    """The programs of one fault on one device, one a direction."""

    def __init__(
        self, match: Mapping[str, Any], effects: Effects, ranks: Mapping[str, int]
    ) -> None:
        check_match(match)
        bpf.raise_memory_limit()
        self._fds: List[int] = []
        self._counters: Dict[str, int] = {}
        self._programs: Dict[str, int] = {}
        self._gate = self._map(bpf.ARRAY, 4, 8, 1)
        try:
            self._load(match, effects, ranks)
        except BaseException:
            self.close()
            raise

    def _load(self, match: Mapping[str, Any], effects: Effects, ranks: Mapping[str, int]) -> None:
        entries = trie_entries(match["peers"], match["spare"])
        trie = self._map(bpf.LPM_TRIE, KEY_BYTES, 4, max(1, len(entries)), bpf.NO_PREALLOC)
        # Not by a thread beside: its end begins an RCU grace period that attaching would wait for.
        bpf.fill(trie, entries)
        ports = self._ports(match)
        for direction, effect in effects.items():
            counter = self._counters[direction] = self._map(bpf.ARRAY, 4, _COUNTER_BYTES, 1)
            state = self._map(bpf.ARRAY, 4, 4, 1)
            maps = Maps(self._gate, trie, ports, state, counter)
            code = assemble(direction, maps, ranks[direction], match["protocols"], effect)
            self._programs[direction] = bpf.load(code, NAMES[direction])

    @property
    def programs(self) -> Dict[str, int]:
        """Descriptors of the loaded programs by direction."""
        return self._programs

    def _map(self, *shape: int) -> int:
        self._fds.append(bpf.create_map(*shape))
        return self._fds[-1]

    def _ports(self, match: Mapping[str, Any]) -> int:
        sides = ((match["peer_ports"], PEER), (match["local_ports"], LOCAL))
        keys = sorted({port_key(port, side) for ranges, side in sides for port in expand(ranges)})
        if not keys:
            return -1
        ports = self._map(bpf.HASH, 4, 4, len(keys))
        bpf.fill(ports, [(key, _ZERO) for key in keys])
        return ports

    def open_gate(self, until: float) -> None:
        """Bite from this instant on, until a time on CLOCK_BOOTTIME."""
        bpf.update(self._gate, _ZERO, struct.pack("<Q", int(until * 1e9)))

    def shut_gate(self) -> None:
        """Bite nothing."""
        bpf.update(self._gate, _ZERO, struct.pack("<Q", 0))

    def counts(self) -> Dict[str, Dict[str, int]]:
        """What was matched and what of it was hit so far, by direction."""
        return {
            direction: read_counts(bpf.lookup(counter, _ZERO, _COUNTER_BYTES))
            for direction, counter in self._counters.items()
        }

    def close(self) -> None:
        """Give up every reference; unattached programs and maps vanish."""
        for fd in (*self._programs.values(), *self._fds):
            os.close(fd)
        self._programs, self._counters, self._fds = {}, {}, []


def trie_entries(drop: Iterable[str], spare: Iterable[str]) -> List[Tuple[bytes, bytes]]:
    """Keys and values of the trie; a prefix that is in both is spared."""
    entries = dict.fromkeys(map(_key, drop), struct.pack("<I", 1))
    entries.update(dict.fromkeys(map(_key, spare), _ZERO))
    return list(entries.items())


def _key(text: str) -> bytes:
    """A prefix as the trie has it; by hand, since `ipaddress` takes ten times as long for it."""
    address, slash, length = text.partition("/")
    family, heads, bits = (AF_INET6, _HEADS6, "128") if ":" in address else (AF_INET, _HEADS4, "32")
    try:
        packed = inet_pton(family, address)
        head, host = heads[length if slash else bits]
    except (OSError, KeyError, ValueError):
        raise Invalid(f"{text!r} is no prefix: an address/0 to {bits}") from None
    if host and int.from_bytes(packed, "big") & host:
        raise Invalid(f"{text} is no prefix: it has host bits")
    return head + packed if bits == "128" else head + packed + _REST


def check_match(match: Mapping[str, Any]) -> None:
    """Refuse what is no description of packets."""
    if set(match) != _MATCH:
        raise Invalid(f"match {sorted(match)}: it has {', '.join(sorted(_MATCH))}, and all of them")
    if unknown := set(match["protocols"]) - set(PROTOCOLS):
        raise Invalid(f"protocols {sorted(unknown)}: some of {', '.join(PROTOCOLS)}")
    for low, high in (*match["peer_ports"], *match["local_ports"]):
        if not 0 < low <= high <= 65535:
            raise Invalid(f"ports {low} to {high}: from 1 to 65535")


def check_directions(directions: Sequence[str]) -> None:
    """Refuse what is no direction."""
    if not directions or not set(directions) <= set(DIRECTIONS):
        raise Invalid(f"directions {list(directions)}: some of {', '.join(DIRECTIONS)}")


def check_options(step: Mapping[str, Any], wanted: Iterable[str]) -> None:
    """Refuse a step that lacks a word, or has one that nobody would heed."""
    known = {"kind", *wanted}
    if set(step) != known:
        wrong = ", ".join(sorted(set(step) ^ known))
        raise Invalid(f"a {step.get('kind')} step has {', '.join(sorted(known))}: see {wrong}")
