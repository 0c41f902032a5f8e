"""The lab's GPUs: a stand-in for NVML and CUDA that is built from C on first use.

LD_LIBRARY_PATH is read when a process starts, so the pair reaches those that are started with
`environment`; in a running process nothing changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from aftershock.errors import Unsupported

SOURCE = Path(__file__).with_name("mock_gpu.c")
LIBRARIES = {"NVML": "libnvidia-ml.so.1", "CUDA": "libcuda.so.1"}
LEDGER = "MOCKGPU_LEDGER"


def cache_dir() -> Path:
    """XDG_CACHE_HOME/aftershock where it is set, /var/cache/aftershock for root, else ~/.cache."""
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / "aftershock"
    if os.geteuid() == 0:
        return Path("/var/cache/aftershock")
    return Path.home() / ".cache" / "aftershock"


def library_dir() -> Path:
    """Where the pair built from this very source lies, or would."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    return cache_dir() / f"mock-gpu-{digest}"


def build() -> Path:
    """Build the pair unless the cache has it; return its directory. Safe to run side by side."""
    target = library_dir()
    if all((target / name).exists() for name in LIBRARIES.values()):
        return target
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unsupported("the lab's GPUs need a C compiler and there is no `cc`: install gcc")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    except OSError as why:
        raise Unsupported(
            f"cannot write {target.parent}: {why.strerror}; make it writable or set XDG_CACHE_HOME"
        ) from why
    try:
        for flag, name in LIBRARIES.items():
            _compile(compiler, flag, work / name)
        target.mkdir(exist_ok=True)
        for name in LIBRARIES.values():
            (work / name).replace(target / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _compile(compiler: str, flag: str, output: Path) -> None:
    built = subprocess.run(
        [
            *(compiler, "-O2", "-shared", "-fPIC", "-pthread", f"-D{flag}"),
            *(f"-Wl,-soname,{output.name}", "-o", str(output), str(SOURCE)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise Unsupported(f"{compiler} could not build {output.name}: {built.stderr.strip()}")


def environment(libraries: str, ledger: str) -> dict[str, str]:
    """What a process is started with so that pynvml and libcuda's users meet the mock."""
    path = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{libraries}:{path}" if path else libraries, LEDGER: ledger}
