"""What a process that breaks nothing sees of a volume: its room, and how fast it answers.

Run as `agent storage WHAT OPTIONS`, in a process of its own: what the agent that holds a fault says
of it would be no proof.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

from . import cgroups, covering, filling, pressing, remapping, throttling
from .errors import AgentError, CannotDo, Invalid
from .opening import opened
from .volumes import Volume, find, room

_BLOCK = 4096
_BLOCKS = 16
_TRY_BYTES = 4 << 20
_CHUNK = 1 << 20
_LEAST = 3
_READS = 8
_PATIENCE_S = 35.0


def ask(what: str, options: Mapping[str, Any]) -> Dict[str, Any]:
    """Let another process look; its refusals are raised here."""
    words = [sys.executable, "-I", "-S", sys.argv[0], "storage", what, json.dumps(options)]
    try:
        done = subprocess.run(
            [*words, *sys.argv[1:]],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        raise AgentError(f"storage: {what}: no answer in {_PATIENCE_S:g} s") from None
    told: Dict[str, Any] = json.loads(done.stdout)
    if "error" in told:
        kind = {Invalid.kind: Invalid, CannotDo.kind: CannotDo}.get(told["error"], AgentError)
        raise kind(told["message"])
    return told


def main(what: str, options: str, *_: str) -> None:
    """The other process' life."""
    looks: Dict[str, Callable[..., Dict[str, Any]]] = {
        "room": look_at_room,
        "latency": latency,
        "device": device,
        "load": load,
        "fill": may_be_filled,
        "press": may_be_pressed,
        "throttle": may_be_throttled,
        "delay": may_be_delayed,
        "cover": may_be_covered,
        "fail": may_fail,
        "attempts": attempts,
        "speed": speed,
        "opened": opened,
    }
    try:
        if what not in looks:
            raise Invalid(f"storage: {what!r}: one of {', '.join(looks)}")
        told = looks[what](**json.loads(options))
    except AgentError as error:
        told = {"error": error.kind, "message": str(error)}
    except OSError as error:
        told = {"error": AgentError.kind, "message": f"{error.strerror}: {error.filename}"}
    print(json.dumps(told))


def may_be_filled(**options: Any) -> Dict[str, Any]:
    """Refuses what a fill would be refused; the room as it is."""
    return _told(filling.check({"kind": "fill", **options}))


def may_be_pressed(**options: Any) -> Dict[str, Any]:
    """Refuses what fio would be refused; the engine that it would use."""
    volume, size, engine = pressing.check({"kind": "press", **options})
    return {**_told(volume), "size": size, "engine": engine}


def may_be_throttled(**options: Any) -> Dict[str, Any]:
    """Refuses what a throttle would be refused; which cgroup it would be on."""
    volume, target = throttling.check({"kind": "throttle", **options})
    return {**_told(volume), "folder": target.folder}


def may_be_delayed(**options: Any) -> Dict[str, Any]:
    """Refuses what a delay would be refused; the device that it would be on."""
    swap = remapping.check_delay({"kind": "delay", **options})
    return {**_told(swap.volume), "dm": swap.name}


def may_be_covered(**options: Any) -> Dict[str, Any]:
    """Refuses what a copy would be refused; how large it would be."""
    volume, tree = covering.check({"kind": "cover", **options})
    return {**_told(volume), "size": tree.size, "entries": len(tree.entries)}


def may_fail(**options: Any) -> Dict[str, Any]:
    """Refuses what errors would be refused; the device that would have them."""
    swap = remapping.check_fail({"kind": "fail", **options})
    return {**_told(swap.volume), "dm": swap.name}


def attempts(path: str, volume: str = "", operation: str = "read") -> Dict[str, Any]:
    """How direct reads of a volume's device end, and a write there: an error's name, or nothing.

    Some blocks of the device itself are read, all of which must end alike. What is written is a
    block of a file without a name.
    """
    found = find(path, volume)
    ended = {}
    if operation != "write":
        ended["read"] = _read_some(found)
    if operation != "read":
        ended["write"] = _write_one(found)
    return {"volume": str(found), "ended": ended}


