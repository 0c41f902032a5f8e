"""Which processes of this host belong to a pod or a container, and its network namespace.

Told by /proc/PID/cgroup: whatever made the container, its cgroup's path has the pod's UID (with
dashes or, from systemd's driver, underscores) and the container's ID. Stands alone, since it is
also sent before the agent's file is here.
"""

import ctypes
import os
from pathlib import Path
from typing import Dict, List, Optional, Set, Union

_NEW_NETWORK = 0x40000000
_ESTABLISHED, _KUBELET_PORT = "01", 10250


def processes_of(name: str) -> List[int]:
    """The processes whose cgroup names a pod's UID or a container's ID, oldest first."""
    needles = {name, name.replace("-", "_")}
    found = {}
    for pid in every_pid():
        cgroup = text(f"/proc/{pid}/cgroup")
        if any(needle in cgroup for needle in needles):
            started = start_of(pid)
            if started is not None:
                found[pid] = started
    return sorted(found, key=lambda pid: (found[pid], pid))


def main_process(container: str) -> Optional[int]:
    """The process that a container lives by: its PID 1, or its oldest where it has no PIDs."""
    there = processes_of(container)
    for pid in there:
        for line in text(f"/proc/{pid}/status").splitlines():
            if line.startswith("NSpid:") and line.split()[2:] and line.split()[-1] == "1":
                return pid
    return there[0] if there else None


def start_of(pid: int) -> Optional[int]:
    """When a process started, in ticks since boot; None when it is gone, or dead."""
    fields = text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return None if not fields or fields[0] in "ZX" else int(fields[19])


def named(name: str) -> List[int]:
    """The processes in our own network namespace whose program has this name, oldest first.

    So those of the host, to an agent of the host: one of a container that is called the same isn't.
    """
    found, here = {}, network_of("self")
    for pid in every_pid():
        if text(f"/proc/{pid}/comm").rstrip("\n") == name and network_of(pid) == here:
            started = start_of(pid)
            if started is not None:
                found[pid] = started
    return sorted(found, key=lambda pid: (found[pid], pid))


def enter_network(path: str) -> None:
    """Go into a network namespace, for good: it stays as long as this process does."""
    number = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(number, _NEW_NETWORK):
            code = ctypes.get_errno()
            raise OSError(code, f"entering {path}: {os.strerror(code)}")
    finally:
        os.close(number)


def network_of_pod(uid: str) -> str:
    """The file of a pod's network namespace: that of its oldest process, which is its sandbox's.

    Nothing when it has no process here; `shared` when it has no namespace of its own.
    """
    hosts = {network_of("self"), network_of(1)}
    for pid in processes_of(uid):
        theirs = network_of(pid)
        if theirs:  # else it ended just now
            return "shared" if theirs in hosts else f"/proc/{pid}/ns/net"
    return ""


def kubelet_callers() -> Set[str]:
    """Who talks to this host's kubelet now: by it an API server reaches the pods here."""
    found: Set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in text(table).splitlines()[1:]:
            words = line.split()
            if words[3] == _ESTABLISHED and int(words[1].rpartition(":")[2], 16) == _KUBELET_PORT:
                found.add(_address(words[2].partition(":")[0]))
    return found


def _address(text: str) -> str:
    import socket

    raw = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    if raw[:12] == b"\0" * 10 + b"\xff\xff":
        raw = raw[12:]
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def states_of(pids: List[int]) -> Dict[int, str]:
    """The state of every thread of some processes: `t` is traced and stopped, `R` runs."""
    states = {}
    for pid in pids:
        try:
            threads = list(Path(f"/proc/{pid}/task").iterdir())
        except OSError:
            continue
        found = [text(f"{thread}/stat").rpartition(")")[2].split() for thread in threads]
        states[pid] = "".join(sorted(fields[0] for fields in found if fields))
    return states


def network_of(who: Union[int, str]) -> int:
    """The number of a process' network namespace; 0 when it is gone."""
    try:
        return Path(f"/proc/{who}/ns/net").stat().st_ino
    except OSError:
        return 0


def every_pid() -> List[int]:
    """Every process there is."""
    return sorted(int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit())


def text(path: str) -> str:
    """A file of the kernel's; nothing where it isn't there, or not any more."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
