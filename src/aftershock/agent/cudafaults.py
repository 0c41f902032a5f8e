"""A step that makes CUDA calls fail in processes that were started with our library.

The order is in a file that they have mapped (cudashim/shim.c). It counts while its time lasts and
this agent holds the file's lock, which the kernel lets go of when the agent ends: nothing outlives.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time
from typing import Any, Dict, List, Mapping, Tuple

from . import chosen
from .classifier import check_options
from .containers import text
from .errors import AgentError, CannotDo, Invalid

LIBRARY, ORDERS = "libaftershock_cuda.so", "AFTERSHOCK_CUDA_FAULT"
_OPTIONS = ("chosen", "calls", "error", "newcomers")
_PIDS, _CALLS = 16, 256
_ORDER = struct.Struct(f"=iIQ{_PIDS}iQ{_CALLS}s")
_ERROR, _FAILED = struct.Struct("=i"), struct.Struct("=Q")
_FAILED_AT = 16 + 4 * _PIDS
_LOCK_S = 2.0


class CudaFault:
    """`calls` (or all that are known) fail with `error`, in chosen processes.

    `newcomers`: in those, too, that are started in their place with the same file of orders.
    """

    kind = "cuda-fault"

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        chosen.check(options["chosen"])
        if len(",".join(options["calls"])) >= _CALLS:
            raise Invalid(f"cuda-fault: too many calls: {_CALLS - 1} letters at most")
        self._options = dict(options)
        self.outlives = self.rash = False
        self.about: Dict[str, Any] = {"chosen": dict(options["chosen"]), "error": options["error"]}
        self._orders: Dict[str, Tuple[int, mmap.mmap]] = {}
        self._pids: Dict[str, List[int]] = {}
        self._failed_before = 0

    def intent(self) -> Dict[str, Any]:
        """What undoes it: the agent's end, by which the kernel lets go of the files' locks."""
        return {}

    def attach(self) -> Dict[str, Any]:
        """Every process must have the library, and its file's lock be free; nothing is felt."""
        for pid in chosen.find_exactly(self._options["chosen"]):
            path = _orders_of(pid)
            self._pids.setdefault(path, []).append(_own_number(pid))
            if path not in self._orders:
                self._orders[path] = _held(path)
        self._failed_before = self._failed()
        return {"owned": [], "undo": {}}

    def fire(self, until: float) -> None:
        """Give the order, its error last."""
        calls = ",".join(self._options["calls"]).encode()
        for path, (_, order) in self._orders.items():
            pids = [] if self._options["newcomers"] else self._pids[path]
            numbers = [*pids, *[0] * (_PIDS - len(pids))]
            words = (0, len(pids), int(until * 1e9), *numbers, self._failed_of(order), calls)
            order[: _ORDER.size] = _ORDER.pack(*words)
            order[: _ERROR.size] = _ERROR.pack(self._options["error"])

    def tick(self) -> None:
        """It lasts by itself."""

    def shut(self) -> None:
        """Take the order back."""
        for _, order in self._orders.values():
            order[: _ERROR.size] = _ERROR.pack(0)

    def _failed_of(self, order: mmap.mmap) -> int:
        return int(_FAILED.unpack_from(order, _FAILED_AT)[0])

    def _failed(self) -> int:
        return sum(self._failed_of(order) for _, order in self._orders.values())

    def observe(self) -> Dict[str, Any]:
        """How many calls were made to fail, as the processes themselves counted."""
        failed = self._failed() - self._failed_before
        return {"kind": self.kind, "counts": {}, "failed": failed, "files": sorted(self._orders)}

    def detach(self) -> List[str]:
        """Let go of the files."""
        self.close()
        return []

    def close(self) -> None:
        """Nothing stays ordered, and nothing held."""
        self.shut()
        for number, order in self._orders.values():
            order.close()
            os.close(number)
        self._orders = {}


def _orders_of(pid: int) -> str:
    """Where a process looks for orders, as it is reached from here."""
    if LIBRARY not in text(f"/proc/{pid}/maps"):
        raise Invalid(
            f"cuda-fault: process {pid} ({chosen.in_a_line(pid)[:60]}) was started without "
            f"{LIBRARY}: start it with LD_PRELOAD and {ORDERS} (docs/gpu.md)"
        )
    for word in text(f"/proc/{pid}/environ").split("\0"):
        name, _, path = word.partition("=")
        if name == ORDERS and path:
            return f"/proc/{pid}/root{path}"
    raise Invalid(f"cuda-fault: process {pid} has no {ORDERS} in its environment: set it")


def _held(path: str) -> Tuple[int, mmap.mmap]:
    try:
        number = os.open(path, os.O_RDWR)
    except OSError as error:
        raise CannotDo(f"cuda-fault: {path}: {os.strerror(error.errno or 0)}") from None
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, number)
        limit = time.monotonic() + _LOCK_S
        while True:  # a process that looks whether it is held has it for a moment
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > limit:
                    raise AgentError(f"cuda-fault: {path} is held by another: end that") from None
                time.sleep(0.01)
        if os.fstat(number).st_size < _ORDER.size:
            raise CannotDo(f"cuda-fault: {path} is no file of orders: did CUDA begin there yet?")
        order = mmap.mmap(number, _ORDER.size)
        stack.pop_all()
        return number, order


def _own_number(pid: int) -> int:
    """A process' number in its own PID namespace."""
    for line in text(f"/proc/{pid}/status").splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return pid
