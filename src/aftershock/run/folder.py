"""A run's folder in the journal: made and checked before anything else, written as the run goes."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aftershock.errors import InvalidInput

LEAST_FREE_MIB = 64
_MIB_PER_H = 80  # at any rate of requests: what a sentinel of 200/s and a lab's gauges add to that
GAME_DAYS = "gamedays"  # the journal's folder for whole days
DAY_LINK = "AFTERSHOCK_DAY_LINK"  # the variable by which a game day names its link to a run


def journal_root() -> Path:
    """`AFTERSHOCK_JOURNAL`, or `journal/` below the working directory."""
    return Path(os.environ.get("AFTERSHOCK_JOURNAL") or Path.cwd() / "journal").absolute()


class RunFolder:
    """`journal/<UTC time>-<experiment>/`: everything that is known of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.RLock()  # activities in the background write too

    @classmethod
    def create(cls, title: str, root: Path | None = None, soak_s: float = 0.0) -> RunFolder:
        """Make the folder, or say in one sentence why it can't be written (`InvalidInput`).

        `soak_s`: how long the run lasts beside what every run does.
        """
        needed_mib = LEAST_FREE_MIB + round(soak_s / 3600 * _MIB_PER_H)
        root = root or journal_root()
        try:
            root.mkdir(parents=True, exist_ok=True)
            free_mib = shutil.disk_usage(root).free / 2**20
            if free_mib < needed_mib:
                raise InvalidInput(
                    f"the disk under {root} has {free_mib:.0f} MiB left and a run needs "
                    f"{needed_mib}: free some, or set AFTERSHOCK_JOURNAL to another disk"
                )
            path = _fresh(root, title)
            _prove_writable(path)
        except OSError as error:
            raise InvalidInput(
                f"the journal can't be written under {root} ({error.strerror or error}): "
                "make it writable, or set AFTERSHOCK_JOURNAL to a folder that is"
            ) from error
        return cls(path)

    def point_latest(self) -> None:
        """Let `journal/latest` point at this run."""
        link = self.path.parent / "latest"
        if link.exists() and not link.is_symlink():
            return  # somebody's own folder of that name
        fresh = self.path.parent / f".latest-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.path.name)
        fresh.replace(link)

    def link_from_game_day(self) -> None:
        """Let the game day that we run in, if any, find us: it names the link it wants."""
        if wanted := os.environ.get(DAY_LINK):
            link = Path(wanted)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(self.path, link.parent))

    def write_json(self, name: str, content: Mapping[str, Any] | list[Any]) -> Path:
        """Write a JSON file whole or not at all."""
        with self._writing:  # read in here too: what was read first must not be written last
            return self.write_text(name, _dumped(content))

    def write_text(self, name: str, content: str) -> Path:
        """Write a text file whole or not at all, on disk before it returns."""
        return self.write_bytes(name, content.encode())

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Write a file whole or not at all, on disk before it returns."""
        target = self.path / name
        fresh = target.with_name(f".{name}.new")
        with self._writing:
            with fresh.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            return fresh.replace(target)


def _dumped(content: Mapping[str, Any] | list[Any]) -> str:
    for _ in range(10):
        try:
            return json.dumps(content, indent=2, default=str, ensure_ascii=False)
        except RuntimeError:  # another thread's activity ended in the middle of it
            continue
    return json.dumps(content, indent=2, default=str, ensure_ascii=False)


def _fresh(root: Path, title: str) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "run"
    for attempt in range(100):
        path = root / (f"{stamp}-{slug}" + (f"-{attempt}" if attempt else ""))
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
    raise InvalidInput(f"{root} already has a hundred runs named {stamp}-{slug}: wait a second")


def _prove_writable(path: Path) -> None:
    # Root may write where a full or read-only file system then refuses: only a write tells.
    with tempfile.NamedTemporaryFile(dir=path) as file:
        file.write(b"0" * 65536)
        file.flush()
        os.fsync(file.fileno())
