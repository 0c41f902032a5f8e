"""What a lab needs of this machine, asked before anything is touched."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

from aftershock.agent import blkio
from aftershock.agent.errors import CannotDo
from aftershock.errors import InvalidInput, Unsupported
from aftershock.lab.settings import LabSettings

PACKAGES = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "haproxy": "haproxy",
    "cc": "gcc libc6-dev",
}
VOLUMES = {"mkfs.ext4": "e2fsprogs", "losetup": "mount"}
MAPPED = {"dmsetup": "dmsetup"}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find(binary: str) -> str | None:
    """Where a binary is: on PATH, or where root's own would be."""
    return shutil.which(binary) or shutil.which(binary, path=SYSTEM_PATH)


def preflight(settings: LabSettings) -> None:
    """Raise one sentence, with the mend, for the first thing that keeps the lab from coming up."""
    if sys.platform != "linux":
        raise Unsupported(f"the lab needs Linux (namespaces) and this is {sys.platform}")
    if os.geteuid() != 0:
        raise Unsupported(
            "the lab needs root for its network namespaces: run this again with sudo, "
            "or name a target of your own"
        )
    mapped = bool(settings.volume_mib and settings.volume_mapped)
    needed = {
        **PACKAGES,
        **(VOLUMES if settings.volume_mib else {}),
        **(MAPPED if mapped else {}),
    }
    if missing := [name for name in needed if find(name) is None]:
        packages = " ".join(dict.fromkeys(needed[name] for name in missing))
        raise Unsupported(
            f"the lab needs {', '.join(missing)}: "
            f"apt-get install --no-install-recommends {packages}"
        )
    if settings.volume_mib:
        check_volumes()
    if mapped and "device-mapper" not in Path("/proc/misc").read_text(encoding="ascii").split():
        raise Unsupported(
            "the lab's volumes are to be on device-mapper (volume_mapped), which this kernel "
            "doesn't have: `modprobe dm_mod`, or another kernel, or name a target of your own"
        )
    check_port(settings.gateway_port)
    check_writable(settings.state_dir)


def check_volumes() -> None:
    """Refuse a kernel that can't give zones volumes of their own."""
    if not Path("/dev/loop-control").exists():
        raise Unsupported("the lab's volumes need loop devices: `modprobe loop`")
    try:
        blkio.hierarchy()
    except CannotDo as why:
        raise Unsupported(f"the lab's volumes: {why}") from None


def check_port(port: int) -> None:
    """Refuse a gateway port that somebody listens on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as why:
            raise InvalidInput(
                f"port {port} on 127.0.0.1 is not free for the lab's gateway ({why.strerror}): "
                f"end what listens there (`ss -ltnp 'sport = :{port}'`; `aftershock lab down` if "
                "it is an earlier lab) or set another gateway port"
            ) from why


def check_writable(directory: Path) -> None:
    """Refuse a state directory that can't be written to."""
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InvalidInput(
            f"the lab's state directory {directory} cannot be written: "
            "set AFTERSHOCK_STATE to one that can"
        )
