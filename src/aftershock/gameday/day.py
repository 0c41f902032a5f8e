"""A game day as it goes: pauses, gates, confirmations and runs, in the plan's order.

Every decision is in the record before what it decides is done. Whatever ends the day (an order, a
signal, a safeguard) first ends the current run in order, which heals it.
"""

from __future__ import annotations

import contextlib
import select
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import FrameType
from typing import Any, TextIO

from aftershock.gameday import orders
from aftershock.gameday.asking import Answer, World, ask
from aftershock.gameday.calendar import length
from aftershock.gameday.news import News
from aftershock.gameday.plan import END, Plan, Question, Step
from aftershock.gameday.record import SKIPPED, Record
from aftershock.gameday.running import ChildRun, Outcome
from aftershock.gameday.safeguards import Safeguards
from aftershock.gameday.targets import Targets, told
from aftershock.lock import user_name

POLL_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Day:
    """One day on its way. `scheduled`: the calendar's windows bind it. Runs in the main thread."""

    def __init__(
        self, plan: Plan, record: Record, targets: Targets, scheduled: bool, show: TextIO
    ) -> None:
        self.plan, self.record, self.targets = plan, record, targets
        self._scheduled, self._show = scheduled, show
        self._signal = ""
        self._seen: set[str] = set()
        self._ordered: Any = None
        self._answer: bool | None = None
        self._news = News(plan.notify, plan.path.parent, self._delivered)
        self._guards = Safeguards((), World(plan.path.parent, {}))

    def hold(self, steps: list[Step]) -> str:
        """Go through the steps that are not done yet; the day's word."""
        record = self.record.told
        if steps:
            self._guards = Safeguards(self.plan.safeguards, self._world(steps[0]))
        with self._listening():
            self._tell(f"{self.plan.title}: begins, {len(steps)} runs ({self.record.folder.name})")
            self._guards.start()
            try:
                for step in steps:
                    if step.key not in record.runs and not self._reason():
                        self._take(step)
            finally:
                self._guards.stop()
                self._end()
        return record.word

    def _take(self, step: Step) -> None:
        """One step, up to its verdict."""
        self._guards.world = self._world(step)
        if step.pause_s:
            self._say(f"{step.key}: pause of {length(step.pause_s)}")
            self.record.note("pause", run=step.key, seconds=step.pause_s)
            self._wait(step.pause_s)
        if self._reason() or self._is_closed():
            return
        if (no := self._no_go(step)) is not None:
            self._skip(step, f"gate said no: {no}")
            return
        if not self._confirmed(step):
            return
        self._run(step)

    def _run(self, step: Step) -> None:
        child = ChildRun(step, self.record.folder, self.plan.path.parent, self.targets.token)
        self.record.note(
            "run begun",
            run=step.key,
            experiment=step.experiment.name,
            repetition=step.repetition,
            drawn=step.drawn,
            variables=step.variables,
            child=child.identity,
        )
        self._say(f"{step.key}: begins {_drawn(step)}".rstrip())
        outcome = child.wait(self._reason, self._show)
        ended(self.record, step.key, outcome)
        self._tell(f"{step.key}: {outcome.verdict}{': ' if outcome.why else ''}{outcome.why}")

    # What may keep a run from beginning

    def _is_closed(self) -> bool:
        """Whether the calendar's window has closed meanwhile, which ends the day."""
        calendar = self.plan.calendar if self._scheduled else None
        if calendar and (why := calendar.closed(datetime.now(UTC))):
            self._stop(f"the calendar: {why}")
            return True
        return False

    def _no_go(self, step: Step) -> str | None:
        """Ask every gate, for the record; the first no, or None."""
        world = self._world(step)
        noes: list[tuple[Question, Answer]] = []
        for question in (*self.plan.gates, *step.experiment.gates):
            answer = ask(question, world)
            self.record.note(
                "gate", run=step.key, name=answer.name, go=answer.go, value=answer.value
            )
            self._say(f"{step.key}: {answer}")
            if not answer.go:
                noes.append((question, answer))
        for question, answer in noes:
            if question.otherwise == END:
                self._stop(f"gate said no: {answer}")
        return str(noes[0][1]) if noes else None

    def _confirmed(self, step: Step) -> bool:
        """Whether somebody who may says yes in time."""
        wanted = step.experiment.confirm
        if wanted is None:
            return True
        self._answer = None
        self.record.note("asked", run=step.key, text=wanted.ask, within_s=wanted.within_s)
        self._tell(
            f"{step.key}: {wanted.ask} (within {length(wanted.within_s)}, "
            f"`aftershock gameday confirm {self.record.folder.name}`; no answer means no)"
        )
        self._wait(wanted.within_s, typed=True)
        if self._reason():
            return False
        if self._answer is None:
            self.record.note("answered", run=step.key, yes=False, by="nobody, in time")
        if not self._answer:
            self._skip(
                step, "not confirmed" if self._answer is False else "nobody confirmed in time"
            )
        return bool(self._answer)

    def _skip(self, step: Step, why: str) -> None:
        self.record.note("run skipped", run=step.key, verdict=SKIPPED, why=why)
        self._tell(f"{step.key}: skipped: {why}")

    # What may end the day

    def _reason(self) -> str:
        """Why the day is to end, or nothing. Looks at orders, signals and safeguards."""
        if not self.record.told.stopped:
            self._look_at_orders()
        if self._signal:
            self._stop(f"{self._signal}: somebody ended the day's process")
        if self._guards.tripped:
            self._stop(f"safeguard said no: {self._guards.tripped}")
        return self.record.told.stopped

    def _look_at_orders(self) -> None:
        for order in orders.received(self.record.folder, self._seen):
            self._obey(order)
        said = self.targets.order
        if said and said != self._ordered:
            self._ordered = said
            self._obey(
                orders.Order(
                    str(said.get("what")),
                    str(said.get("by")),
                    str(said.get("at")),
                    str(said.get("why") or ""),
                )
            )

    def _obey(self, order: orders.Order) -> None:
        listed = self.plan.may_abort if order.what == orders.ABORT else self.plan.may_confirm
        if not orders.may(order.by, listed):
            self.record.note("refused", what=order.what, by=order.by, asked_at=order.at)
            self._say(f"{order.what} by {order.by} refused: the plan does not name them")
        elif order.what == orders.ABORT:
            self._stop(
                f"aborted by {order.by} at {order.at}{': ' if order.why else ''}{order.why}",
                by=order.by,
            )
        else:
            self._answer = order.what == orders.CONFIRM
            self.record.note("answered", yes=self._answer, by=order.by, why=order.why)

    def _stop(self, why: str, **detail: Any) -> None:
        if not self.record.told.stopped:
            self.record.note("stopped", why=why, **detail)
            self._tell(f"{self.plan.title}: ends early: {why}")

    def _wait(self, seconds: float, typed: bool = False) -> None:
        """Until the time is over, the day is to end, or (`typed`) somebody has answered."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._reason():
            if typed and self._answer is not None:
                return
            if typed and sys.stdin is not None and sys.stdin.isatty():
                self._read(min(POLL_S, left))
            else:
                time.sleep(min(POLL_S, left))

    def _read(self, seconds: float) -> None:
        """An answer that is typed here."""
        if select.select([sys.stdin], [], [], seconds)[0]:
            self._answer = sys.stdin.readline().strip().lower() in ("y", "yes")
            self.record.note("answered", yes=self._answer, by=f"{user_name()}, typed here")

    # The record, and who hears of it

    def _end(self) -> None:
        word = self.record.told.word
        self.record.note("ended", verdict=word)
        self._tell(f"{self.plan.title}: {word} ({self.record.folder.name})")
        self._news.close()

    def _delivered(self, name: str, text: str, there: bool, tries: int, why: str) -> None:
        self.record.note("notified", name=name, text=text, there=there, tries=tries, why=why)

    def _tell(self, text: str) -> None:
        self._say(text)
        self._news.tell(text)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
            self._show.write(f"{time.strftime('%H:%M:%S')}   {text}\n")
            self._show.flush()

    def _world(self, step: Step) -> World:
        folder = self.plan.path.parent
        variables = {**step.experiment.defaults, **step.variables, "target": told(step, folder)[0]}
        return World(folder, variables, self.targets.token)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals only say that the day is to end: all else is done in order."""

        def heard(number: int, frame: FrameType | None) -> None:
            del frame
            self._signal = self._signal or signal.Signals(number).name

        before = {
            number: signal.signal(number, heard)
            for number in _SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def ended(record: Record, key: str, outcome: Outcome) -> None:
    """A run's end, in the record."""
    record.note(
        "run ended",
        run=key,
        verdict=outcome.verdict,
        why=outcome.why,
        status=outcome.status,
        detail=dict(outcome.detail),
    )


def _drawn(step: Step) -> str:
    return f"({', '.join(f'{name}={value}' for name, value in step.drawn.items())})" * bool(
        step.drawn
    )
