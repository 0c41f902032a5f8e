"""Stepping into a network namespace for a moment, with this thread alone."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def path_of(name: str) -> str:
    """A named namespace's file, as seen inside the lab."""
    return f"/run/netns/{name}"


@contextmanager
def entered(path: str) -> Iterator[None]:
    """This thread is in the namespace; sockets made meanwhile stay there for good."""
    with Path("/proc/thread-self/ns/net").open("rb") as home, Path(path).open("rb") as there:
        _setns(there.fileno(), path)
        try:
            yield
        finally:
            _setns(home.fileno(), "the one it came from")


def _setns(descriptor: int, name: str) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"cannot enter the network namespace {name}: {os.strerror(error)}")
