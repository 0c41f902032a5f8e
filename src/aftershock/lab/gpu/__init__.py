"""The lab's GPUs: a stand-in for NVML, CUDA and dcgmi that is built from C on first use.

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

_HERE = Path(__file__).parent
LIBRARIES = {"mock_nvml.c": "libnvidia-ml.so.1", "mock_cuda.c": "libcuda.so.1"}
PROGRAMS = {"mock_dcgmi.c": "dcgmi"}
LEDGER, COUNT = "MOCKGPU_LEDGER", "MOCKGPU_COUNT"
_MADE = {**LIBRARIES, **PROGRAMS}


def cache_dir() -> Path:
    """XDG_CACHE_HOME/aftershock where it is set, /var/cache/aftershock for root, else ~/.cache."""
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / "aftershock"
    if os.geteuid() == 0:
        return Path("/var/cache/aftershock")
    return Path.home() / ".cache" / "aftershock"


def library_dir() -> Path:
    """Where the pair built from this very source lies, or would."""
    digest = hashlib.sha256()
    for path in sorted(_HERE.glob("mock_*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return cache_dir() / f"mock-gpu-{digest.hexdigest()[:16]}"


def build() -> Path:
    """Build the pair unless the cache has it; return its directory. Safe to run side by side."""
    target = library_dir()
    if all((target / name).exists() for name in _MADE.values()):
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
        for source, name in _MADE.items():
            _compile(compiler, _HERE / source, work / name)
        target.mkdir(exist_ok=True)
        for name in _MADE.values():
            (work / name).replace(target / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _compile(compiler: str, source: Path, output: Path) -> None:
    shared = ("-shared", "-fPIC", f"-Wl,-soname,{output.name}") if ".so" in output.name else ()
    built = subprocess.run(
        [compiler, "-O2", "-pthread", *shared, "-o", str(output), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise Unsupported(f"{compiler} could not build {output.name}: {built.stderr.strip()}")


def environment(libraries: str, ledger: str, count: int = 1) -> dict[str, str]:
    """What a process is started with so that pynvml, libcuda's users and `dcgmi` meet the mock.

    `count`: how many cards the node has.
    """
    path = os.environ.get("LD_LIBRARY_PATH")
    return {
        "LD_LIBRARY_PATH": f"{libraries}:{path}" if path else libraries,
        "PATH": f"{libraries}:{os.environ.get('PATH', os.defpath)}",
        LEDGER: ledger,
        COUNT: str(count),
    }
