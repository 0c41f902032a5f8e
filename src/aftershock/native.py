"""What is built from C on first use, and kept by the content of its sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from aftershock.errors import Unsupported


def cache_dir() -> Path:
    """XDG_CACHE_HOME/aftershock where it is set, /var/cache/aftershock for root, else ~/.cache."""
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / "aftershock"
    if os.geteuid() == 0:
        return Path("/var/cache/aftershock")
    return Path.home() / ".cache" / "aftershock"


def build(name: str, made: Mapping[Path, str], sources: Sequence[Path], what: str) -> Path:
    """The folder with what is `made` (source → file); built unless the cache has it.

    `sources` decide whether it is the same. Safe to run side by side. `Unsupported` says what
    needs a compiler (`what`), or what the compiler said.
    """
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    target = cache_dir() / f"{name}-{digest.hexdigest()[:16]}"
    if all((target / file).exists() for file in made.values()):
        return target
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unsupported(f"{what} need a C compiler and there is no `cc`: install gcc")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    except OSError as why:
        raise Unsupported(
            f"cannot write {target.parent}: {why.strerror}; make it writable or set XDG_CACHE_HOME"
        ) from why
    try:
        for source, file in made.items():
            _compile(compiler, source, work / file)
        target.mkdir(exist_ok=True)
        for file in made.values():
            (work / file).replace(target / file)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _compile(compiler: str, source: Path, output: Path) -> None:
    shared = ("-shared", "-fPIC", f"-Wl,-soname,{output.name}") if ".so" in output.name else ()
    built = subprocess.run(
        [compiler, "-O2", "-pthread", *shared, "-o", str(output), str(source), "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise Unsupported(f"{compiler} could not build {output.name}: {built.stderr.strip()}")