def _read_some(volume: Volume) -> str:
    file = _open_device(volume)
    buffer = mmap.mmap(-1, _BLOCK)
    try:
        blocks, errors = os.lseek(file, 0, os.SEEK_END) // _BLOCK, set()
        for _ in range(_READS):
            try:
                os.preadv(file, [buffer], random.randrange(blocks) * _BLOCK)
                errors.add("")
            except OSError as error:
                errors.add(errno.errorcode.get(error.errno or 0, str(error)))
    finally:
        os.close(file)
    return "" if "" in errors else sorted(errors)[0]


def _open_device(volume: Volume) -> int:
    """The block device under a volume, by whichever of its names is there."""
    root, dm = os.environ.get("AFTERSHOCK_HOST_ROOT", ""), ""
    with contextlib.suppress(OSError):
        dm = Path(f"/sys/dev/block/{volume.device}/dm/name").read_text(encoding="utf-8").strip()
    for name in (volume.source, f"/dev/mapper/{dm}", f"/dev/block/{volume.device}"):
        with contextlib.suppress(OSError):
            number = Path(root + name).stat().st_rdev
            if f"{os.major(number)}:{os.minor(number)}" == volume.device:
                return os.open(root + name, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    raise CannotDo(f"{volume}: its device can't be read directly here")


def _write_one(volume: Volume) -> str:
    try:
        file = os.open(volume.path, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, 0o600)
        try:
            os.pwritev(file, [mmap.mmap(-1, _BLOCK)], 0)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return ""


def look_at_room(path: str, volume: str = "", tries: str = "") -> Dict[str, Any]:
    """The room there is, and how a write (`tries`: space) or a new file (inodes) ends."""
    found = find(path, volume)
    told = _told(found)
    if tries:
        told["tried"] = _try(found.path, tries)
    return told


def _told(volume: Volume) -> Dict[str, Any]:
    return {**room(volume.path), "volume": str(volume), "device": volume.device}


def _try(folder: str, what: str) -> str:
    """The error's name, or nothing when it went well; what was written is gone again."""
    try:
        file = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    try:
        left = _TRY_BYTES if what == "space" else 0
        while left > 0:
            left -= os.write(file, b"\0" * min(left, 1 << 16))
        os.fsync(file)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    finally:
        os.close(file)
    return ""


def latency(
    path: str, volume: str = "", count: int = 20, gap_s: float = 0.02, longest_s: float = 3.0
) -> Dict[str, Any]:
    """How long single direct reads and writes of 4 KiB take, in ms, and what the device did then.

    In a file of its own without a name, whose 16 blocks are written first. So small and so rare
    that the volume hardly notices: 20 of each a second are 160 KiB/s. Where they take long there
    are fewer of them, three of each at least.
    """
    if not (0 < count <= 1000 and 0 <= gap_s <= 1 and 0 < longest_s <= 30):
        raise Invalid("latency: count to 1000, gap_s to 1, longest_s to 30")
    found = find(path, volume)
    with _direct(found) as file:
        buffer = mmap.mmap(-1, _BLOCK)
        buffer.write(os.urandom(_BLOCK))
        os.pwritev(file, [buffer] * _BLOCKS, 0)
        before, began, rng = _counters(found.device), time.monotonic(), random.Random()
        reads: List[float] = []
        writes: List[float] = []
        while len(writes) < count and (
            len(writes) < _LEAST or time.monotonic() - began < longest_s
        ):
            for times, call in ((reads, os.preadv), (writes, os.pwritev)):
                at = rng.randrange(_BLOCKS) * _BLOCK
                times.append(_timed(lambda: call(file, [buffer], at)) * 1000)  # noqa: B023
                time.sleep(gap_s / 2)
        spent = time.monotonic() - began
        busy = _between(before, _counters(found.device), spent)
    return {"read_ms": reads, "write_ms": writes, "volume": str(found), "device": busy}


def speed(path: str, way: str, block: int, over_s: float, cgroup: str = "") -> Dict[str, Any]:
    """How much a process gets that reads (or writes) in one row as fast as it can, in a cgroup."""
    if way not in ("read", "write") or not (0 < over_s <= 30 and 0 < block <= 1 << 24):
        raise Invalid("speed: read or write, block to 16 MiB, over_s to 30")
    found = find(path)
    with _direct(found) as file:
        buffer = mmap.mmap(-1, block)
        buffer.write(os.urandom(block))
        os.pwritev(file, [buffer], 0)
        if cgroup:
            cgroups.enter(cgroup, os.getpid())
        call = os.preadv if way == "read" else os.pwritev
        did, began = 0, time.monotonic()
        while time.monotonic() - began < over_s:
            call(file, [buffer], 0)
            did += 1
        spent = time.monotonic() - began
    return {"per_s": did / spent, "bytes_per_s": did * block / spent}


@contextlib.contextmanager
def _direct(volume: Volume) -> Any:
    file = filling.open_nameless(volume.path)
    try:
        try:
            os.set_blocking(file, True)
            _set_direct(file)
        except OSError:
            raise CannotDo(
                f"{volume} has no direct I/O, so nothing shows how fast its device is: name a "
                "volume on a block device"
            ) from None
        yield file
    finally:
        os.close(file)


def _set_direct(file: int) -> None:
    import fcntl

    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_DIRECT)


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def device(path: str, volume: str = "", over_s: float = 1.0) -> Dict[str, Any]:
    """What a volume's block device did over a while, as the kernel counted it.

    `busy_share`: of the time, something was under way. `queue`: how much was, on average.
    """
    if not 0 < over_s <= 60:
        raise Invalid(f"device: over_s {over_s}: more than 0, at most 60")
    found = find(path, volume)
    if not found.device:
        raise CannotDo(f"{found} is on no block device: nothing counts what it does")
    before, began = _counters(found.device), time.monotonic()
    time.sleep(over_s)
    after, spent = _counters(found.device), time.monotonic() - began
    return {**(_between(before, after, spent) or {}), "volume": str(found)}


