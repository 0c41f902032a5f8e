"""Ctrl-C, SIGTERM and their like during a run: the first ends the method, later ones wait.

Chaos Toolkit turns a SIGTERM inside a Python action into a failure of that one activity, and a
second Ctrl-C during rollbacks drops the rest of them. So a run has handlers of its own: the first
signal raises what Chaos Toolkit takes for an exit with rollbacks, and from then on, or once
rollbacks have begun, a signal only says that the clean-up is already under way.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

AGAIN_S, TRIES = 0.02, 100
# What each raises. 20 and 30 are what Chaos Toolkit's own handlers of the last two exit with.
ENDS: dict[signal.Signals, BaseException] = {
    signal.SIGINT: KeyboardInterrupt(),
    signal.SIGTERM: SystemExit(128 + signal.SIGTERM),
    signal.SIGHUP: SystemExit(128 + signal.SIGHUP),
    signal.SIGUSR1: SystemExit(20),
    signal.SIGUSR2: SystemExit(30),
}


class Interrupts:
    """The signal handlers of one run. Install and restore from the main thread."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self._shielded = False
        self._put_off = 0
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take the signals over."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ENDS:
            # SIGHUP ignored is nohup's wish: it stays.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)

    def shield(self) -> None:
        """From now on a signal is noted and nothing is cut short."""
        self._shielded = True

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._shielded and self._put_off < TRIES and _is_logging(frame):
            self._put_off += 1
            again = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        self.received.append(signal.Signals(number).name)
        if self._shielded:
            with contextlib.suppress(OSError, RuntimeError):
                sys.stderr.write("already cleaning up: this takes a few seconds\n")
            return
        self._shielded = True
        raise ENDS[signal.Signals(number)]


def _is_logging(frame: FrameType | None) -> bool:
    # An exception that strikes between taking a log's lock and using it leaves it taken: the next
    # line of any other thread would wait for ever, and the run with it.
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False
