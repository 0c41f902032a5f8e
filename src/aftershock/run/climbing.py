"""The load is stepped up until the service breaks, and then taken away: where, and does it return?

The steps come from a second generator beside the first. The injection is over when it has climbed:
recovery is counted from the end of the overload, and what is usual from before its beginning.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aftershock import run as runs
from aftershock.errors import InvalidFault, NotApplied
from aftershock.evidence import Piece
from aftershock.load.generator import Generator
from aftershock.load.settings import Stage
from aftershock.report.cliff import sentences
from aftershock.run import wording
from aftershock.run.judging import T_DISTURBED
from aftershock.run.surge import SEEN_SHARE, Surge, beside
from aftershock.run.usage import Usage
from aftershock.slo.cliff import Cliff, Step, find
from aftershock.slo.slots import LAG, merged, percentile_ms
from aftershock.slo.timeline import LOAD
from aftershock.slo.verdict import LAG_SHARE

if TYPE_CHECKING:
    from aftershock.run.session import Run

KIND = "load-climb"
BEYOND = 2  # steps after the first that broke, to see the collapse
_SETTLE_SHARE = 0.25  # of a step: what the step before left is not counted
_MOST_STEPS = 60
Told = dict[str, Any]


def find_cliff(from_rps: Any, factor: Any, most_rps: Any, step_s: Any, at_least_rps: Any) -> Told:
    """See `aftershock.actions.load.find_cliff`."""
    run = runs.current()
    words = {"from_rps": from_rps, "factor": factor, "most_rps": most_rps, "step_s": step_s}
    told = {name: wording.number(name, value) for name, value in words.items()}
    climb = Climb(run, told, wording.number("at_least_rps", at_least_rps))
    result = run.breaking.inject(lambda _: [climb], watched=True)
    assert climb.cliff is not None
    run.cliff = {**climb.cliff.as_dict(), "at_least_rps": climb.at_least_rps}
    with run.noting("cliff.json"):
        run.folder.write_json("cliff.json", run.cliff)
    for line in sentences(run.cliff):
        run.console.say("cliff", line)
    return {**result, "cliff": run.cliff}


def rates_of(told: Mapping[str, float]) -> list[float]:
    """The steps' rates; `InvalidFault` for what makes no sense."""
    start, factor, most, step_s = (told[n] for n in ("from_rps", "factor", "most_rps", "step_s"))
    if not (start > 0 and 1.05 <= factor <= 10 and most > start and step_s >= 2):
        raise InvalidFault(
            f"steps from {start:g} to {most:g} requests/s by {factor:g}, {step_s:g} s each: "
            "from_rps above 0, most_rps above that, a factor of 1.05 to 10, and 2 s at least"
        )
    rates = [start]
    while rates[-1] < most and len(rates) < _MOST_STEPS:
        rates.append(min(round(rates[-1] * factor, 1), most))
    return rates


