"""Calls of a Kubernetes API that are under way; the process ends after them, not in their midst.

The client's validation (pydantic's) is native code, and a thread that Python ends within it, when
the process ends, takes the process down with SIGABRT: with another exit status than the verdict's.
"""

from __future__ import annotations

import atexit
import os
import threading
from types import TracebackType

from aftershock.cluster.refusals import NoAccess

_LONGEST_S = 30.0  # with the client's own retries


class _UnderWay:
    """Entered for each call. `end`: nobody enters any more, and who is in is waited for."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._changed = threading.Condition()
        self._count, self._ended = 0, False

    def __enter__(self) -> None:
        with self._changed:
            if self._ended:
                raise NoAccess("the Kubernetes API is not asked any more: this process ends")
            self._count += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.wait_for(lambda: self._count == 0, _LONGEST_S)


under_way = _UnderWay()
atexit.register(under_way.end)
os.register_at_fork(after_in_child=under_way.begin)  # others' calls are not the child's
