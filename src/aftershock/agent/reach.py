"""Whether an address answers, as seen from this host: an ICMP echo, or a TCP handshake if asked."""

from __future__ import annotations

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
    family = socket.AF_INET if target.version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if target.version == 4 else socket.IPPROTO_ICMPV6
    token = os.urandom(16)
    until = time.monotonic() + timeout_s
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        raw.setblocking(False)
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
