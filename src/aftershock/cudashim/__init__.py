"""The library that makes CUDA calls of a process fail: what it is started with.

It does nothing until an agent says so (`agent/cudafaults.py`), and no longer than that agent lives.
"""

from __future__ import annotations

from pathlib import Path

from aftershock import native

_SOURCE = Path(__file__).with_name("shim.c")
LIBRARY = "libaftershock_cuda.so"
ORDERS = "AFTERSHOCK_CUDA_FAULT"


def build() -> Path:
    """The library's path; built with the machine's `cc` unless it is in the cache."""
    folder = native.build("cuda-shim", {_SOURCE: LIBRARY}, [_SOURCE], "faults of CUDA calls")
    return folder / LIBRARY


def environment(library: Path | str, orders: str) -> dict[str, str]:
    """What a process is started with; `orders` is a file of its own that it may write to."""
    return {"LD_PRELOAD": str(library), ORDERS: orders}
