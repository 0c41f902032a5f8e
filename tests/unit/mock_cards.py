"""One node's mock card, and processes that use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from aftershock.lab import gpu

GIB = 1 << 30
HOLD = """
import ctypes, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
assert cuda.cuInit(0) == 0
context = ctypes.c_void_p()
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
address = ctypes.c_uint64()
print(cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(int(sys.argv[1]))), flush=True)
for command in sys.stdin:
    if command == "free\\n":
        print(cuda.cuMemFree_v2(address), flush=True)
    if command == "work\\n":
        print(cuda.mockgpu_ran(ctypes.c_uint64(500_000_000)), flush=True)
"""
LOCKER = """
import ctypes, sys
cuda, state = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(-1)
assert cuda.cuInit(0) == 0
pid = int(sys.argv[2])
if sys.argv[1] == "GetState":
    result = cuda.cuCheckpointProcessGetState(pid, ctypes.byref(state))
else:
    result = getattr(cuda, f"cuCheckpointProcess{sys.argv[1]}")(pid, (ctypes.c_uint64 * 8)())
print(result, state.value)
"""
READ = """
import json, pynvml as n
n.nvmlInit()
card = n.nvmlDeviceGetHandleByIndex(0)
uuid = n.nvmlDeviceGetUUID(card)
n.nvmlDeviceGetHandleByUUID(uuid)
memory = n.nvmlDeviceGetMemoryInfo(card)
version_2 = n.nvmlDeviceGetMemoryInfo(card, n.nvmlMemory_v2)
assert memory.used == version_2.used + version_2.reserved
assert memory.free == version_2.free == memory.total - memory.used
print(json.dumps({
    "count": n.nvmlDeviceGetCount(), "name": n.nvmlDeviceGetName(card), "uuid": uuid,
    "total": memory.total, "used": version_2.used,
    "busy": n.nvmlDeviceGetUtilizationRates(card).gpu,
    "watts": n.nvmlDeviceGetPowerUsage(card) / 1000,
    "celsius": n.nvmlDeviceGetTemperatureV(card, n.NVML_TEMPERATURE_GPU),
    "mhz": n.nvmlDeviceGetClockInfo(card, n.NVML_CLOCK_SM),
    "holders": {p.pid: p.usedGpuMemory for p in n.nvmlDeviceGetComputeRunningProcesses(card)},
}))
n.nvmlShutdown()
"""


class Card:
    """One node's card."""

    def __init__(
        self, ledger: Path, count: int = 1, mig: int = 0, contiguous: bool = False
    ) -> None:
        made = gpu.environment(str(gpu.build()), str(ledger), count, mig, contiguous)
        self.env = {**os.environ, **made}

    def asked(self, code: str, **more: str) -> Any:
        command, env = [sys.executable, "-c", code], {**self.env, **more}
        ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return json.loads(ran.stdout)

    def read(self) -> dict[str, Any]:
        command = [sys.executable, "-c", READ]
        ran = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True)
        return dict(json.loads(ran.stdout))

    def hold(self, size: int, code: str = HOLD, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(size)],
            env={**self.env, **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def lock(self, verb: str, pid: int) -> list[int]:
        """What a process of its own is told by cuCheckpointProcess…: the result, the state."""
        command = [sys.executable, "-c", LOCKER, verb, str(pid)]
        ran = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True)
        return [int(word) for word in ran.stdout.split()]


def say(process: subprocess.Popen[str], command: str = "") -> int:
    assert process.stdin
    assert process.stdout
    if command:
        process.stdin.write(f"{command}\n")
        process.stdin.flush()
    return int(process.stdout.readline())
