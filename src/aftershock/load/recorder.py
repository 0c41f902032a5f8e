"""What one worker measured since it last reported: increments for `Timeline.feed`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aftershock.slo.slots import LAG, SLOT_S, TICK_S, Slot, histogram, record

# Of a whole run: between a stream's pieces, per token after the first, and what counts from the
# moment a request was really sent.
TOTALS = ("itl", "tpot", "ttft_from_sent", "e2e_from_sent")


@dataclass(slots=True)
class Call:
    """One request on its way."""

    number: int
    scheduled: float
    sent: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    tokens: int = 0  # pieces that carried text
    judged: str = ""  # good or slow, once an answer came


class Recorder:
    """Counts calls into slots and ticks, and tells what has changed since it last told."""

    def __init__(
        self,
        limit_s: float,
        metric: str,
        failures_kept: int,
        clock: Callable[[], float],
        goodput_ms: Mapping[str, float] | None = None,
    ) -> None:
        self._goodput = {key: ms / 1e3 for key, ms in (goodput_ms or {}).items()}
        self._limit, self._on_first = limit_s, metric == "ttft"
        self._clock = clock
        self._open: dict[int, Call] = {}
        self._unjudged: dict[int, Call] = {}  # in order of schedule
        self._slots: dict[int, Slot] = {}
        self._ticks: dict[int, list[int]] = {}
        self._failures: list[dict[str, Any]] = []
        self._failures_left = failures_kept
        self._count = 0
        self._totals = {kind: histogram() for kind in TOTALS}
        self.not_sent = self.retried = 0
        self.output_tokens = self.prompt_tokens = self.usage_told = 0
        self.worst_lag_s = 0.0  # since the last report
        self.began = 0.0  # when the first stage did

    def _slot(self, call: Call) -> Slot:
        return self._slots.setdefault(int(call.scheduled / SLOT_S), Slot())

    def due(self, scheduled: float) -> Call:
        """A request fell due at that moment, whether or not it can be sent."""
        call = Call(self._count, scheduled)
        self._count += 1
        self._open[call.number] = self._unjudged[call.number] = call
        self._slot(call).counts["scheduled"] += 1
        self._tick(call)[0] += 1
        return call

    def _tick(self, call: Call) -> list[int]:
        return self._ticks.setdefault(int(call.scheduled / TICK_S), [0, 0])

    def sent(self, call: Call) -> None:
        call.sent = self._clock()
        slot = self._slot(call)
        slot.counts["sent"] += 1
        lag = call.sent - call.scheduled
        self.worst_lag_s = max(self.worst_lag_s, lag)
        slot.add_time(LAG, lag)

    def token(self, call: Call) -> None:
        now = self._clock()
        if not call.tokens:
            call.first_token = now
            record(self._totals["ttft_from_sent"], now - call.sent)
            self._slot(call).add_time("ttft", now - call.scheduled)
            if self._on_first:
                self._judge(call, now)
        else:
            record(self._totals["itl"], now - call.last_token)
        call.last_token = now
        call.tokens += 1

    def _judge(self, call: Call, now: float) -> None:
        call.judged = "good" if now - call.scheduled <= self._limit else "slow"
        self._unjudged.pop(call.number, None)
        self._count_as(call, 1)

    def _count_as(self, call: Call, by: int) -> None:
        self._slot(call).counts[call.judged] += by
        if call.judged == "good":
            self._tick(call)[1] += by

    def finish(self, call: Call, output_tokens: int = 0, streamed: bool = False) -> None:
        """Answered soundly and in full, with so many tokens; 0: as many as there were pieces."""
        now = self._clock()
        self._open.pop(call.number)
        slot = self._slot(call)
        slot.counts["ok"] += 1
        slot.add_time("e2e", now - call.scheduled)
        record(self._totals["e2e_from_sent"], now - call.sent)
        count, tpot = output_tokens or call.tokens, 0.0
        if call.tokens > 1 and count > 1:
            tpot = (call.last_token - call.first_token) / (count - 1)
            record(self._totals["tpot"], tpot)
        took = {"e2e_ms": now - call.scheduled, "tpot_ms": tpot}
        if streamed:  # else no first token is to be seen, and the end alone counts
            took["ttft_ms"] = call.first_token - call.scheduled
        slot.counts["met"] += all(took.get(k, 0.0) <= limit for k, limit in self._goodput.items())
        if not call.judged:
            self._judge(call, now)

    def counted(self, usage: Mapping[str, Any], pieces: int) -> None:
        """Add up an answer's tokens: as the server counted them, else its pieces."""
        output, prompt = usage.get("completion_tokens"), usage.get("prompt_tokens")
        self.usage_told += isinstance(output, int)
        self.output_tokens += output if isinstance(output, int) else pieces
        self.prompt_tokens += prompt if isinstance(prompt, int) else 0

    def fail(self, call: Call, kind: str, detail: str = "") -> None:
        now = self._clock()
        self._open.pop(call.number)
        self._unjudged.pop(call.number, None)
        slot = self._slot(call)
        slot.failed[kind] += 1
        slot.counts["cut"] += bool(call.tokens)
        if call.judged:  # the good start of a stream that failed is taken back
            self._count_as(call, -1)
        if self._failures_left > 0:
            self._failures_left -= 1
            self._failures.append(
                {
                    "scheduled": round(call.scheduled, 5),
                    "after_s": round(now - call.scheduled, 5),
                    "kind": kind,
                    "detail": detail[:200],
                    "tokens": call.tokens,
                }
            )

    def drop(self, call: Call, detail: str = "") -> None:
        """It fell due and could not be sent: the generator's fault, not the service's."""
        self.not_sent += 1
        self.fail(call, "not_sent", detail)

    @property
    def in_flight(self) -> int:
        return len(self._open)

    def report(
        self, worker: int, workers: int, next_due: float, totals: bool = False
    ) -> dict[str, Any]:
        """Everything since the last report. `next_due`: all earlier requests have fallen due.

        `totals`: with the histograms of the whole run, which cost more than the rest.
        """
        now = min(self._clock(), next_due)
        oldest = next(iter(self._unjudged.values()), None)
        undecided = oldest.scheduled if oldest else now
        slots, self._slots = self._slots, {}
        ticks, self._ticks = self._ticks, {}
        failures, self._failures = self._failures, []
        self.worst_lag_s = 0.0
        return {
            "source": "load",
            "worker": worker,
            "workers": workers,
            "decided": round(max(min(undecided, now), now - self._limit), 5),
            "began": self.began,
            "in_flight": len(self._open),
            "due": self._count,
            "not_sent": self.not_sent,
            "retried": self.retried,
            "output_tokens": self.output_tokens,
            "prompt_tokens": self.prompt_tokens,
            "usage_told": self.usage_told,
            **(self._encoded() if totals else {}),
            "slots": {str(index): slot.wire() for index, slot in slots.items()},
            "ticks": {str(index): counts for index, counts in ticks.items()},
            "failures": failures,
        }

    def _encoded(self) -> dict[str, str]:
        return {kind: total.encode().decode() for kind, total in self._totals.items()}
