"""Whether an API can be reached right now: a small question twice a second, beside a long stream.

A stream over a network that drops everything for a few seconds does not break: TCP sends again, and
what happened is told late. A question that went unanswered for as long tells of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from aftershock.cluster.refusals import Refused
from aftershock.cluster.rest import Rest
from aftershock.errors import AftershockError

EVERY_S = 0.5
STALL_S = 1.0  # an answer that is later by this is a stall


class Pulse:
    """Asks until `stop`; calls `stalled` after a stall, with the moment before which all was well.

    `delay_s` is how long the last answer took.
    """

    def __init__(self, rest: Rest, stalled: Callable[[float], None]) -> None:
        self.delay_s = 0.0
        self._rest, self._stalled = rest, stalled
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-pulse", daemon=True)

    def begin(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more. Idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * STALL_S + EVERY_S)

    def _run(self) -> None:
        well = time.monotonic()
        while not self._stopping.wait(EVERY_S):
            asked = time.monotonic()
            try:
                self._rest.get(self._rest.version.get_code, _request_timeout=STALL_S)
            except Refused:
                pass  # it does answer
            except AftershockError:
                continue
            answered = time.monotonic()
            self.delay_s = answered - asked
            if answered - well > EVERY_S + STALL_S:
                self._stalled(well)
            well = answered