class Climb(Surge):
    """The life of a climb, as a run sees its injections: over as soon as it was fired."""

    def __init__(self, run: Run, told: Mapping[str, float], at_least_rps: float) -> None:
        self.rates, self.step_s = rates_of(told), told["step_s"]
        super().__init__(run, self.rates[0], len(self.rates) * self.step_s)
        self.at_least_rps = at_least_rps
        self.cliff: Cliff | None = None
        self._steps: list[Step] = []
        self._spans: list[tuple[float, float, float, Mapping[str, float]]] = []
        self._began = 0.0

    def touches(self) -> list[str]:
        """What it would do, in a dry run's words."""
        first, last, count = self.rates[0], self.rates[-1], len(self.rates)
        steps = f"{count} steps of {self.step_s:g} s"
        return [f"the load: up from {first:g} to {last:g} requests/s, in at most {steps}"]

    def arm(self) -> None:
        """Nothing is felt before the firing. The rates are those of both loads together."""
        base = self._run.load.generator
        assert base is not None
        self._from_rps = round(self._run.load.offered_rps(), 3)
        if self.rates[0] <= self._from_rps:
            raise InvalidFault(
                f"from_rps is {self.rates[0]:g}, and the load is at {self._from_rps:g} already: "
                "begin above that"
            )
        stages = tuple(Stage(self.step_s, rate - self._from_rps) for rate in self.rates)
        self._generator = Generator(beside(base.settings, stages))

    def fire(self) -> float:
        """Climb, then take the load away; the moment when that was done."""
        assert self._generator is not None
        usage = Usage(self._run)
        try:
            self._generator.start(self._feed)
            self._generator.wait_until_sending()
            if self._feed.first is None:
                raise NotApplied("the added load sent nothing")
            self._began = self._feed.first
            self._run.timeline.mark(T_DISTURBED, self._began)
            self._run.phase("climbing")
            self._climb(usage)
        finally:
            self._generator.stop()
            usage.stop()
        self.fired_at = time.monotonic()
        self._feed.end(self._run.levels.limit_s)
        self.reverted = True
        return self.fired_at

    def _climb(self, usage: Usage) -> None:
        broken = 0
        for i, rate in enumerate(self.rates):
            start, end = (self._began + (i + share) * self.step_s for share in (_SETTLE_SHARE, 1))
            self._await(start)
            usage.begin()
            self._await(end)
            use = usage.end()
            while self._run.timeline.horizon(LOAD) < end and self._alive(end + 30):
                time.sleep(0.05)
            self._spans.append((rate, start, end, use))
            # What was open in an earlier step has its latency by now.
            self._steps = [self._step(*span) for span in self._spans]
            step = self._steps[-1]
            self.cliff = find(self._steps, self._golden_ms, self._lag_allowed_ms)
            broken += not step.holds(self._golden_ms)
            self._run.console.say("step", _told(step))
            if broken > BEYOND or self.cliff.collapse_rps or self.cliff.generator_ended_rps:
                return

    @property
    def _golden_ms(self) -> float:
        return self._run.levels.golden["p99_latency_ms"]

    @property
    def _lag_allowed_ms(self) -> float:
        return LAG_SHARE * self._run.levels.limit_s * 1e3

    def _alive(self, until: float) -> bool:
        self._run.load.check_alive()
        assert self._generator is not None
        if not self._generator.alive():
            raise NotApplied(f"the added load ended: {self._generator.said or 'it said nothing'}")
        return time.monotonic() < until

    def _await(self, moment: float) -> None:
        while (left := moment - time.monotonic()) > 0 and self._alive(moment + 1):
            time.sleep(min(left, 0.2))

    def _step(self, rate: float, start: float, end: float, use: Mapping[str, float]) -> Step:
        timeline, levels = self._run.timeline, self._run.levels
        seen = timeline.window(start, end)
        slots = [slot for at, slot in timeline.slots() if start <= at < end]
        lags = merged(text for slot in slots for text in slot.encoded.get(LAG, ()))
        failed = sum(sum(slot.failed.values()) for slot in slots)
        unanswered = seen.requests - failed - sum(slot.counts["ok"] for slot in slots)
        p99 = seen.p99_ms(levels.metric)
        if levels.metric == "e2e" and unanswered > 0.01 * seen.requests:
            p99 = max(p99 or 0.0, levels.limit_s * 1e3)  # the 99th percentile is among those
        return Step(
            rate,
            round(end - start, 3),
            seen.requests,
            seen.met or 0,
            seen.errors,
            failed,
            seen.p50_e2e_ms,
            p99,
            percentile_ms(lags, 99) if lags.get_total_count() else None,
            use,
        )

    def _look(self) -> Piece:
        """Whether what was added reached the service: it answered more than before in some step."""
        most = max((step.requests - step.errors) / step.seconds for step in self._steps)
        wanted = self._from_rps + SEEN_SHARE * (self.rates[0] - self._from_rps)
        return self._piece("the service", most, True if most >= wanted else None)

    def observe(self) -> dict[str, Any]:
        """What was seen while it climbed."""
        self._pieces = [self._look()]
        return self._evidence()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the journal, in the words of every injection."""
        told = super().to_dict()
        rates = [step.rate_rps for step in self._steps]
        return {
            **told,
            "fault": KIND,
            "parameters": {"from_rps": self._from_rps, "steps_rps": rates, "step_s": self.step_s},
            "momentary": True,
            "healed_early": False,
        }


def _told(step: Step) -> str:
    p99 = "–" if step.p99_ms is None else f"{step.p99_ms:.0f}"
    return (
        f"{step.rate_rps:g} requests/s: {step.good_rps:.0f} good/s, p99 {p99} ms, "
        f"errors {100 * step.error_rate:.1f} %"
    )
