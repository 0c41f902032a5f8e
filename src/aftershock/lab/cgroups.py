"""Real cgroups for the lab's nodes and containers, where it is told to have them.

`/aftershock-lab-…/ZONE/NODE/kubepods-podUID.slice/cri-containerd-ID.scope`: a container has a
memory limit of its own to run into, and a node processors of its own to be short of. Version 2 has
one tree, so a zone's limits of I/O (see `volumes`) are on the zone's cgroup there, and those who
are on no node are in its `host`: who is in a cgroup has none below it. Cgroups outlive a
killed lab, so a process outside of it waits for its end and removes them (`python -m` this module);
what even that left, the next lab removes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from aftershock.agent import cgroups
from aftershock.agent.errors import AgentError
from aftershock.errors import Unsupported
from aftershock.lab.preflight import find
from aftershock.lab.settings import Place

CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")
HOST = "host"
_OF_VOLUMES = ("blkio", "io")  # whatever its version is; see `volumes`
_PREFIX = "aftershock-lab-"
_PERIOD_US = 100_000
_OLD_S, _GONE_S = 300.0, 15.0


class NodeGroups:
    """The cgroups of one lab, seen from wherever /sys/fs/cgroup is."""

    def __init__(self, lab_dir: Path) -> None:
        self.name = name_of(lab_dir)
        self._runs: dict[str, Path] = {}

    def make(self, places: Sequence[Place], node_cpus: float) -> None:
        """A cgroup for each node and controller; `node_cpus` processors each, 0 for no limit."""
        try:
            for root, version in _roots():
                if version == 2:
                    cgroups.hand_down(str(root), _OF_VOLUMES)
                _make(root / self.name, version)
                for place in places:
                    node = root / self.name / place.zone / place.name
                    _make(node.parent, version)
                    _make(node, version)
                    _put_first(node / HOST)
                    if node_cpus:
                        _limit(node, node_cpus)
        except (AgentError, OSError) as error:
            raise Unsupported(
                f"the lab's nodes can't have cgroups of their own here: {error}: leave "
                "node_cgroups false and node_cpus 0, or run on a host whose root cgroup is writable"
            ) from error

    def path(self, place: Place) -> str:
        """A node's cgroup, as /proc/PID/cgroup shows it."""
        root = cgroups.hierarchy("memory").root.rstrip("/")
        return f"{root}/{self.name}/{place.zone}/{place.name}"

    def enter(self, pid: int, place: Place, uid: str, container: str) -> None:
        """Put a container's process into a cgroup of its own; an earlier run's is removed."""
        below = f"kubepods-pod{uid.replace('-', '_')}.slice", f"cri-containerd-{container}.scope"
        for root, version in _roots():
            pod = root / self.name / place.zone / place.name / below[0]
            _make(pod, version)
            for old in pod.iterdir():
                if old.is_dir():
                    with contextlib.suppress(OSError):  # somebody may still be in it
                        old.rmdir()
            scope = pod / below[1]
            scope.mkdir(exist_ok=True)
            with contextlib.suppress(ProcessLookupError):
                (scope / "cgroup.procs").write_text(str(pid))
            if (scope / "memory.usage_in_bytes").exists() or (scope / "memory.current").exists():
                self._runs[uid] = scope

    def was_oom_killed(self, uid: str) -> bool:
        """Whether the kernel killed for memory in a pod's last container."""
        scope = self._runs.get(uid)
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(OSError):
                for line in ((scope or Path("/nowhere")) / name).read_text().splitlines():
                    if line.split() and line.split()[0] == "oom_kill":
                        return int(line.split()[1]) > 0
        return False


def name_of(lab_dir: Path) -> str:
    """What a lab's topmost cgroup is called in every hierarchy that has one."""
    return f"{_PREFIX}{lab_dir.name.removeprefix('lab-')}"


def remove(lab_dir: Path) -> list[str]:
    """Remove all cgroups of a lab, those of its volumes, too; the ones that would not go."""
    tops = [root / name_of(lab_dir) for root in _everywhere()]
    return [str(top) for top in tops if not _removed(top)]


def remove_after(pid: int, lab_dir: Path) -> None:
    """Start who removes them once a process has ended, whatever ends us; it is no child of ours."""
    nothing = subprocess.DEVNULL
    subprocess.run(
        [
            str(find("setsid")),
            "--fork",
            sys.executable,
            "-P",
            "-m",
            __name__,
            str(pid),
            str(lab_dir),
        ],
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        cwd="/",
        check=True,
    )


def sweep(state_dir: Path) -> None:
    """Remove what earlier labs left whose sweeper was killed, too: old, and nobody in it."""
    with contextlib.suppress(AgentError, OSError):
        for root in _everywhere():
            for top in root.glob(f"{_PREFIX}*"):
                known = state_dir / f"lab-{top.name.removeprefix(_PREFIX)}"
                if not known.exists() and time.time() - top.stat().st_mtime > _OLD_S:
                    _removed(top, 0.0)


def _roots() -> Iterator[tuple[Path, int]]:
    """Each hierarchy's root once, with its version."""
    mounts = {cgroups.hierarchy(name) for name in CONTROLLERS}
    yield from sorted((Path(one.place), one.version) for one in mounts)


def _everywhere() -> list[Path]:
    """The roots of all hierarchies that a lab may have cgroups in."""
    found = set()
    for name in (*CONTROLLERS, *_OF_VOLUMES):
        with contextlib.suppress(AgentError):
            found.add(Path(cgroups.hierarchy(name).place))
    return sorted(found)


def _make(folder: Path, version: int) -> None:
    """A cgroup for others below it, with whatever controllers it has itself."""
    folder.mkdir(exist_ok=True)
    if version == 2:
        cgroups.hand_down(str(folder), (*CONTROLLERS, *_OF_VOLUMES))


def _limit(folder: Path, cpus: float) -> None:
    quota = int(cpus * _PERIOD_US)
    if (folder / "cpu.max").exists():
        (folder / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
    elif (folder / "cpu.cfs_quota_us").exists():
        (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(str(quota))


def _put_first(folder: Path) -> None:
    """What runs on the host itself comes before its pods: what it takes is what they lack."""
    folder.mkdir(exist_ok=True)
    for name, most in (("cpu.shares", "262144"), ("cpu.weight", "10000")):
        if (folder / name).exists():
            (folder / name).write_text(most)


def _removed(top: Path, within_s: float = _GONE_S) -> bool:
    """Remove a cgroup and all below it, as soon as nobody is in them any more."""
    until = time.monotonic() + within_s
    while top.exists():
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if time.monotonic() > until:
            break
        time.sleep(0.02)
    return not top.exists()


def main(pid: int, lab_dir: Path) -> None:
    """Wait for a process' end, and remove a lab's cgroups."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])
    remove(lab_dir)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
