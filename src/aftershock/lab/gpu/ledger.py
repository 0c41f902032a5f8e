"""The utilisation of a node's first mock GPU, read from its ledger (mock_gpu.h) as NVML's is.

The lab's init has no process on each node that could ask NVML; the ledgers are its own files.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

_MAGIC = 0x41465348
_BUCKET_NS, _WINDOW = 100_000_000, 10


class _Bucket(ctypes.Structure):
    _fields_ = (("index", ctypes.c_uint64), ("busy_ns", ctypes.c_uint64))


class _Slot(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_int32),
        ("instance", ctypes.c_uint32),
        ("started", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("buckets", _Bucket * 32),
    )


class _Card(ctypes.Structure):
    _fields_ = (
        ("uuid", ctypes.c_char * 48),
        ("slots", _Slot * 64),
        ("buckets", _Bucket * 32),
        ("settings", ctypes.c_uint32 * 8),
        ("uncorrected_errors", ctypes.c_uint64),
        ("xid_count", ctypes.c_uint64),
        ("xids", ctypes.c_uint32 * 32),
    )


class _Lock(ctypes.Structure):
    _fields_ = (("pid", ctypes.c_int32), ("started", ctypes.c_uint64))


class _Ledger(ctypes.Structure):
    _fields_ = (
        ("magic", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("pid_namespace", ctypes.c_uint64),
        ("cards", _Card * 8),
        ("contiguous", ctypes.c_uint32),
        ("owners", ctypes.c_uint8 * 40_660 * 8),
        ("locks", _Lock * 64),
        ("xids_in_all", ctypes.c_uint32),
    )


def utilisation_percent(path: str | Path) -> float | None:
    """The share of the last second in which kernels ran; None where no card was ever used."""
    try:
        raw = Path(path).read_bytes()
    except OSError:
        return None
    if len(raw) != ctypes.sizeof(_Ledger):
        return None
    ledger = _Ledger.from_buffer_copy(raw)
    if ledger.magic != _MAGIC:
        return None
    current = time.monotonic_ns() // _BUCKET_NS
    recent: list[int] = [
        b.busy_ns for b in ledger.cards[0].buckets if b.index < current <= b.index + _WINDOW
    ]
    return 100 * sum(min(ns, _BUCKET_NS) for ns in recent) / (_WINDOW * _BUCKET_NS)
