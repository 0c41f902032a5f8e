"""A step that resets established TCP connections: both ends are told, and have to begin anew."""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import ip_address, ip_network
from typing import Any, Dict, Iterator, List, Mapping, Tuple

from .classifier import check_match, check_options
from .clock import boottime
from .errors import AgentError, CannotDo, Invalid
from .program import expand

_OPTIONS = ("match", "every_s")
_SOCK_DIAG, _DIAG, _DESTROY = 4, 20, 21
_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_STATES = 1 << 1 | 1 << 4 | 1 << 8  # established, or closed by one side only
_HEAD, _ASK = struct.Struct("=IHHII"), struct.Struct("=BBBxI")
_ID_BYTES = 48  # inet_diag_sockid: ports, addresses, device, cookie
Connection = Tuple[int, bytes]  # family, and the kernel's own name for it


class Reset:
    """Connections that end by order; there is nothing to take back."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        check_match(options["match"])
        if set(options["match"]["protocols"]) - {"tcp"}:
            raise Invalid("reset: only TCP has connections to reset: leave the protocols to it")
        if not 0 <= options["every_s"] <= 3600:
            raise Invalid(f"reset: every_s {options['every_s']}: from 0 (once) to 3600")
        self.rash = False
        self.kind = "reset"
        self.outlives = False
        self.about: Dict[str, Any] = {"every_s": options["every_s"]}
        self._match = _Match(options["match"])
        self._every_s: float = options["every_s"]
        self._due: float = 0  # 0: not now
        self._destroyed = 0
        self._injection = injection

    def intent(self) -> Dict[str, Any]:
        """What undoes it: nothing."""
        return {}

    def attach(self) -> Dict[str, Any]:
        """Ask the kernel whether it can, by a connection that isn't there."""
        if why := refusal():
            raise CannotDo(why)
        return {"owned": [], "undo": {}}

    def fire(self, until: float) -> None:
        """Reset what is there."""
        self._due = boottime()
        self.tick()

    def tick(self) -> None:
        """Reset what came since, when it is time to."""
        if not self._due or boottime() < self._due:
            return
        for family, name in self._match.connections():
            self._destroyed += destroy(family, name)
        self._due = boottime() + self._every_s if self._every_s else 0

    def shut(self) -> None:
        """Reset no more."""
        self._due = 0

    def observe(self) -> Dict[str, Any]:
        """How many were reset, and how many are there."""
        left = sum(1 for _ in self._match.connections())
        return {"kind": self.kind, "counts": {}, "destroyed": self._destroyed, "left": left}

    def detach(self) -> List[str]:
        """There is nothing attached."""
        return []

    def close(self) -> None:
        """There is nothing held."""


class _Match:
    def __init__(self, match: Mapping[str, Any]) -> None:
        try:
            nets = [(ip_network(text), True) for text in match["peers"]]
            nets += [(ip_network(text), False) for text in match["spare"]]
        except ValueError as error:
            raise Invalid(f"match: {error}") from None
        self._nets = sorted(nets, key=lambda net: (net[0].prefixlen, not net[1]), reverse=True)
        self._peer_ports = set(expand(match["peer_ports"]))
        self._local_ports = set(expand(match["local_ports"]))

    def connections(self) -> Iterator[Connection]:
        """The matching connections of this network namespace."""
        for family in (socket.AF_INET, socket.AF_INET6):
            for name in _dump(family):
                if self._takes(family, name):
                    yield family, name

    def _takes(self, family: int, name: bytes) -> bool:
        local, peer = struct.unpack_from("!HH", name)
        size = 4 if family == socket.AF_INET else 16
        address: Any = ip_address(name[20 : 20 + size])
        address = getattr(address, "ipv4_mapped", None) or address
        if (self._peer_ports or self._local_ports) and not (
            peer in self._peer_ports or local in self._local_ports
        ):
            return False
        for net, taken in self._nets:  # the longest prefix decides
            if address.version == net.version and address in net:
                return taken
        return False


def refusal() -> str:
    """Why connections can't be reset here, or nothing."""
    code = _destroy(socket.AF_INET, b"\xff\xff\xff\xff" + b"\0" * 44)
    if code in (0, errno.ENOENT):
        return ""
    if code in (errno.EOPNOTSUPP, errno.EINVAL):
        return "this kernel can't reset connections: it needs CONFIG_INET_DIAG_DESTROY"
    return f"resetting connections: {os.strerror(code)}: run as root"


def destroy(family: int, name: bytes) -> bool:
    """Reset one connection; whether it was there to be reset."""
    code = _destroy(family, name)
    if code not in (0, errno.ENOENT):
        raise AgentError(f"resetting a connection: {os.strerror(code)}")
    return code == 0


def _destroy(family: int, name: bytes) -> int:
    body = _ASK.pack(family, socket.IPPROTO_TCP, 0, 0) + name
    try:
        for kind, answer in _ask(_DESTROY, _REQUEST | _ACK, body):
            if kind == _ERROR:
                return -int(struct.unpack_from("=i", answer)[0])
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _dump(family: int) -> Iterator[bytes]:
    body = _ASK.pack(family, socket.IPPROTO_TCP, 0, _STATES) + b"\0" * _ID_BYTES
    for kind, answer in list(_ask(_DIAG, _REQUEST | _DUMP, body)):
        if kind == _DIAG:
            yield answer[4 : 4 + _ID_BYTES]


def _ask(kind: int, flags: int, body: bytes) -> Iterator[Tuple[int, bytes]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as netlink:
        netlink.settimeout(5)
        netlink.send(_HEAD.pack(_HEAD.size + len(body), kind, flags, 1, 0) + body)
        while True:
            rest = netlink.recv(1 << 18)
            while len(rest) >= _HEAD.size:
                size, got, _, _, _ = _HEAD.unpack_from(rest)
                yield got, rest[_HEAD.size : size]
                if got in (_ERROR, _DONE):
                    return
                rest = rest[(size + 3) & ~3 :]
