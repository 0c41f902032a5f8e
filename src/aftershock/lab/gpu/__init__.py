"""The lab's GPUs: a stand-in for NVML, CUDA and dcgmi that is built from C on first use.

LD_LIBRARY_PATH is read when a process starts, so the pair reaches those that are started with
`environment`; in a running process nothing changes.
"""

from __future__ import annotations

import os
from pathlib import Path

from aftershock import native

_HERE = Path(__file__).parent
LIBRARIES = {"mock_nvml.c": "libnvidia-ml.so.1", "mock_cuda.c": "libcuda.so.1"}
PROGRAMS = {"mock_dcgmi.c": "dcgmi"}
LEDGER, COUNT, MIG = "MOCKGPU_LEDGER", "MOCKGPU_COUNT", "MOCKGPU_MIG"
CONTIGUOUS = "MOCKGPU_CONTIGUOUS"


def build() -> Path:
    """Build all of it unless the cache has it; return its directory. Safe to run side by side."""
    made = {_HERE / source: file for source, file in {**LIBRARIES, **PROGRAMS}.items()}
    return native.build("mock-gpu", made, list(_HERE.glob("mock_*.[ch]")), "the lab's GPUs")


def environment(
    libraries: str, ledger: str, count: int = 1, mig: int = 0, contiguous: bool = False
) -> dict[str, str]:
    """What a process is started with so that pynvml, libcuda's users and `dcgmi` meet the mock.

    `count`: how many cards the node has; `mig`: into how many instances each is split, 0 for none.
    `contiguous`: an allocation needs a hole of its size, as on no real card that maps memory in
    pages.
    """
    path = os.environ.get("LD_LIBRARY_PATH")
    return {
        "LD_LIBRARY_PATH": f"{libraries}:{path}" if path else libraries,
        "PATH": f"{libraries}:{os.environ.get('PATH', os.defpath)}",
        LEDGER: ledger,
        COUNT: str(count),
        MIG: str(mig),
        CONTIGUOUS: str(int(contiguous)),
    }
