"""Pods killed again and again for a while, by a seed.

A thread of this process kills, so it ends with the controller, whatever ends that; it ends with its
lease, too. What is dead by then is replaced by its owner, so nothing is left to take back.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from aftershock.capacity.choosing import Choice, NothingMatches, TooMuch
from aftershock.capacity.pods import Ending, PodFault
from aftershock.cluster import Cluster, Pod, pods
from aftershock.errors import AftershockError, InvalidFault, NotApplied, NotReverted
from aftershock.evidence import Piece
from aftershock.inventory import Node

SPREAD = 0.5  # an interval is drawn from half to one and a half of what was asked
_SHORTEST_S, _LONGEST_S = 0.1, 24 * 3600.0
_STOPS_S = 10.0


class RepeatedKill(PodFault):
    """Kill a choice of pods now, and a new one after each interval, until it is stopped.

    `interval_s`: seconds from one round to the next on average; each is drawn by the choice's seed.
    A round whose choice is empty is left out and counted; a pod that a round chose is gone before
    the next. `lease_s`: it stops by itself after so many seconds.
    """

    kind = "repeated-pod-kill"
    momentary = False

    def __init__(
        self,
        cluster: Cluster,
        nodes: Sequence[Node],
        choice: Choice,
        ending: Ending | None = None,
        *,
        interval_s: float = 10.0,
        lease_s: float = 120.0,
        **more: Any,
    ) -> None:
        super().__init__(cluster, nodes, choice, **more)
        for name, value in (("interval_s", interval_s), ("lease_s", lease_s)):
            if not isfinite(value) or not _SHORTEST_S <= value <= _LONGEST_S:
                raise InvalidFault(f"{name} is {value}: seconds, from {_SHORTEST_S:g} to a day")
        self.ending = ending or Ending()
        self.interval_s, self.lease_s = interval_s, lease_s
        self.rounds: list[dict[str, Any]] = []
        self.reverted = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended_at: float | None = None
        self._ordered_at: float | None = None
        self._killed: list[Pod] = []

    def parameters(self) -> dict[str, Any]:
        """The choice, the rounds so far: when, seconds from the first, and who."""
        told = {"interval_s": self.interval_s, "lease_s": self.lease_s}
        return {**super().parameters(), **told, "rounds": list(self.rounds)}

    @property
    def ended(self) -> Sequence[Pod]:
        """What every round chose."""
        return tuple(self._killed)

    @property
    def healed_early(self) -> bool:
        """Whether the lease was over before anybody ordered it to stop."""
        if self._ended_at is None:
            return False
        return self._ordered_at is None or self._ended_at < self._ordered_at

    def fire(self) -> float:
        """Kill the first choice, and go on in the background."""
        started = time.monotonic()
        self._failed = pods.kill(self.cluster, self.pods, self.ending.told_s)
        if len(self._failed) == len(self.pods):
            self.reverted = True
            raise NotApplied(f"{self.kind}: {next(iter(self._failed.values()))}")
        self._note_firing(started)
        self._note_round(started, self.pods)
        self._thread = threading.Thread(target=self._go_on, name="keeps killing pods", daemon=True)
        self._thread.start()
        return started

    def observe(self) -> dict[str, Any]:
        """Whether the first choice is gone, looked up anew."""
        patience_s = self.ending.deadline_s or self.ending.patience_s
        return self._look(pods.wait_gone(self.cluster, self.pods, patience_s))

    def stop(self) -> None:
        """Kill no more from now on, without waiting for what is under way. Idempotent."""
        if self._ordered_at is None:
            self._ordered_at = time.monotonic()
        self._stop.set()

    def revert(self) -> None:
        """Stop; returns when no more is killed. Idempotent."""
        if self.reverted:
            return
        self.stop()
        if self._thread is not None:
            self._thread.join(_STOPS_S)
            if self._thread.is_alive():
                raise NotReverted(f"{self.kind}: a request still hangs; it ends with this process")
            self.pieces += self._afterwards()
        self.reverted = True

    def touches(self) -> list[str]:
        """The first to go, and what comes after them."""
        more = f"then others every {self.interval_s:g} s or so, for {self.lease_s:g} s"
        return [*super().touches(), f"{more}, chosen by {self.choice}"]

    def _afterwards(self) -> list[Piece]:
        """What is known of it once it has stopped."""
        ok, seen = self._every_round()
        return [Piece("every round", node.name, ok, seen) for node in self.nodes]

    def _every_round(self) -> tuple[bool | None, str]:
        """Whether all that every round chose is gone, and no round failed; looked up anew."""
        failed = [one["failed"] for one in self.rounds if "failed" in one]
        told = f"{len(self.rounds)} rounds, {len(self._killed)} pods"
        if failed:
            return False, f"{told}: {failed[0]}"
        try:
            left = pods.wait_gone(self.cluster, self._killed, _STOPS_S)
        except AftershockError as error:
            return None, f"{told}: not looked up: {error}"
        names = ", ".join(pod.name for pod in left)
        said = f"still there: {names}" if left else "all gone"
        return not left, f"{told}: {said}"

    def _go_on(self) -> None:
        chance = random.Random(self.choice.seed)
        until = (self.fired_at or time.monotonic()) + self.lease_s
        due, last = self.fired_at or time.monotonic(), list(self.pods)
        try:
            while True:
                due = self._after(due, chance)
                if self._stop.wait(max(0.0, min(due, until) - time.monotonic())):
                    return
                if time.monotonic() >= until:
                    return
                last = self._round(replace(self.choice, seed=chance.randrange(2**32)), last)
        finally:
            self._ended_at = time.monotonic()

    def _after(self, due: float, chance: random.Random) -> float:
        """When the next round is due."""
        return due + self.interval_s * chance.uniform(1 - SPREAD, 1 + SPREAD)

    def _round(self, choice: Choice, last: list[Pod]) -> list[Pod]:
        """One more round; what an API refuses or doesn't answer is noted, and tried next time."""
        began = time.monotonic()
        try:
            self._end_late(last)
            chosen = self._chosen(choice)
            errors = pods.kill(self.cluster, chosen, self.ending.told_s)
            if errors:
                raise next(iter(errors.values()))
        except (NothingMatches, TooMuch) as error:
            self._note_round(began, [], skipped=str(error))
        except AftershockError as error:
            self._note_round(began, [], failed=str(error))
            return last
        else:
            self._note_round(began, chosen)
            return chosen
        return []

    def _end_late(self, last: Sequence[Pod]) -> None:
        if self.ending.deadline_s and last:
            left = pods.still_there(self.cluster, last)
            pods.kill(self.cluster, left, 0)

    def _note_round(self, at: float, chosen: Sequence[Pod], **why: str) -> None:
        after_s = round(at - (self.fired_at or at), 3)
        self._killed += chosen
        self.rounds.append({"after_s": after_s, "pods": [pod.name for pod in chosen], **why})
