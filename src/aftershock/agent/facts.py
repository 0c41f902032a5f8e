"""What a host is and what it looks like, before and after."""

from __future__ import annotations

import os
import platform
import socket
from typing import Any, Dict, List, Tuple

from . import bpf
from .errors import CannotDo, Invalid
from .hooks import device_lines, netlink

Version = Tuple[int, ...]


def device_index(device: str) -> int:
    """A device's number; Invalid, naming the devices there are, when it isn't one."""
    try:
        return socket.if_nametoindex(device)
    except OSError:
        there = ", ".join(name for _, name in socket.if_nameindex())
        raise Invalid(f"no device {device} here, only {there}: name one of these") from None


def facts(device: str) -> Dict[str, Any]:
    """What a plan needs to know of this host; cheap, nothing is imported for it."""
    ifindex = device_index(device)
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "root": os.geteuid() == 0,
        "device": device,
        "ifindex": ifindex,
        "tcx": bpf.has_tcx(ifindex),
        "bpf": _bpf_refusal(),
        "infiniband": _link_type(device) == 32,
    }


def _bpf_refusal() -> str:
    """Why bpf can't be used here, or nothing."""
    try:
        os.close(bpf.create_map(bpf.ARRAY, 4, 8, 1))
    except (OSError, CannotDo) as error:
        return str(error)
    return ""


def _link_type(device: str) -> int:
    """ARPHRD of a device, by ioctl: /sys may show another namespace's devices."""
    import fcntl
    import struct

    request = struct.pack("16sH22x", device.encode(), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, 0x8927, request)  # SIOCGIFHWADDR
    return int(struct.unpack_from("16xH", answer)[0])


def fingerprint(device: str) -> List[str]:
    """The device's traffic control and every link's settings, a line a thing, without counters."""
    ifindex = device_index(device)
    with netlink() as ip:
        return sorted([_link_line(link) for link in ip.get_links()] + device_lines(ip, ifindex))


def _link_line(link: Any) -> str:
    names = ("IFLA_ADDRESS", "IFLA_MTU", "IFLA_QDISC", "IFLA_TXQLEN")
    values = " ".join(f"{name[5:].lower()} {link.get_attr(name)}" for name in names)
    return f"link {link['index']} {link.get_attr('IFLA_IFNAME')} up {link['flags'] & 1} {values}"
