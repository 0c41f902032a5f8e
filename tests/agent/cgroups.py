"""Cgroups of the tests' own, of either version, looked at without our own code."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

V1 = Path("/sys/fs/cgroup/memory").is_dir()
# So much memory, then nothing until it is told something.
HOLDER = """
import sys
held = bytearray(int(sys.argv[1]) << 20)
for at in range(0, len(held), 4096): held[at] = 1
print("up", flush=True)
import time
time.sleep(600)
"""


class Group:
    """A cgroup named the same for every controller; `path` as /proc/PID/cgroup has it."""

    def __init__(self, *controllers: str) -> None:
        name = f"aftershock-test-{secrets.token_hex(3)}"
        self.folders: dict[str, Path] = {}
        self.path = f"/{name}"
        for controller in controllers:
            root = Path("/sys/fs/cgroup", controller) if V1 else Path("/sys/fs/cgroup")
            self.folders[controller] = root / name

    def make(self) -> None:
        for controller, folder in self.folders.items():
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                pytest.skip(f"no cgroup can be made here for {controller}: {error}")

    def join(self, pid: int) -> None:
        for folder in set(self.folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def read(self, controller: str, v1: str, v2: str) -> str:
        return (self.folders[controller] / (v1 if V1 else v2)).read_text().strip()

    @property
    def memory_limit(self) -> str:
        return self.read("memory", "memory.limit_in_bytes", "memory.max")

    @property
    def oom_kills(self) -> int:
        text = self.read("memory", "memory.oom_control", "memory.events")
        return int(dict(line.split() for line in text.splitlines())["oom_kill"])

    @property
    def pids_limit(self) -> str:
        return self.read("pids", "pids.max", "pids.max")

    def remove(self) -> None:
        tops = set(self.folders.values())
        nested = [one for top in tops for one in top.rglob("*") if one.is_dir()]
        for folder in (*sorted(nested, reverse=True), *tops):
            for _ in range(100):
                with suppress(FileNotFoundError):
                    for pid in (folder / "cgroup.procs").read_text().split():
                        with suppress(ProcessLookupError):
                            os.kill(int(pid), 9)
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)
                else:
                    break
            assert not folder.exists()


@contextmanager
def group(*controllers: str) -> Iterator[Group]:
    """A cgroup until the end, with whatever is in it by then."""
    made = Group(*controllers)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def require() -> None:
    """Skip where no cgroup can be made."""
    with group("memory", "cpu", "pids"):
        pass


@contextmanager
def running(*words: str, within: Group | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that says a line when it is ready; all of its session ends with it."""
    process = subprocess.Popen(
        [*_within(within), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        process.stdout.readline()
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _within(group: Group | None) -> list[str]:
    """It goes there before it is what it is to be, so that its memory is counted there."""
    if group is None:
        return []
    files = " ".join(str(folder / "cgroup.procs") for folder in set(group.folders.values()))
    return ["sh", "-c", f'for f in {files}; do echo $$ >$f || exit 1; done; exec "$@"', "sh"]
