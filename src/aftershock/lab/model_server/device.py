"""The engine's GPU through the CUDA driver API, as a real engine uses it."""

from __future__ import annotations

import ctypes
from typing import Protocol

from aftershock.errors import AftershockError

OUT_OF_MEMORY = 2
GIB = 1 << 30


class DeviceError(AftershockError):
    """The GPU refused; the message is what a real engine says then."""


class CudaDevice:
    """GPU 0, and the memory that this process holds on it until it ends."""

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as why:
            raise DeviceError(f"no CUDA driver: {why}") from why
        self._call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._ran = getattr(self._cuda, "mockgpu_ran", None)
        self._told = {
            name: getattr(self._cuda, f"mockgpu_{name}", None) for name in ("crowding", "slowness")
        }

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> None:
        """Hold `size` bytes."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(size))

    def ran(self, seconds: float) -> float:
        """Note GPU time up to now; how many times as long it takes as on a card of its own.

        By its clocks, and by others: their kernels have the card every other time slice while there
        are any. A driver without the mock's own symbols measures for itself.
        """
        self._call("cuCtxSynchronize")
        if self._ran is not None:
            self._ran(ctypes.c_uint64(int(seconds * 1e9)))
        slowness, crowding = self._asked("slowness", 1.0), self._asked("crowding", 0.0)
        return slowness / (1 - crowding / 2)

    def _asked(self, what: str, usual: float) -> float:
        thousandths = ctypes.c_uint()
        ask = self._told[what]
        if ask is None or ask(ctypes.byref(thousandths)):
            return usual
        return thousandths.value / 1000

    def _call(self, name: str, *arguments: object) -> None:
        if result := getattr(self._cuda, name)(*arguments):
            if result == OUT_OF_MEMORY:
                raise DeviceError(f"CUDA out of memory ({name})")
            raise DeviceError(f"{name} returned {result}")


class Memory(Protocol):
    """What tells of a GPU's memory."""

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""


def reserve(device: Memory, share: float) -> int:
    """The bytes that the engine may use; `DeviceError`, in vLLM's words, if they are taken."""
    free, total = device.memory()
    wanted = int(total * share)
    if free < wanted:
        raise DeviceError(
            f"Free memory on device cuda:0 ({free / GIB:.2f}/{total / GIB:.2f} GiB) on startup is "
            f"less than desired GPU memory utilization ({share:g}, {wanted / GIB:.2f} GiB). "
            "Decrease GPU memory utilization or reduce GPU memory used by other processes."
        )
    return wanted
