"""A host of its own with mock GPUs, and processes that use them; through unmodified pynvml."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from aftershock.inventory import Node
from aftershock.lab import gpu

MIB = 1 << 20
USER = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
assert cuda.cuInit(0) == 0
context = ctypes.c_void_p()
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
address, size = ctypes.c_uint64(), ctypes.c_size_t(int(sys.argv[1]) << 20)
print(cuda.cuMemAlloc_v2(ctypes.byref(address), size), flush=True)
for line in sys.stdin:
    print(cuda.cuCtxSynchronize() or cuda.mockgpu_ran(ctypes.c_uint64(int(line))), flush=True)
"""
READ = """
import json, sys, pynvml as n
n.nvmlInit()
for line in sys.stdin:
    found = []
    for index in range(n.nvmlDeviceGetCount()):
        card = n.nvmlDeviceGetHandleByIndex(index)
        found.append({"used_mib": n.nvmlDeviceGetMemoryInfo(card).used >> 20,
                      "busy": n.nvmlDeviceGetUtilizationRates(card).gpu,
                      "mhz": n.nvmlDeviceGetClockInfo(card, n.NVML_CLOCK_SM),
                      "watts": n.nvmlDeviceGetPowerManagementLimit(card) / 1000,
                      "uuid": n.nvmlDeviceGetUUID(card),
                      "users": [p.pid for p in n.nvmlDeviceGetComputeRunningProcesses(card)]})
    print(json.dumps(found), flush=True)
"""


class Reader:
    """A process that reads NVML whenever it is asked."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.pid, self._process = process.pid, process
        self._lock = Lock()

    def read(self) -> list[dict[str, Any]]:
        """What NVML tells it now."""
        assert self._process.stdin and self._process.stdout
        with self._lock:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            return list(json.loads(self._process.stdout.readline()))


class Cards:
    """The GPUs of one host."""

    def __init__(
        self, folder: Path, count: int = 2, mig: int = 0, contiguous: bool = False
    ) -> None:
        self.ledger = folder / "cards"
        self.env = gpu.environment(str(gpu.build()), str(self.ledger), count, mig, contiguous)
        self.node = Node("gpu-host", "none", ("127.0.0.1",), devices=(), env=self.env)

    def read(self) -> list[dict[str, Any]]:
        """What NVML tells an onlooker."""
        return list(json.loads(self._python(READ, "\n")))

    @contextmanager
    def reader(self) -> Iterator["Reader"]:
        """An onlooker who stays, to be asked often."""
        with self.asking(READ) as one:
            yield Reader(one)

    @contextmanager
    def asking(self, code: str) -> Iterator["subprocess.Popen[str]"]:
        """A process that answers a line by a line."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        env = {**os.environ, **self.env}
        with subprocess.Popen([sys.executable, "-c", code], env=env, **pipes) as one:
            try:
                yield one
            finally:
                one.kill()

    def used(self) -> list[int]:
        """Used memory of each, in MiB."""
        return [card["used_mib"] for card in self.read()]

    def control(self, index: int, **settings: int) -> None:
        """What no driver does when told to (mock_nvml.c): lost, throttled, uncorrected, xid."""
        numbers = {"lost": 0, "throttled": 1, "uncorrected": 2, "xid": 3}
        for name, value in settings.items():
            what = numbers[name]
            call = f"mockgpu_set({index}, {what}, ctypes.c_ulonglong({value}))"
            self._python(f"import ctypes; ctypes.CDLL('libnvidia-ml.so.1').{call}")

    def mode(self, index: int, mode: int) -> None:
        """As `nvidia-smi -c` does."""
        self._set("nvmlDeviceSetComputeMode", index, mode)

    def persist(self, index: int) -> None:
        """As `nvidia-smi -pm 1` does."""
        self._set("nvmlDeviceSetPersistenceMode", index, 1)

    def limit_w(self, index: int, watts: int) -> None:
        """As `nvidia-smi -pl` does."""
        self._set("nvmlDeviceSetPowerManagementLimit", index, watts * 1000)

    def _set(self, setter: str, index: int, value: int) -> None:
        self._python(
            "import pynvml as n; n.nvmlInit(); "
            f"n.{setter}(n.nvmlDeviceGetHandleByIndex({index}), {value})"
        )

    def _python(self, code: str, told: str = "") -> str:
        command = [sys.executable, "-c", code]
        env = {**os.environ, **self.env}
        return subprocess.run(
            command, env=env, input=told, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    @contextmanager
    def user(
        self, mib: int, index: int = 0, more: Mapping[str, str] | None = None
    ) -> Iterator["subprocess.Popen[str]"]:
        """Somebody who holds memory of a card; it works for so many ns as it is told.

        It says what came of that, first of a synchronisation: CUDA's number for it. `more`: what
        its environment has beside.
        """
        env = {**os.environ, **self.env, "CUDA_VISIBLE_DEVICES": str(index), **(more or {})}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", USER, str(mib)], env=env, **pipes) as one:
            assert one.stdout and one.stdout.readline() == "0\n"
            try:
                yield one
            finally:
                one.kill()


def works(user: "subprocess.Popen[str]") -> int:
    """What CUDA answers a user who works a little; 0 for that all is well."""
    assert user.stdin and user.stdout
    user.stdin.write("1000000\n")
    user.stdin.flush()
    return int(user.stdout.readline())
