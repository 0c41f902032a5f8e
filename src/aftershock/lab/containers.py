"""Which of the lab's processes belong to a pod: what a runtime would do with cgroups.

Real cgroups would stay when the lab is killed. So a pod's main process has a file of the lab's own
mounted over its /proc/PID/cgroup: it is seen in the lab alone, and goes with the process. All that
a pod's processes start carries a mark in its environment, and is killed with the pod.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import tempfile
from pathlib import Path

MARK = "AFTERSHOCK_LAB_POD"
_BIND = 4096


def mark(pid: int, uid: str, container: str) -> None:
    """Let a process' cgroup name its pod and its container, as systemd's driver writes them."""
    pod, number = uid.replace("-", "_"), container.rpartition("//")[2]
    line = f"0::/kubepods.slice/kubepods-pod{pod}.slice/cri-containerd-{number}.scope\n"
    with tempfile.NamedTemporaryFile("w", dir="/dev/shm", prefix="cgroup-") as file:
        file.write(line)
        file.flush()
        target = f"/proc/{pid}/cgroup"
        if ctypes.CDLL(None, use_errno=True).mount(
            file.name.encode(), target.encode(), None, _BIND, None
        ):
            code = ctypes.get_errno()
            if Path(target).exists():  # else it ended already
                raise OSError(code, f"{target}: {os.strerror(code)}")


def kill(uid: str) -> None:
    """End whatever a pod's processes started and left."""
    needle = f"{MARK}={uid}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if needle in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
