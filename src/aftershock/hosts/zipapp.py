"""The agent as one file: its sources, pyroute2 and pynvml; built when needed, kept by content."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import py_compile
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import aftershock.agent
from aftershock.errors import HostUnreachable

_PACKAGES = {"pyroute2": "pyroute2", "pynvml": "nvidia-ml-py"}
_MAIN = "from aftershock.agent.main import main\nmain()\n"
_LAYOUT = "1"


def agent_file() -> Path:
    """The zipapp's path; building it the first time takes about a second."""
    path = _folder() / f"agent-{_digest()}.pyz"
    if not path.exists():
        _build(path)
    return path


def _folder() -> Path:
    """The user's cache; where that can't be written to, a folder of ours alone in /tmp."""
    spare = Path(tempfile.gettempdir()) / f"aftershock-{os.geteuid()}"
    for folder in (_cache(), spare):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            ours = folder != spare or folder.lstat().st_uid == os.geteuid()
            if ours and os.access(folder, os.W_OK, effective_ids=True):
                return folder
    raise HostUnreachable(
        f"nowhere to keep the agent's file, not in {_cache()}: set XDG_CACHE_HOME to a folder "
        "that you can write to"
    )


def _cache() -> Path:
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "aftershock"
    return Path("/var/cache" if os.geteuid() == 0 else Path.home() / ".cache") / "aftershock"


def _digest() -> str:
    """Of everything that goes in; compiled code belongs to one interpreter."""
    digest = hashlib.sha256(f"{_LAYOUT} {sys.implementation.cache_tag} {_MAIN}".encode())
    for distribution in _PACKAGES.values():
        digest.update(importlib.metadata.version(distribution).encode())
    for path in _agent_sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _agent_sources() -> list[Path]:
    return sorted(Path(aftershock.agent.__path__[0]).glob("*.py"))


def _contents() -> Iterator[tuple[str, Path]]:
    for path in _agent_sources():
        yield f"aftershock/agent/{path.name}", path
    for module in _PACKAGES:
        origin = importlib.util.find_spec(module)
        if origin is None or origin.origin is None:
            raise ModuleNotFoundError(f"{module} is not installed: pip install aftershock")
        source = Path(origin.origin)
        if source.name != "__init__.py":
            yield source.name, source
            continue
        for path in sorted(source.parent.rglob("*.py")):
            yield str(path.relative_to(source.parent.parent)), path


def _build(path: Path) -> None:
    """Sources for any interpreter, and compiled code beside them for one like ours."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        draft = Path(scratch) / "agent.pyz"
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__main__.py", _MAIN)
            archive.writestr("aftershock/__init__.py", "")
            for name, source in _contents():
                archive.write(source, name)
                archive.write(_compiled(source, Path(scratch)), name + "c")
        draft.replace(path)


def _compiled(source: Path, scratch: Path) -> Path:
    # Unchecked: the archive's times are none of the interpreter's business.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compiled = scratch / "module.pyc"
    py_compile.compile(
        str(source), str(compiled), source.name, doraise=True, invalidation_mode=mode
    )
    return compiled
