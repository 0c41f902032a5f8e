"""The bpf(2) system call: maps, programs, TCX links. No library, no compiler, no files."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import time
from functools import lru_cache
from typing import Any, List, NamedTuple, Sequence, Tuple

from .errors import CannotDo

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361}  # little-endian ones
_ATTR_BYTES = 128
_LOG_BYTES = 1 << 16
_REFILL_S = 2.0

MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD = 0, 1, 2, 5
PROG_FD_BY_ID, OBJECT_INFO, PROG_QUERY = 13, 15, 16
MAP_UPDATE_BATCH, LINK_CREATE, LINK_DETACH = 26, 28, 34

HASH, ARRAY, PROG_ARRAY, LPM_TRIE = 1, 2, 3, 11
NO_PREALLOC = 1  # a trie must be made so
SCHED_CLS = 3
TCX = {"ingress": 46, "egress": 47}
_BEFORE = 1 << 3


@lru_cache(maxsize=None)
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def call(command: int, attributes: bytes) -> int:
    """One bpf(2) call; OSError as the kernel said it."""
    return _call(command, attributes)[0]


def _call(command: int, attributes: bytes) -> Tuple[int, bytes]:
    """The call's result, and the attributes as the kernel left them."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise CannotDo(f"bpf on {platform.machine()}: known are {', '.join(_SYSCALL)}")
    buffer = ctypes.create_string_buffer(attributes, _ATTR_BYTES)
    result = int(_libc().syscall(number, command, buffer, _ATTR_BYTES))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf command {command}: {os.strerror(code)}")
    return result, buffer.raw


def raise_memory_limit() -> None:
    """Kernels before 5.11 charge maps to RLIMIT_MEMLOCK, which is small by default."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)


def create_map(kind: int, key_bytes: int, value_bytes: int, entries: int, flags: int = 0) -> int:
    """A new map's file descriptor."""
    return call(MAP_CREATE, struct.pack("<IIIII", kind, key_bytes, value_bytes, entries, flags))


def update(map_fd: int, key: bytes, value: bytes) -> None:
    """Set one entry."""
    key_at, value_at = ctypes.create_string_buffer(key), ctypes.create_string_buffer(value)
    pointers = ctypes.addressof(key_at), ctypes.addressof(value_at)
    call(MAP_UPDATE, struct.pack("<IxxxxQQQ", map_fd, *pointers, 0))


def lookup(map_fd: int, key: bytes, value_bytes: int) -> bytes:
    """Read one entry."""
    key_at, value_at = ctypes.create_string_buffer(key), ctypes.create_string_buffer(value_bytes)
    pointers = ctypes.addressof(key_at), ctypes.addressof(value_at)
    call(MAP_LOOKUP, struct.pack("<IxxxxQQQ", map_fd, *pointers, 0))
    return value_at.raw


def fill(map_fd: int, entries: Sequence[Tuple[bytes, bytes]]) -> None:
    """Set many entries by one call; kernels whose tries know no batches get one call each.

    Newer kernels refill the tries' memory from an interrupt: when that is late, there is none for
    a moment, and each entry is tried again until there is.
    """
    keys = ctypes.create_string_buffer(b"".join(key for key, _ in entries))
    values = ctypes.create_string_buffer(b"".join(value for _, value in entries))
    pointers = 0, 0, ctypes.addressof(keys), ctypes.addressof(values)
    try:
        call(MAP_UPDATE_BATCH, struct.pack("<QQQQIIQQ", *pointers, len(entries), map_fd, 0, 0))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, 524, errno.ENOMEM):
            raise
        until = time.monotonic() + _REFILL_S
        for key, value in entries:
            _update_patiently(map_fd, key, value, until)


def _update_patiently(map_fd: int, key: bytes, value: bytes, until: float) -> None:
    while True:
        try:
            update(map_fd, key, value)
        except OSError as error:
            if error.errno != errno.ENOMEM or time.monotonic() > until:
                raise
            time.sleep(0.005)
        else:
            return


def load(instructions: bytes, name: str) -> int:
    """Load a traffic-control program; the verifier's own words are in the error."""
    code = ctypes.create_string_buffer(instructions)
    licence = ctypes.create_string_buffer(b"GPL")
    where = len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(licence)

    def attempt(*log: int) -> int:
        head = struct.pack("<IIQQIIQII", SCHED_CLS, *where, *log, 0, 0)
        return call(PROG_LOAD, head + name.encode()[:15].ljust(16, b"\0"))

    try:
        return attempt(0, 0, 0)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES) and os.geteuid() != 0:
            raise CannotDo("loading a bpf program needs root: run as root") from None
    log = ctypes.create_string_buffer(_LOG_BYTES)
    try:
        return attempt(1, _LOG_BYTES, ctypes.addressof(log))
    except OSError as error:
        said = log.value.decode(errors="replace").strip().splitlines()[-3:]
        message = f"the kernel refused the program: {error.strerror}: {' / '.join(said)}"
        raise CannotDo(f"{message}; Linux 5.8 or newer is needed") from None


def link(program_fd: int, ifindex: int, direction: str) -> int:
    """Attach by a TCX link, first in line: another program's terminal verdict would bypass ours."""
    attributes = struct.pack("<IIIIIxxxxQ", program_fd, ifindex, TCX[direction], _BEFORE, 0, 0)
    return call(LINK_CREATE, attributes)


def detach(link_fd: int) -> None:
    """Take a link off its device at once, whoever else still holds it."""
    call(LINK_DETACH, struct.pack("<I", link_fd))


class Program(NamedTuple):
    """A loaded program as the kernel names it."""

    id: int
    name: str


def describe(program_fd: int) -> Program:
    """A program's id and name."""
    info = ctypes.create_string_buffer(256)
    call(OBJECT_INFO, struct.pack("<IIQ", program_fd, len(info), ctypes.addressof(info)))
    name = info.raw[64:80].split(b"\0")[0].decode(errors="replace")
    return Program(struct.unpack_from("<I", info.raw, 4)[0], name)


def attached(ifindex: int, direction: str) -> List[Program]:
    """The TCX programs on a device, first in line first; OSError where the kernel has no TCX."""
    room = 64
    ids = ctypes.create_string_buffer(4 * room)
    where = ifindex, TCX[direction], 0, 0, ctypes.addressof(ids), room, 0
    _, answer = _call(PROG_QUERY, struct.pack("<IIIIQII", *where))
    count = struct.unpack_from("<I", answer, 24)[0]
    return [_by_id(number) for number in struct.unpack_from(f"<{count}I", ids.raw)]


def _by_id(number: int) -> Program:
    try:
        program_fd = call(PROG_FD_BY_ID, struct.pack("<I", number))
    except OSError:
        return Program(number, "?")
    try:
        return describe(program_fd)
    finally:
        os.close(program_fd)


def has_tcx(ifindex: int) -> bool:
    """Whether this kernel can attach by TCX (6.6 and newer)."""
    try:
        attached(ifindex, "ingress")
    except OSError:
        return False
    return True
