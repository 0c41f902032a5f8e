"""The engine's core: a process of its own that holds the GPU, as vLLM's EngineCore does.

The API's process tells it what kernels ran and waits for its answer now and then, so that a core
which hangs stops the tokens, and nothing else: `/health` still answers. Spoken to in JSON lines on
its standard input, a socket:

    {"do": "memory"}           → {"free": …, "total": …}
    {"do": "allocate", "bytes": …} → {}
    {"do": "ran", "seconds": …}    → {"stretch": …}, how many times as long it takes

An answer with `failed` says what the driver said. It ends with whoever began it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from typing import Any

from aftershock.lab.model_server.device import CudaDevice, DeviceError

_DEATHSIG = 1


def main() -> None:
    """Answer until the API's process is gone."""
    ctypes.CDLL(None).prctl(_DEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the API's process has it, and ends us
    device: CudaDevice | None = None
    with socket.socket(fileno=0) as line, line.makefile("rw") as stream:
        for text in stream:
            try:
                device = device or CudaDevice()
                answer = _answer(device, json.loads(text))
            except DeviceError as error:
                answer = {"failed": str(error)}
            stream.write(json.dumps(answer) + "\n")
            stream.flush()


def _answer(device: CudaDevice, asked: dict[str, Any]) -> dict[str, Any]:
    if asked["do"] == "memory":
        free, total = device.memory()
        return {"free": free, "total": total}
    if asked["do"] == "allocate":
        device.allocate(asked["bytes"])
        return {}
    return {"stretch": device.ran(asked["seconds"])}


if __name__ == "__main__":
    main()
