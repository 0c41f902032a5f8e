"""Queueing disciplines and filters by netlink, put together by hand.

pyroute2's netem knows neither distributions nor nanoseconds, and swallows misspelt options; and on
the way to an armed partition it takes a millisecond longer.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Dict, Iterator, Mapping, NamedTuple, Sequence, Tuple

from .errors import AgentError, CannotDo

_NEW_QDISC, _GET_QDISC, _NEW_FILTER = 36, 38, 44
_REQUEST, _ACK, _CREATE, _EXCL, _DUMP = 1, 4, 0x400, 0x200, 0x300
_ERROR, _DONE = 2, 3
_ROOT = 0xFFFFFFFF
CLSACT_HANDLE, _CLSACT_PARENT = 0xFFFF0000, 0xFFFFFFF1
_KIND, _OPTIONS, _STATS2 = 1, 2, 7
_BASIC, _QUEUE = 1, 3
_BPF_FD, _BPF_NAME, _BPF_FLAGS = 6, 7, 8
_DIRECT_ACTION = 1
_ETH_P_ALL = 3
_HEAD, _TC = struct.Struct("=IHHII"), struct.Struct("=BxxxiIII")


class Filter(NamedTuple):
    """A program as a direct-action filter of a clsact qdisc."""

    parent: int
    priority: int
    handle: int
    program: int  # its file descriptor
    name: str


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
    if code := _create(_NEW_QDISC, body):
        raise CannotDo(
            f"{kind}: {os.strerror(code)}: this kernel has no sch_{kind}, or not this option: "
            f"load the module, or use a host that has it"
        )


def add_clsact(ifindex: int) -> bool:
    """Make a device's clsact qdisc; False where somebody was faster."""
    body = _TC.pack(0, ifindex, CLSACT_HANDLE, _CLSACT_PARENT, 0) + attribute(_KIND, b"clsact\0")
    code = _create(_NEW_QDISC, body)
    if code not in (0, errno.EEXIST):
        raise CannotDo(f"clsact: {os.strerror(code)}: this kernel has no sch_ingress: load it")
    return not code


def add_filters(ifindex: int, filters: Sequence[Filter]) -> None:
    """Attach programs; AgentError says what the kernel said, and those before it stay."""
    for one in filters:
        options = attribute(_BPF_FD, struct.pack("=I", one.program))
        options += attribute(_BPF_NAME, one.name.encode() + b"\0")
        options += attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
        info = one.priority << 16 | socket.htons(_ETH_P_ALL)
        body = _TC.pack(0, ifindex, one.handle, one.parent, info)
        body += attribute(_KIND, b"bpf\0") + attribute(_OPTIONS, options)
        if code := _create(_NEW_FILTER, body):
            raise AgentError(f"attaching by cls_bpf: {os.strerror(code)}")


def qdiscs(ifindex: int) -> Dict[int, str]:
    """A device's qdiscs: kinds by handle."""
    found: Dict[int, str] = {}
    for kind, _, answer in _ask(_GET_QDISC, _REQUEST | _DUMP, _TC.pack(0, ifindex, 0, 0, 0)):
        if kind == _NEW_QDISC and len(answer) >= _TC.size:
            _, index, handle, _, _ = _TC.unpack_from(answer)
            if index == ifindex:
                name = dict(attributes(answer[_TC.size :])).get(_KIND, b"")
                found[handle] = name.rstrip(b"\0").decode()
    return found


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


def _create(kind: int, body: bytes) -> int:
    """Ask for something new; the kernel's errno, or 0."""
    code = 0
    for _, _, answer in _ask(kind, _REQUEST | _ACK | _CREATE | _EXCL, body):
        code = -struct.unpack_from("=i", answer)[0]
    return code


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
