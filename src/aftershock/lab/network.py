"""The lab's network: a namespace a node, all on one bridge that has a namespace of its own.

    SWITCH: br0 ─┬─ node-a-1 (eth0)
                 ├─ …
                 └─ EDGE (eth0): where the gateway's connections come from

The machine's own network gets nothing. The texts are pure; `build` carries them out.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from aftershock.lab.netns import entered, path_of
from aftershock.lab.settings import EDGE_PLACE, LabFailed, Place

SWITCH = "SWITCH"


def switch_lines(places: Iterable[Place]) -> str:
    """`ip -batch` lines for the bridge's namespace; each veth's far end is its node's eth0."""
    lines = ["link set lo up", "link add br0 type bridge stp_state 0 forward_delay 0"]
    for number, place in enumerate(places):
        port = f"p{number}"
        lines += [
            f"link add {port} type veth peer name eth0 netns {place.name}",
            f"link set {port} master br0 up",
        ]
    return "\n".join([*lines, "link set br0 up"]) + "\n"


def node_lines(place: Place) -> str:
    """`ip -batch` lines for one node's namespace."""
    return (
        "link set lo up\n"
        f"addr add {place.ipv4}/16 dev eth0\n"
        f"addr add {place.ipv6}/64 dev eth0 nodad\n"
        "link set eth0 up\n"
    )


def build(places: Iterable[Place]) -> None:
    """Make namespaces, bridge and addresses in the mount namespace that this process is in."""
    everywhere = [EDGE_PLACE, *places]
    for name in [SWITCH, *(place.name for place in everywhere)]:
        _ip("netns", "add", name)
    _ip("-n", SWITCH, "-batch", "-", lines=switch_lines(everywhere))
    for place in everywhere:
        with entered(path_of(place.name)):  # an interface that comes back has its addresses
            Path("/proc/sys/net/ipv6/conf/eth0/keep_addr_on_down").write_text("1")
        _ip("-n", place.name, "-batch", "-", lines=node_lines(place))


def _ip(*arguments: str, lines: str = "") -> None:
    ran = subprocess.run(
        ["ip", *arguments], input=lines, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise LabFailed(f"ip {' '.join(arguments)}: {(ran.stderr or ran.stdout).strip()}")
