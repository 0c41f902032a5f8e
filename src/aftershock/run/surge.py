"""A step of the load, told and judged as a fault is: more requests a second, until ordered away.

The added load comes from a second open-loop generator beside the first one; both feed one timeline.
It is found in what the service's gateway counted (on the lab), or else in what the service
answered, not in what the generator says of itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aftershock import run as runs
from aftershock.errors import InvalidFault, NotApplied
from aftershock.evidence import Piece, bites
from aftershock.inventory import Node
from aftershock.load.calibration import check_rate
from aftershock.load.generator import Generator
from aftershock.load.open_calls import OpenCalls
from aftershock.load.settings import LoadSettings, Stage
from aftershock.run import NoRun, wording
from aftershock.slo.timeline import FOR_EVER, LOAD, Timeline

if TYPE_CHECKING:
    from aftershock.run.session import Run

KIND = "load-step"
SEEN_SHARE = 0.6  # of what is added must be seen: arrivals are random, and a second is short
LOOK_S, WITHIN_S = 1.0, 6.0
_WORKERS = 1000  # its workers are numbered from here


def step_load(add_rps: float, lease_s: float = 120.0) -> dict[str, Any]:
    """See `aftershock.actions.load.step_load`."""
    run = runs.current()
    added, lease = wording.number("add_rps", add_rps), wording.number("lease_s", lease_s)
    step = Surge(run, added, lease)
    return run.breaking.inject(lambda _: [step])


def end_step() -> dict[str, Any]:
    """See `aftershock.actions.load.end_step`."""
    return runs.current().breaking.heal_kinds((KIND,))


class Surge:
    """The life of a load step, as a run sees its injections."""

    def __init__(self, run: Run, add_rps: float, lease_s: float) -> None:
        if not (add_rps > 0 and lease_s > 0):
            raise InvalidFault(
                f"load step of {add_rps:g} requests/s for {lease_s:g} s: both must be above 0"
            )
        self._run = run
        self.add_rps, self.lease_s = add_rps, lease_s
        self.nodes: Sequence[Node] = ()
        self.fired_at: float | None = None
        self.reverted = self._ended_early = False
        self._from_rps = 0.0
        self._generator: Generator | None = None
        self._feed = Beside(run.timeline)
        self._pieces: list[Piece] = []

    @property
    def bit(self) -> bool:
        """Whether the added requests reached the service."""
        return bites(self._pieces)

    def touches(self) -> list[str]:
        """What it would do, in a dry run's words."""
        return [f"the load: {self.add_rps:g} requests/s more, {self.lease_s:g} s at most"]

    def check(self) -> None:
        """There must be a load to add to, and a machine that can send so much."""
        if self._run.load.generator is None:
            raise NoRun("there is no load yet that could be stepped up")
        check_rate(self._run.load.generator.settings, self.add_rps)

    def arm(self) -> None:
        """Nothing is felt, and nothing has to be undone, before the firing."""
        base = self._run.load.generator
        assert base is not None
        stages = (Stage(self.lease_s, self.add_rps),)
        told = beside(base.settings, stages)
        self._generator = Generator(told)

    def fire(self) -> float:
        """Start to send; the moment of the first added request."""
        assert self._generator is not None
        self._from_rps = round(self._run.load.offered_rps(), 3)
        self._generator.start(self._feed)
        self._generator.wait_until_sending()
        if self._feed.first is None:
            raise NotApplied("the added load sent nothing")
        self.fired_at = self._feed.first
        return self.fired_at

    def observe(self) -> dict[str, Any]:
        """Look until the service has more to do by what was added."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            self._pieces = [self._look()]
            if self.bit or time.monotonic() > deadline:
                return self._evidence()

    def _look(self) -> Piece:
        wanted = self._run.load.offered_rps() + SEEN_SHARE * self.add_rps
        target = self._run.target
        if target.lab is not None:
            from aftershock.lab.world import gateway_status

            first = sum(slot.requests_total for slot in gateway_status(target.lab))
            began = time.monotonic()
            time.sleep(LOOK_S)
            count = sum(slot.requests_total for slot in gateway_status(target.lab)) - first
            # The sentinel's probes and golden prompts pass the gateway too.
            others = self._run.settings.probes_rps + self._run.settings.quality_rps
            rate = count / (time.monotonic() - began) - others
            return self._piece("the gateway", rate, rate >= wanted)
        time.sleep(LOOK_S)
        end = self._run.timeline.horizon(LOAD)
        rate = self._run.timeline.window(end - LOOK_S, end).throughput_rps
        # A service that answers less may be overwhelmed by it: that proves nothing either way.
        return self._piece("the service", rate, True if rate >= wanted else None)

    @staticmethod
    def _piece(who: str, rate: float, ok: bool | None) -> Piece:
        return Piece("offered", who, ok, f"{rate:.0f} requests/s")

    def revert(self) -> None:
        """Stop to send, and wait until the processes are gone."""
        if self.reverted:
            return
        if self._generator is not None:
            self._ended_early = self.fired_at is not None and self._is_over()
            self._generator.stop()
            self._feed.end(self._run.levels.limit_s)
        self.reverted = True

    def _evidence(self) -> dict[str, Any]:
        return {"bit": self.bit, "pieces": [piece.to_dict() for piece in self._pieces]}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the journal, in the words of every injection."""
        utc = None
        if self.fired_at is not None:
            moment = datetime.fromtimestamp(self._run.timeline.utc(self.fired_at), UTC)
            utc = moment.isoformat(timespec="milliseconds")
        over = self.reverted or bool(self.fired_at and self._generator and self._is_over())
        return {
            "fault": KIND,
            "parameters": {
                "from_rps": self._from_rps,
                "to_rps": self._from_rps + self.add_rps,
            },
            "hosts": [piece.host for piece in self._pieces],
            "fired_at": utc,
            "fired_at_monotonic_s": self.fired_at,
            "skew_ms": None,
            "lease_s": self.lease_s,
            "bit": self.bit,
            "evidence": self._evidence(),
            "ordered": True if self.reverted and not self._ended_early else None,
            "reverted": self.reverted,
            "healed_early": self._ended_early or (over and not self.reverted),
            "clean": self.reverted,
        }

    def _is_over(self) -> bool:
        """Whether it stopped by itself: its lease ended, or its process died."""
        assert self._generator is not None and self.fired_at is not None
        return not self._generator.alive() or time.monotonic() > self.fired_at + self.lease_s


