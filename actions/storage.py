"""Break the storage of hosts: fill a volume, keep its device busy, let it wait or fail, or give
some processes little of it.

`where` names zones and nodes of the target, with commas; `all` means every node. `path` is a
directory there, on the volume that is meant, with `{zone}` and `{node}` for their names; `volume`,
where given, is the mount point or device that it must be on, or it is refused. `lease_s`: seconds
after which each host heals by itself, whatever became of us. Files of ours have no name, so they
vanish with whoever has them open, after a reboot, too.

Each action fires on all its hosts at one instant and returns its injections with their evidence.
It raises `InvalidFault` and `InvalidInput` for what makes no sense, `Unsupported` where a host
can't, both before anything is touched, and `NotApplied` when not every host could be armed.
"""

from typing import Any

from aftershock import run as runs
from aftershock.run import storage

__all__ = [
    "delay_files",
    "delay_io",
    "fail_io",
    "fill_disk",
    "fill_inodes",
    "heal_storage",
    "press_io",
    "slow_io",
    "throttle_io",
]


def fill_disk(
    where: str,
    path: str,
    free_mib: float = 0.0,
    volume: str = "",
    reserve_mib: float = 256.0,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Take a volume's space until `free_mib` are left, even for root, and keep it so.

    Where the host's own files are on it, too (/, /var, /tmp, our records, …), `free_mib` must be at
    least `reserve_mib`, which journal and host need, and what others use of that is given back.
    Seen by another process: statvfs, and, where nothing was to be left, a write that gets ENOSPC.
    """
    run = runs.current()
    return storage.fill_disk(run, where, path, free_mib, volume, reserve_mib, lease_s)


def fill_inodes(
    where: str, path: str, free_inodes: int = 0, volume: str = "", lease_s: float = 120.0
) -> dict[str, Any]:
    """Take a volume's inodes until `free_inodes` are left: nobody can make a file there.

    For file systems with a fixed number of them (ext4, tmpfs); each takes about 2 KiB of the host's
    memory while it is held. Where the host's own files are on it, 1000 must be left.
    """
    return storage.fill_inodes(runs.current(), where, path, free_inodes, volume, lease_s)


def delay_io(
    where: str,
    path: str,
    read_ms: float = 0.0,
    write_ms: float = 0.0,
    volume: str = "",
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Let each read and write of a volume wait for so many milliseconds, by dm-delay.

    The volume must be on a device-mapper device with linear parts, as LVM makes them: its table is
    swapped while it is in use, and swapped back by a watcher if the agent can't. The host needs
    dmsetup, and its kernel dm-delay (`aftershock doctor` tells).

    Seen by another process, whose single 4 KiB reads and writes take so much longer than before.
    """
    return storage.delay(runs.current(), where, path, read_ms, write_ms, volume, lease_s)


def delay_files(
    where: str,
    path: str,
    read_ms: float,
    read_only: bool = False,
    most_mib: float = 512.0,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Let whoever opens a file below `path` read it from a copy, each read taking `read_ms`.

    For a server that loads its weights while the fault holds: start or restart it after this. Who
    has a file open already goes on reading the original, and so does a container that was started
    before and has mounts of its own. On any file system that has direct I/O and takes files without
    a name; the host needs dmsetup, mkfs.ext4, loop devices and dm-delay, and room for a copy of all
    below `path`, at most `most_mib`.

    Nothing can be written to the copy: who opens a file for writing gets EROFS, which `read_only`
    has to agree to. Refused where something is open for writing there, or mounted below; where the
    host, our records or what heals would be hidden; and for an agent in a pod.

    Seen by another process, which opens a file there and whose 4 KiB reads take so much longer than
    before. `felt`, after the heal, is whether anybody else read there, as the kernel counted it: if
    nobody did, the run is INCONCLUSIVE.
    """
    run = runs.current()
    return storage.delay_files(run, where, path, read_ms, read_only, most_mib, lease_s)


def fail_io(
    where: str,
    path: str,
    operation: str = "read",
    up_s: int = 0,
    down_s: int = 1,
    file_system_may_break: bool = False,
    volume: str = "",
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Let a volume's device end each `operation` (read, write or both) with EIO.

    Always, or by turns: none for `up_s` whole seconds, all for `down_s`. By dm-flakey, but where
    both fail all the time by dm-error, which every kernel with device-mapper has. The volume must
    be on a device-mapper device as for `delay_io`; one that the host itself lives on, or that what
    heals would be read from, is refused. Reads alone need Linux 6.6 or so (dm-flakey's
    error_reads).

    Errors of the device are gone with the heal; what the file system made of them is not. After a
    write that failed, ext4 is read-only (its journal is aborted) and XFS shut down, until somebody
    unmounts and checks it: such a fault is refused unless `file_system_may_break`. A read that
    fails harms who reads; but ext4 that is mounted with errors=remount-ro is read-only, too, once
    a block of its own (of a directory, say) could not be read.

    Seen by another process, whose direct reads of the device, or whose write of a file there, get
    EIO, and before did not. How both end after the heal is in the evidence.
    """
    words = {
        "operation": operation,
        "up_s": up_s,
        "down_s": down_s,
        "file_system_may_break": file_system_may_break,
        "volume": volume,
    }
    return storage.fail(runs.current(), where, path, words, lease_s)


def press_io(
    where: str,
    path: str,
    pattern: str = "randrw",
    block_kib: int = 128,
    depth: int = 32,
    jobs: int = 1,
    size_mib: float = 256.0,
    rate_mib_s: float = 0.0,
    read_share: float = 0.5,
    direct: bool = True,
    engine: str = "auto",
    volume: str = "",
    reserve_mib: float = 256.0,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Keep a volume's device busy by fio, so that everybody else's reads and writes take longer.

    `pattern`: read, write, randread, randwrite, rw or randrw, as fio names them, with `read_share`
    for the mixed ones. For each of `jobs`, `depth` requests of `block_kib` are under way at once;
    `rate_mib_s` caps all of them together (0: none). `engine`: io_uring, libaio, or auto for the
    first that works. The file has `size_mib`, less where room is short: a tenth of it is left
    alone, or `reserve_mib` where the host's own files are.

    Seen by another process: half of its single 4 KiB reads or writes take twice as long as before,
    and the kernel counts more of them. What fio itself measured (IOPS, MiB/s, percentiles) is in
    the injection's `per_host` after its end. Raises `Unsupported` where there is no fio.
    """
    words = {
        "pattern": pattern,
        "block_kib": block_kib,
        "depth": depth,
        "jobs": jobs,
        "size_mib": size_mib,
        "rate_mib_s": rate_mib_s,
        "read_share": read_share,
        "direct": direct,
        "engine": engine,
        "volume": volume,
        "reserve_mib": reserve_mib,
    }
    return storage.press(runs.current(), where, path, words, lease_s)


def slow_io(
    where: str,
    path: str,
    by: str = "fio",
    read_ms: float = 0.0,
    write_ms: float = 0.0,
    pattern: str = "randread",
    block_kib: int = 256,
    depth: int = 8,
    jobs: int = 1,
    size_mib: float = 256.0,
    rate_mib_s: float = 0.0,
    volume: str = "",
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Slow a volume down `by` what is named: `fio` as `press_io` does, `dm-delay` as `delay_io`.

    So that an experiment can have it as a variable. By fio the device is busy, and how slow it gets
    is the device's matter; by dm-delay reads and writes take `read_ms` and `write_ms` longer, and
    fio's words (`pattern` to `rate_mib_s`) don't matter. A host that can't have what is named is
    refused with the reason; nothing else is taken in its place, or two runs would not be alike.
    """
    words = {
        "read_ms": read_ms,
        "write_ms": write_ms,
        "pattern": pattern,
        "block_kib": block_kib,
        "depth": depth,
        "jobs": jobs,
        "size_mib": size_mib,
        "rate_mib_s": rate_mib_s,
        "volume": volume,
    }
    return storage.slow(runs.current(), where, path, by, words, lease_s)


def throttle_io(
    where: str,
    path: str,
    read_mib_s: float = 0.0,
    write_mib_s: float = 0.0,
    read_iops: int = 0,
    write_iops: int = 0,
    cgroup: str = "",
    containers: str = "",
    named: str = "",
    container: str = "",
    volume: str = "",
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Limit what some processes get of a volume's device: MiB and requests a second; 0: no limit.

    Who: pods, if `where` has labels (`app=model`) or names (`pod/NAME`) of some, in each the
    `container` (where a pod has several). Else a `cgroup`, by its path below the hierarchy's top,
    or `containers` by their IDs and programs by the name that `ps -e` shows (`named`), with commas.
    Where others share their cgroup
    they are moved into one of ours, and back. By blkio (version 1; what the kernel writes back
    later is not limited there) or io.max (version 2). A watcher takes limits off when the agent
    can't.

    Seen by another process in the same cgroup, which gets no more than the limit, and before did.
    """
    words = {
        "read_mib_s": read_mib_s,
        "write_mib_s": write_mib_s,
        "read_iops": read_iops,
        "write_iops": write_iops,
        "cgroup": cgroup,
        "containers": containers,
        "named": named,
        "container": container,
        "volume": volume,
    }
    return storage.throttle(runs.current(), where, path, words, lease_s)


def heal_storage(where: str = "all") -> dict[str, Any]:
    """Order the heal of every storage fault of this run on some hosts. Idempotent.

    A fault that is on other hosts, too, is left alone. Returns which injections were reverted.
    """
    return storage.heal(runs.current(), where)
