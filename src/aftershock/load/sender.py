"""One process' share of the load: sends requests when they are due, and tells what became of them.

It needs nothing of Locust but its event, so that it can be stopped by nothing but its own order:
Locust moves its users about when workers come and go.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import gevent.pool
from locust.exception import CatchResponseError

from aftershock.load.answers import Answer
from aftershock.load.arrivals import schedule
from aftershock.load.client import Client
from aftershock.load.own_use import OwnUse
from aftershock.load.prompts import request
from aftershock.load.recorder import Call, Recorder
from aftershock.load.settings import LoadSettings
from aftershock.slo.verdict import LAG_SHARE

REPORT_S = 0.2
_TOTALS_EVERY = 25  # reports
_RETRIED = ("refused", "reset", "connection", "http_5")


class Sender:
    """Open loop: a stalled service does not slow the schedule down."""

    def __init__(
        self,
        environment: Any,
        settings: LoadSettings,
        share: int,
        clock: Callable[[], float],
    ) -> None:
        """`share`: which of `settings.processes`; `clock`: seconds, the master's."""
        self._environment, self._settings, self._clock = environment, settings, clock
        self.share = share
        self.stopping = False
        self._recorder = Recorder(
            settings.limit_s, settings.metric, settings.failures_kept, clock, settings.goodput_ms
        )
        self._pool = gevent.pool.Pool(settings.max_in_flight)
        self._rng = random.Random(f"{settings.seed}/prompts/{share}")
        self._client = Client(settings)
        self._own_use: OwnUse | None = None
        self._next_due = clock()
        self._reports = 0

    def send(self, begin: float) -> None:
        """Go through the schedule from `begin` on; what was due before now is somebody else's."""
        joined = self._clock()
        self._recorder.began = begin
        for number, due in enumerate(schedule(self._settings, self.share)):
            at = begin + due.at
            if at < joined - 1.0:
                continue
            self._next_due = at
            if (ahead := at - self._clock()) > 0:
                gevent.sleep(ahead)
            if self.stopping:
                break
            call = self._recorder.due(at)
            path, body = request(self._rng, self._settings, number, *due[1:])
            if self._pool.free_count() > 0:
                self._pool.spawn(self._ask, call, path, body)
            else:
                self._recorder.drop(call)
        self._next_due = float("inf")

    def _ask(self, call: Call, path: str, body: dict[str, Any]) -> None:
        settings, recorder = self._settings, self._recorder
        recorder.sent(call)
        answer = Answer(streamed=body["stream"], may_repeat=settings.ignore_eos)
        token = partial(recorder.token, call)
        try:
            with gevent.Timeout(call.scheduled + settings.timeout_s - self._clock()):
                kind, detail = self._client.ask(path, body, answer, token)
                for _ in range(settings.retries):
                    if call.tokens or not kind.startswith(_RETRIED):
                        break
                    recorder.retried += 1
                    answer = Answer(streamed=body["stream"], may_repeat=settings.ignore_eos)
                    kind, detail = self._client.ask(path, body, answer, token)
        except gevent.Timeout:
            kind, detail = "timeout", f"no whole answer in {settings.timeout_s} s"
        except Exception as error:  # a bug of ours must not pass for a good request
            kind, detail = "generator_error", repr(error)
        recorder.counted(answer.usage, answer.tokens)
        if kind == "not_sent":
            recorder.drop(call, detail)
        elif kind:
            recorder.fail(call, kind, self._without_secrets(detail))
        else:
            recorder.finish(call, answer.output_tokens, body["stream"])
        self._tell_locust(call, path, kind, answer)

    def _tell_locust(self, call: Call, path: str, kind: str, answer: Answer) -> None:
        """For who listens to Locust's own event; latencies count from the scheduled time."""
        self._environment.events.request.fire(
            request_type="POST",
            name=path,
            response_time=(self._clock() - call.scheduled) * 1e3,
            response_length=len(answer.text),
            exception=CatchResponseError(kind) if kind else None,
            context={},
        )

    def _without_secrets(self, detail: str) -> str:
        """A service may say back what it was told."""
        for value in self._settings.headers.values():
            for word in (value, value.removeprefix("Bearer ")):
                detail = detail.replace(word, "***")
        return detail

    def report(self) -> dict[str, Any]:
        """What is new since the last one, for `Timeline.feed`."""
        if self._own_use is None:  # here, since its counters are this process's
            self._own_use = OwnUse(LAG_SHARE * self._settings.limit_s, REPORT_S)
        used = self._own_use.look(self._recorder.worst_lag_s)
        totals = self.stopping or self._reports % _TOTALS_EVERY == 0
        self._reports += 1
        workers = self._settings.processes
        message = self._recorder.report(self.share, workers, self._next_due, totals)
        refused = {f"out_of_{name}": count for name, count in self._client.exhausted.items()}
        most = {"stopped": self.stopping, "max_in_flight": self._settings.max_in_flight}
        return {**message, **used, **refused, **most}