def _counters(number: str) -> Optional[List[int]]:
    """A block device's line of /proc/diskstats (Documentation/admin-guide/iostats.rst)."""
    for line in Path("/proc/diskstats").read_text(encoding="ascii").splitlines():
        words = line.split()
        if number == f"{words[0]}:{words[1]}":
            return [int(word) for word in words[3:]]
    return None


def _between(
    before: Optional[List[int]], after: Optional[List[int]], spent_s: float
) -> Optional[Dict[str, float]]:
    if not before or not after:
        return None
    did = [now - then for then, now in zip(before, after)]
    reads, writes = did[0], did[4]
    return {
        "reads_per_s": reads / spent_s,
        "writes_per_s": writes / spent_s,
        "read_mib_per_s": did[2] * 512 / spent_s / 2**20,
        "write_mib_per_s": did[6] * 512 / spent_s / 2**20,
        "wait_ms": (did[3] + did[7]) / max(1, reads + writes),
        "busy_share": min(1.0, did[9] / 1000 / spent_s),
        "queue": did[10] / 1000 / spent_s,
    }


def load(path: str, size: int) -> Dict[str, Any]:
    """How long reading so many bytes of a file takes, past the page cache."""
    if size <= 0:
        raise Invalid(f"load: {size} bytes: more than 0")
    folder, _, name = path.rpartition("/")
    place = Path(find(folder or "/").path) / name
    if not place.is_file():
        raise Invalid(f"load: no file {path} here")
    if place.stat().st_size < size:
        raise Invalid(f"load: {path} has {place.stat().st_size} bytes, fewer than {size}")
    try:
        file = os.open(place, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        raise CannotDo(f"load: {find(folder or '/')} has no direct I/O") from None
    buffer, at, began = mmap.mmap(-1, _CHUNK), 0, time.monotonic()
    try:
        while at < size:
            got = os.preadv(file, [buffer], at)
            if not got:
                break
            at += got
    finally:
        os.close(file)
    return {"seconds": time.monotonic() - began, "bytes": at}
