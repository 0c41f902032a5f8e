"""The lines a person follows while a run goes on, and the words it ends with."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

COLOURS = {"PASS": "32", "FAIL": "31", "INCONCLUSIVE": "33", "FIRED": "31", "back": "32"}
LABEL_WIDTH = 11
WIDTH = 100  # columns of a full line


@dataclass(frozen=True, slots=True)
class Status:
    """What is seen in one second.

    `zones`: zone → share of its servers that are up, 0 to 1; None where nobody checks them.
    """

    phase: str
    throughput_rps: float | None = None
    p99_ms: float | None = None
    error_percent: float | None = None
    gpu_percent: float | None = None
    zones: Mapping[str, float | None] = field(default_factory=dict)

    def line(self, width: int = WIDTH) -> str:
        """The second as a line of fixed columns, shorter ones where `width` is too small."""
        if width < WIDTH:
            return self._short()
        columns = [
            f"{_number(self.throughput_rps, '.0f'):>5} req/s",
            f"p99 {_number(self.p99_ms, '.0f'):>5} ms",
            f"errors {_number(self.error_percent, '.1f'):>5} %",
            f"gpu {_number(self.gpu_percent, '.0f'):>3} %",
            " ".join(f"{zone} {_mark(share)}" for zone, share in self.zones.items()),
        ]
        return "   ".join(columns).rstrip()

    def _short(self) -> str:
        errors = self.error_percent
        columns = [
            f"{_number(self.throughput_rps, '.0f'):>4}/s",
            f"p99 {_number(self.p99_ms, '.0f'):>4} ms",
            f"err {_number(errors, '.0f' if errors and errors > 99.9 else '.1f'):>4} %",
            f"gpu {_number(self.gpu_percent, '.0f'):>2} %",
            " ".join(f"{zone}{_mark(share)}" for zone, share in self.zones.items()),
        ]
        return "  ".join(columns).rstrip()


class Console:
    """Writes whole lines to the terminal; a closed one silences it, never the run."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()
        self._colour = self._stream.isatty()

    def status(self, status: Status) -> None:
        """A second's line, with the time of day before it."""
        self.say(status.phase, status.line(self.width), at=time.time())

    @property
    def width(self) -> int:
        """The terminal's columns; a file's are as many as a line wants."""
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(self._stream.fileno()).columns or WIDTH
        return WIDTH

    def say(self, label: str, text: str, at: float | None = None) -> None:
        """Time of day, a label, the text; what doesn't fit goes below the text."""
        stamp = time.strftime("%H:%M:%S", time.localtime(at))
        gap = "   " if self.width >= WIDTH else " "
        indent = len(stamp) + len(gap) + LABEL_WIDTH
        first, *more = _fold(text, max(self.width - indent, 40))
        self._write(f"{stamp}{gap}{self._paint(label)}{first}")
        for line in more:
            self._write(" " * indent + line)

    def end(self, label: str, lines: Iterable[str]) -> None:
        """The verdict: a label and what belongs to it, indented alike and folded to the width."""
        indent = max(LABEL_WIDTH, len(label) + 1)
        room = max(self.width - indent, 40)
        folded = [part for line in lines for part in _fold(line, room)]
        for number, line in enumerate(folded):
            head = self._paint(label) if number == 0 else " " * indent
            self._write(f"{head}{line}")

    def _paint(self, label: str) -> str:
        padded = f"{label:<{LABEL_WIDTH}}" if len(label) < LABEL_WIDTH else f"{label} "
        colour = COLOURS.get(label)
        return f"\x1b[{colour}m{padded}\x1b[0m" if self._colour and colour else padded

    def _write(self, line: str) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _fold(line: str, room: int) -> list[str]:
    """A path stays whole, however long."""
    if len(line) <= room:
        return [line]
    return textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [line]


def _mark(share: float | None) -> str:
    if share is None:
        return "?"
    return "●" if share >= 1 else "✗" if share <= 0 else "◐"
