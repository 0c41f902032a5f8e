"""What a host is and what it looks like, before and after."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import socket
import struct
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Set

from . import bpf
from .errors import CannotDo, Invalid
from .hooks import OUR_LINKS, device_lines, netlink

ETHERNET_LIKE = (1, 772)  # ARPHRD numbers: Ethernet, and loopback, which has its header too
_INFINIBAND = 32


def device_index(device: str) -> int:
    """A device's number; Invalid, naming the devices there are, when it isn't one."""
    try:
        return socket.if_nametoindex(device)
    except OSError:
        there = ", ".join(name for _, name in socket.if_nameindex())
        raise Invalid(f"no device {device} here, only {there}: name one of these") from None


def is_there(device: str) -> bool:
    """Whether there is a device of this name."""
    return any(name == device for _, name in socket.if_nameindex())


def facts(devices: Sequence[str], wants: Sequence[str] = ()) -> Dict[str, Any]:
    """What a plan needs to know of this host; of what it `wants`, why this kernel lacks it."""
    described = [describe(device) for device in devices]
    lacks: Dict[str, str] = {}
    if wants:
        from .capable import capable

        lacks = {what: why for what, why in capable(wants).items() if why}
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "root": os.geteuid() == 0,
        "bpf": bpf_refusal(),
        "devices": described,
        "lacks": lacks,
        "protected": protected(),
    }


def describe(device: str) -> Dict[str, Any]:
    """What a plan needs to know of a device; Invalid when there is none of this name."""
    ifindex, kind = device_index(device), link_type(device)
    return {
        "name": device,
        "ifindex": ifindex,
        "tcx": bpf.has_tcx(ifindex),
        "rdma": _rdma(device, kind),
        "ethernet": kind in ETHERNET_LIKE,
    }


def _rdma(device: str, kind: int, cards: str = "/sys/class/infiniband") -> str:
    """Why traffic control doesn't see all that goes through a device, or nothing."""
    if kind == _INFINIBAND:
        return "it is InfiniBand"
    for card in sorted(Path(cards).glob("*")):
        if (card / "device" / "net" / device).exists() or device in _speaks_through(card):
            return f"the RDMA device {card.name} is on it (RoCE or iWARP)"
    return ""


def _speaks_through(card: Path) -> Set[str]:
    """The network devices that a card's addresses are of: bonds and VLANs are none of its own.

    What is software alone (Soft-RoCE) has no device, and sends through the kernel like all else.
    """
    found: Set[str] = set()
    for entry in card.glob("ports/*/gid_attrs/ndevs/*") if (card / "device").exists() else ():
        with contextlib.suppress(OSError):  # an address that isn't used
            found.add(entry.read_text(encoding="utf-8").strip())
    return found


def protected() -> Dict[str, List[str]]:
    """What a fault here should think twice about: the way to the controller, and to the world."""
    # Whoever started us in another network namespace says that nobody's way leads through it.
    session = os.environ.get("AFTERSHOCK_CONTROLLER", os.environ.get("SSH_CONNECTION", ""))
    controllers = (session.split() or [""])[0].split(",")  # several API servers reach a pod
    return {
        "controller": [address for address in controllers if address],
        "gateway": sorted({*_gateways_v4(), *_gateways_v6()}),
        "metadata": ["169.254.169.254", "fd00:ec2::254"],
    }


def _gateways_v4() -> Iterator[str]:
    for words in _table("/proc/net/route"):
        if words[1] == "00000000" and words[2] not in ("00000000", "Gateway"):
            yield socket.inet_ntop(socket.AF_INET, struct.pack("=I", int(words[2], 16)))


def _gateways_v6() -> Iterator[str]:
    for words in _table("/proc/net/ipv6_route"):
        if words[0] == "0" * 32 and words[1] == "00" and words[4] != "0" * 32:
            yield socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[4]))


def _table(path: str) -> Iterator[List[str]]:
    try:
        text = Path(path).read_text(encoding="ascii")
    except OSError:
        return
    for line in text.splitlines():
        if len(words := line.split()) > 4:
            yield words


def bpf_refusal() -> str:
    """Why bpf can't be used here, or nothing."""
    try:
        os.close(bpf.create_map(bpf.ARRAY, 4, 8, 1))
    except (OSError, CannotDo) as error:
        return str(error)
    return ""


def link_type(device: str) -> int:
    """ARPHRD of a device (1 is Ethernet), by ioctl: /sys may show another namespace's devices."""
    request = struct.pack("16sH22x", device.encode(), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, 0x8927, request)  # SIOCGIFHWADDR
    return int(struct.unpack_from("16xH", answer)[0])


def fingerprint(devices: Sequence[str], looks: Sequence[str] = ()) -> List[str]:
    """The devices' traffic control and every link's settings, a line a thing, without counters.

    `looks`: what else is looked at: `covers`, or one of cardstate.LOOKS.
    """
    numbers = [device_index(device) for device in devices]
    with netlink() as ip:
        lines = [_link_line(link) for link in ip.get_links()]
        for device, ifindex in zip(devices, numbers):
            lines += [f"{device} {line}" for line in device_lines(ip, ifindex)]
    if looks:
        from .cardstate import LOOKS
        from .covering import cover_lines

        known = {**LOOKS, "covers": cover_lines}
        lines += [line for look in looks for line in known[look]()]
    return sorted(lines)


def _link_line(link: Any) -> str:
    if (name := link.get_attr("IFLA_IFNAME")).startswith(OUR_LINKS):
        return f"link {name}"  # its number, address and qdisc are known only when it is there
    names = ("IFLA_ADDRESS", "IFLA_MTU", "IFLA_QDISC", "IFLA_TXQLEN")
    values = " ".join(f"{name[5:].lower()} {link.get_attr(name)}" for name in names)
    return f"link {link['index']} {link.get_attr('IFLA_IFNAME')} up {link['flags'] & 1} {values}"
