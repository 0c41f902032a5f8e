"""One GPU through CUDA's driver API, which comes with the driver: no toolkit, no framework."""

from __future__ import annotations

import ctypes
from array import array
from typing import Any, List, Optional

from .errors import AgentError, CannotDo

OUT_OF_MEMORY = 2
_MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
LEAST_BYTES = 2 << 20  # what the driver hands out memory in
_MOST_BYTES = 1 << 30
_PATTERN = 0xA5


def name_of(cuda: ctypes.CDLL, result: int) -> str:
    """What the driver calls one of its errors."""
    name = ctypes.c_char_p()
    if cuda.cuGetErrorName(result, ctypes.byref(name)) or not name.value:
        return f"CUDA error {result}"
    return name.value.decode()


class Card:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves, with a context of this process on it.

    The driver takes back all of it when the process ends, by whatever hand.
    """

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise CannotDo(f"no CUDA on this host ({error}): install NVIDIA's driver") from None
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(self._device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.call("cuCtxSetCurrent", self._context)

    def call(self, name: str, *arguments: Any) -> None:
        """A call of the driver's; AgentError has its name for what went wrong."""
        if result := getattr(self._cuda, name)(*arguments):
            raise AgentError(f"{name}: {self._name_of(result)}")

    def _name_of(self, result: int) -> str:
        return name_of(self._cuda, result)

    def free_bytes(self) -> int:
        """What is left of its memory."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def multiprocessors(self) -> int:
        """How many SMs it has."""
        count = ctypes.c_int()
        self.call(
            "cuDeviceGetAttribute",
            ctypes.byref(count),
            ctypes.c_int(_MULTIPROCESSORS),
            self._device,
        )
        return count.value

    def take(self, size: int) -> int:
        """Hold up to `size` bytes more, written to so that they are there; how many it became.

        In pieces of at most 1 GiB; smaller and smaller ones where there is no room for such.
        """
        taken, piece = 0, _MOST_BYTES
        while size - taken >= LEAST_BYTES and piece >= LEAST_BYTES:
            wanted = min(piece, size - taken)
            address = self._block(wanted)
            if address is None:
                piece //= 2
                continue
            self._write(address, wanted)
            taken += wanted
        self.call("cuCtxSynchronize")
        return taken

    def take_every_other(self, count: int, size: int) -> int:
        """Hold `count` blocks of `size` bytes with as much free between them; the bytes held.

        Twice as many are taken, or what there is room for, before every other one is freed.
        """
        addresses = array("Q")
        while len(addresses) < 2 * count:
            address = self._block(size)
            if address is None:
                break
            self._write(address, size)
            addresses.append(address.value)
        self.call("cuCtxSynchronize")
        too_many = max(0, len(addresses) - count)
        for freed in addresses[1 : 2 * too_many : 2]:
            self.call("cuMemFree_v2", ctypes.c_uint64(freed))
        return (len(addresses) - too_many) * size

    def fits(self, size: int) -> bool:
        """Whether a single allocation succeeds; it is freed at once."""
        address = self._block(size)
        if address is not None:
            self.call("cuMemFree_v2", address)
        return address is not None

    def _block(self, size: int) -> Optional[ctypes.c_uint64]:
        """The address of a new one; None where there is no room for it."""
        address = ctypes.c_uint64()
        result = self._cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size))
        if result and result != OUT_OF_MEMORY:
            raise AgentError(f"cuMemAlloc_v2: {self._name_of(result)}")
        return None if result else address

    def _write(self, address: ctypes.c_uint64, size: int) -> None:
        self.call("cuMemsetD8_v2", address, ctypes.c_ubyte(_PATTERN), ctypes.c_size_t(size))

    def kernel(self, text: bytes, name: bytes) -> ctypes.c_void_p:
        """A function of a module of PTX, compiled by the driver."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(text))
        self.call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(name))
        return function

    def room(self, size: int) -> ctypes.c_uint64:
        """The address of a block of memory."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address

    def run(self, function: ctypes.c_void_p, blocks: int, threads: int, words: List[Any]) -> None:
        """Run a kernel and wait for its end."""
        pointers = (ctypes.c_void_p * len(words))(
            *(ctypes.cast(ctypes.pointer(word), ctypes.c_void_p) for word in words)
        )
        one = ctypes.c_uint(1)
        grid = (ctypes.c_uint(blocks), one, one, ctypes.c_uint(threads), one, one)
        none = ctypes.c_void_p()
        self.call("cuLaunchKernel", function, *grid, ctypes.c_uint(0), none, pointers, none)
        self.call("cuCtxSynchronize")