def beside(settings: LoadSettings, stages: tuple[Stage, ...]) -> LoadSettings:
    """A second load like the first one; workers on other machines have but one master."""
    processes = 1 if settings.workers_at else settings.processes
    told = replace(settings, stages=stages, seed=settings.seed + 1, trace="")
    return replace(told, processes=processes, workers_at="")


class Beside(Timeline):
    """Passes a second generator's messages on to a timeline, so that both count as one load."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._into = timeline
        self._last: dict[int, Mapping[str, Any]] = {}
        self._open = OpenCalls()
        self.first: float | None = None

    def feed(self, message: Mapping[str, Any]) -> None:
        """Number the workers anew and note what is still open."""
        worker = _WORKERS + int(message.get("worker", 0))
        told = {**message, "worker": worker}
        self._open.note(message)
        if self.first is None:
            self.first = self._open.first
        self._last[worker] = told
        self._into.feed(told)

    def end(self, limit_s: float) -> None:
        """Nothing more is due. What was let go unanswered, and was not late yet, is no failure."""
        back = self._open.taken_back(time.monotonic() - limit_s)
        for worker, last in self._last.items():
            plain = {k: v for k, v in last.items() if isinstance(v, int | float | str)}
            self._into.feed(
                {**plain, "decided": FOR_EVER, "in_flight": 0, "worker": worker, **back}
            )
            back = {}
