"""A worker's clock, brought over to its master's by asking what time it is there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_KEPT = 20  # answers; the quickest tells the most


class Clock:
    """The master's CLOCK_MONOTONIC, as a worker knows it.

    Half the quickest round trip is the error. An offset that is no more than that is taken for
    none, since both may be on one machine, and is part of the error then.
    """

    def __init__(self, own: Callable[[], float] = time.monotonic) -> None:
        self._own = own
        self._heard: deque[tuple[float, float]] = deque(maxlen=_KEPT)  # error, offset
        self.offset_s = self.error_s = 0.0

    def __call__(self) -> float:
        """Seconds on the master's clock."""
        return self._own() + self.offset_s

    def asked(self) -> float:
        """What a question carries along."""
        return self._own()

    def answered(self, asked: float, told: float) -> None:
        """The master's time came back to a question of that moment."""
        now = self._own()
        self._heard.append(((now - asked) / 2, told - (asked + now) / 2))
        error, offset = min(self._heard)
        same = abs(offset) <= error
        self.offset_s = 0.0 if same else offset
        self.error_s = error + abs(offset) if same else error

    @property
    def answers(self) -> int:
        """How many answers came, as far as they are kept."""
        return len(self._heard)
