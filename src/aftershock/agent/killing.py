"""A step that kills chosen processes, once or again and again; there is nothing to take back.

Each is held by a pidfd before it is looked at, so what is killed is what was looked at, whoever is
given its number meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import time
from typing import Any, Dict, List, Mapping

from . import chosen
from .classifier import check_options
from .clock import boottime, start_ticks
from .errors import AgentError, CannotDo, Invalid

_OPTIONS = ("chosen", "times", "every_s", "seed", "signal")
_SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM}
_MOST, _LONGEST_S = 10_000, 86_400
_ENDED_S = 1.0


class Kill:
    """Processes that end by order. A turn whose processes aren't there (yet) is waited for."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        chosen.check(options["chosen"])
        if not 1 <= options["times"] <= _MOST:
            raise Invalid(f"kill: times {options['times']}: 1 to {_MOST}")
        if not 0 < options["every_s"] <= _LONGEST_S:
            raise Invalid(f"kill: every_s {options['every_s']}: more than 0, at most a day")
        if options["signal"] not in _SIGNALS:
            raise Invalid(f"kill: signal {options['signal']!r}: {' or '.join(_SIGNALS)}")
        self.kind = "kill"
        self.outlives = self.rash = False
        self.about: Dict[str, Any] = {"chosen": dict(options["chosen"])}
        self._times, self._every_s = options["times"], options["every_s"]
        self._signal = _SIGNALS[options["signal"]]
        self._chance = random.Random(options["seed"])
        self._held: Dict[int, int] = {}  # a pidfd for each PID of the first turn
        self._turns = self._killed = 0
        self._due = 0.0  # 0: not now
        self._trouble = ""
        self._injection = injection

    def intent(self) -> Dict[str, Any]:
        """What undoes it: nothing."""
        return {}

    def attach(self) -> Dict[str, Any]:
        """Exactly as many as asked must be there, and be nobody's whom we must not touch."""
        if not hasattr(os, "pidfd_open"):
            raise CannotDo("killing needs pidfds: Python 3.9 and Linux 5.3 or newer")
        self._held = self._hold()
        return {"owned": [], "undo": {}}

    def _hold(self) -> Dict[int, int]:
        choice = self.about["chosen"]
        found = chosen.find_exactly(choice)
        pids = chosen.with_descendants(found) if choice.get("tree") else found
        held: Dict[int, int] = {}
        for pid in pids:
            started = start_ticks(pid)
            with contextlib.suppress(ProcessLookupError):
                number = os.pidfd_open(pid)
                if started is None or start_ticks(pid) != started:
                    os.close(number)  # it ended between the two looks
                    continue
                held[pid] = number
        return held

    def fire(self, until: float) -> None:
        """The first turn."""
        if not self._kill(self._held):
            raise AgentError("kill: its processes have ended since the arming: arm it again")
        self._next()

    def tick(self) -> None:
        """A further turn, when it is due and they run again; never more than were asked for."""
        if not self._due or boottime() < self._due:
            return
        try:
            self._kill(self._hold())
        except AgentError as error:  # not restarted yet, or too many of them
            self._trouble = str(error)
            return
        self._trouble = ""
        self._next()

    def _next(self) -> None:
        self._turns += 1
        wait_s = self._every_s * self._chance.uniform(0.5, 1.5)
        self._due = boottime() + wait_s if self._turns < self._times else 0.0

    def _kill(self, held: Dict[int, int]) -> int:
        """How many of them were there to be killed; returns when they have ended, mostly."""
        hit: List[int] = []
        for number in held.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(number, self._signal)
                hit.append(number)
        until = time.monotonic() + _ENDED_S
        for number in hit if self._signal == signal.SIGKILL else ():
            select.select([number], [], [], max(0.0, until - time.monotonic()))
        for number in held.values():
            os.close(number)
        held.clear()
        self._killed += len(hit)
        return len(hit)

    def shut(self) -> None:
        """Kill no more."""
        self._due = 0.0

    def observe(self) -> Dict[str, Any]:
        """How many turns and processes it were, and why the next turn waits."""
        seen = {"kind": self.kind, "counts": {}, "turns": self._turns, "killed": self._killed}
        return {**seen, "waits": self._trouble}

    def detach(self) -> List[str]:
        """There is nothing to take off."""
        return []

    def close(self) -> None:
        """Let go of those that were held and not killed."""
        for number in self._held.values():
            os.close(number)
        self._held = {}
