"""A service that breaks by itself, in a process of its own, and a look at who is alive."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class Service:
    """`service.py` in a process of its own; `events` is what it really did and when."""

    def __init__(self, **plan: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("service.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"port": 0, **plan}) + "\n")
        self.process.stdin.flush()
        self.port = self._next()["port"]
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _next(self) -> dict[str, Any]:
        assert self.process.stdout
        return dict(json.loads(self.process.stdout.readline()))

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def times(self, what: str) -> list[float]:
        return [event[what] for event in self.events if what in event]

    def stop(self) -> None:
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(3)
        self.process.kill()
        self.process.wait()
        self._reader.join(3)
        self.process.stdout.close()


def offspring(pid: int | None = None) -> set[int]:
    """All living descendants of a process, ours by default."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: set[int] = set()
    todo = [pid or os.getpid()]
    while todo:
        fresh = set(children.get(todo.pop(), ())) - found
        found |= fresh
        todo += fresh
    return found
