"""Queueing disciplines by netlink, put together by hand.

pyroute2's netem knows neither distributions nor nanoseconds, and swallows misspelt options.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Dict, Iterator, Mapping, Tuple

from .errors import CannotDo

_NEW_QDISC, _GET_QDISC = 36, 38
_REQUEST, _ACK, _CREATE, _EXCL, _DUMP = 1, 4, 0x400, 0x200, 0x300
_ERROR, _DONE = 2, 3
_ROOT = 0xFFFFFFFF
_KIND, _OPTIONS, _STATS2 = 1, 2, 7
_BASIC, _QUEUE = 1, 3
_HEAD, _TC = struct.Struct("=IHHII"), struct.Struct("=BxxxiIII")


def attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute."""
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + b"\0" * (-size % 4)


def attributes(body: bytes) -> Iterator[Tuple[int, bytes]]:
    """Kinds and values of a row of attributes."""
    while len(body) >= 4:
        size, kind = struct.unpack_from("=HH", body)
        if size < 4:
            return
        yield kind & 0x3FFF, body[4:size]
        body = body[(size + 3) & ~3 :]


def add_root_qdisc(ifindex: int, kind: str, options: bytes) -> None:
    """Make a device's root qdisc; CannotDo where this kernel has no such kind."""
    body = _TC.pack(0, ifindex, 0, _ROOT, 0)
    body += attribute(_KIND, kind.encode() + b"\0") + attribute(_OPTIONS, options)
    for _, _, answer in _ask(_NEW_QDISC, _REQUEST | _ACK | _CREATE | _EXCL, body):
        code = -struct.unpack_from("=i", answer)[0]
        if code:
            raise CannotDo(
                f"{kind}: {os.strerror(code)}: this kernel has no sch_{kind}, or not this option: "
                f"load the module, or use a host that has it"
            )


def qdisc_counts(ifindex: int) -> Dict[str, int]:
    """What a device's root qdisc let through, dropped, delays and holds."""
    found: Dict[str, int] = {}
    for kind, _, answer in _ask(_GET_QDISC, _REQUEST | _DUMP, _TC.pack(0, ifindex, 0, 0, 0)):
        if kind != _NEW_QDISC or len(answer) < _TC.size:
            continue
        _, index, _, parent, _ = _TC.unpack_from(answer)
        if index == ifindex and parent == _ROOT:
            found = _stats(dict(attributes(answer[_TC.size :])))
    return found


def _stats(attrs: Mapping[int, bytes]) -> Dict[str, int]:
    stats = dict(attributes(attrs.get(_STATS2, b"")))
    size, packets = struct.unpack_from("=QI", stats.get(_BASIC, b"\0" * 12))
    waiting, _, drops, _, overlimits = struct.unpack_from("=5I", stats.get(_QUEUE, b"\0" * 20))
    found = {"packets": packets, "bytes": size, "drops": drops}
    return {**found, "backlog_packets": waiting, "overlimits": overlimits}


def _ask(kind: int, flags: int, body: bytes) -> Iterator[Tuple[int, int, bytes]]:
    """Answers as kind, flags and body, until the kernel says that was all."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(5)
        netlink.bind((0, 0))
        netlink.send(_HEAD.pack(_HEAD.size + len(body), kind, flags, 1, 0) + body)
        while True:
            rest = netlink.recv(1 << 18)
            while len(rest) >= _HEAD.size:
                size, got, marks, _, _ = _HEAD.unpack_from(rest)
                yield got, marks, rest[_HEAD.size : size]
                if got in (_ERROR, _DONE):
                    return
                rest = rest[(size + 3) & ~3 :]
