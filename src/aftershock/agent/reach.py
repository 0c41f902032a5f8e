"""Whether, and how, an address answers this host: ICMP echoes, or a TCP handshake if asked."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import random
import select
import socket
import struct
import time
from typing import Any, Dict, Optional

from .errors import Invalid

_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}


def reach(address: str, timeout_s: float, port: Optional[int]) -> Dict[str, Any]:
    """`answered` and, when it did, after how many seconds."""
    try:
        target = ipaddress.ip_address(address)
    except ValueError as error:
        raise Invalid(f"reach: {error}") from None
    if not 0 < timeout_s <= 60:
        raise Invalid(f"reach: timeout_s {timeout_s}: more than 0, at most 60")
    begin = time.monotonic()
    answered = _handshake(address, port, timeout_s) if port else _echo(target, timeout_s)
    return {"answered": answered, "after_s": time.monotonic() - begin if answered else None}


def probe(address: str, count: int, interval_s: float, timeout_s: float) -> Dict[str, Any]:
    """Many echoes: how many were sent, answered, answered more than once, and their round trips."""
    try:
        target = ipaddress.ip_address(address)
    except ValueError as error:
        raise Invalid(f"probe: {error}") from None
    if not (0 < count <= 1000 and 0 <= interval_s <= 1 and 0 < timeout_s <= 60):
        raise Invalid("probe: count to 1000, interval_s to 1, timeout_s to 60")
    flight = _Flight(target, os.urandom(16))
    with _raw(target.version) as raw:
        raw.connect((str(target), 0))
        for number in range(count):
            flight.send(raw, number)
            flight.receive(raw, time.monotonic() + interval_s, more=True)
        flight.receive(raw, time.monotonic() + timeout_s, more=False)
    trips = sorted(flight.trips.values())
    return {
        "sent": count,
        "answered": len(trips),
        "repeated": flight.repeated,
        "rtt_ms": [round(trip * 1000, 3) for trip in trips],
    }


class _Flight:
    """Echoes on their way."""

    def __init__(self, target: Any, token: bytes) -> None:
        self._version = target.version
        self._token = token
        self._sent: Dict[int, float] = {}
        self.trips: Dict[int, float] = {}
        self.repeated = 0

    def send(self, raw: socket.socket, number: int) -> None:
        self._sent[number] = time.monotonic()
        with contextlib.suppress(OSError):  # no route is no answer
            raw.send(_packet(self._version, self._token + number.to_bytes(4, "big")))

    def receive(self, raw: socket.socket, until: float, more: bool) -> None:
        """Take answers in until a time; unless more are to be sent, until all are there."""
        while (left := until - time.monotonic()) > 0:
            if not more and len(self.trips) == len(self._sent) and not self.repeated:
                left = min(left, 0.05)  # a repetition comes right behind
            if not select.select([raw], [], [], left)[0]:
                return
            number = _number(raw, self._version, self._token)
            if number in self.trips:
                self.repeated += 1
            elif number in self._sent:
                self.trips[number] = time.monotonic() - self._sent[number]


def _number(raw: socket.socket, version: int, token: bytes) -> int:
    """Which echo was answered; -1 for what is no answer of ours."""
    try:
        packet = raw.recv(2048)
    except OSError:
        return -1
    start = (packet[0] & 15) * 4 if version == 4 else 0
    if packet[start : start + 1] != bytes([_REPLY[version]]) or token not in packet:
        return -1
    at = packet.index(token) + len(token)
    return int.from_bytes(packet[at : at + 4], "big")


def _raw(version: int) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    raw = socket.socket(family, socket.SOCK_RAW, protocol)
    raw.setblocking(False)
    return raw


def _handshake(address: str, port: int, timeout_s: float) -> bool:
    """A refusal is an answer too: the packet went there and back."""
    try:
        socket.create_connection((address, port), timeout_s).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def _echo(target: Any, timeout_s: float) -> bool:
    token = os.urandom(16)
    until = time.monotonic() + timeout_s
    with _raw(target.version) as raw:
        try:
            raw.connect((str(target), 0))
            raw.send(_packet(target.version, token))
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise
            return False  # no route, or no such neighbour
        while (left := until - time.monotonic()) > 0:
            if select.select([raw], [], [], left)[0] and _is_reply(raw, target.version, token):
                return True
    return False


def _packet(version: int, token: bytes) -> bytes:
    identity = random.SystemRandom().getrandbits(16)
    head = struct.pack("!BBHHH", _REQUEST[version], 0, 0, identity, 1)
    if version == 6:
        return head + token  # the kernel fills in ICMPv6's checksum
    words = struct.unpack(f"!{(len(head) + len(token)) // 2}H", head + token)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return head[:2] + struct.pack("!H", checksum) + head[4:] + token


def _is_reply(raw: socket.socket, version: int, token: bytes) -> bool:
    try:
        packet = raw.recv(2048)
    except OSError:
        return False  # an ICMP error such as "unreachable"
    start = (packet[0] & 15) * 4 if version == 4 else 0
    return packet[start : start + 1] == bytes([_REPLY[version]]) and token in packet
