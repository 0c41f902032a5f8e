"""Safeguards: what must hold all day long; the first that doesn't ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from aftershock.gameday.asking import World, ask
from aftershock.gameday.plan import Question

PATIENCE = 3  # times in a row that a safeguard may not be asked


class Safeguards:
    """Asked each in its own time, in a thread beside the day; `tripped` is the first no.

    `world` is that of the step that is on, for the day to set.
    """

    def __init__(self, questions: Sequence[Question], world: World) -> None:
        self._questions, self.world = questions, world
        self.tripped = ""
        self._over = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._watch, args=(one,), name=f"safeguard {one.name}", daemon=True
            )
            for one in questions
        ]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more; waits for the answer that is on its way."""
        self._over.set()
        for thread, question in zip(self._threads, self._questions, strict=True):
            thread.join(question.timeout_s + 1)

    def _watch(self, question: Question) -> None:
        silent = 0
        while not self._over.is_set():
            began = time.monotonic()
            answer = ask(question, self.world)
            silent = 0 if answer.asked else silent + 1
            if not answer.go and (answer.asked or silent >= PATIENCE):
                self.tripped = self.tripped or str(answer)
                return
            self._over.wait(max(0.0, question.every_s - (time.monotonic() - began)))
