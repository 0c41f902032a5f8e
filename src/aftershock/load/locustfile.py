"""Run by Locust: open-loop load of an LLM's clients. Started and set up by `Generator`.

One dispatcher user per worker starts a greenlet per arrival, so a stalled service does not slow the
schedule down. What was measured leaves every 0.2 s: from a worker to the master by message, from
there (or from the only process) as JSON lines through the pipe AFTERSHOCK_LOAD_FD. The end of
standard input is the order to stop.
"""

from __future__ import annotations

import os
import random
import time
from functools import partial
from typing import Any

import gevent
import gevent.pool
from gevent.socket import wait_read
from locust import User, constant, events, task
from locust.exception import CatchResponseError
from locust.runners import MasterRunner, WorkerRunner

from aftershock.load.answers import Answer
from aftershock.load.arrivals import schedule
from aftershock.load.client import Client
from aftershock.load.own_use import OwnUse
from aftershock.load.parent import Outlet, die_with
from aftershock.load.prompts import request
from aftershock.load.recorder import Call, Recorder
from aftershock.load.settings import LoadSettings
from aftershock.slo.verdict import LAG_SHARE

REPORT_S = 0.2
TOTALS_EVERY = 25  # reports
RETRIED = ("refused", "reset", "connection", "http_5")
MESSAGE = "aftershock-load"
STOP = "aftershock-stop"
settings = LoadSettings.from_json(os.environ["AFTERSHOCK_LOAD"])
recorder = Recorder(
    settings.limit_s,
    settings.metric,
    settings.failures_kept,
    time.monotonic,
    settings.goodput_ms,
)


class _State:
    """Of this process; Locust's processes each have their own after the fork."""

    def __init__(self) -> None:
        self.next_due = time.monotonic()
        self.stopping = False
        self.outlet: Outlet | None = None
        self.reports = 0
        self.last: set[int] = set()
        self.client: Client | None = None
        self.own_use: OwnUse | None = None


state = _State()
die_with(int(os.environ["AFTERSHOCK_PARENT"]))
_locust = os.getpid()
os.register_at_fork(after_in_child=lambda: die_with(_locust))


class Dispatcher(User):
    """Starts requests when they are due, whatever became of the earlier ones."""

    wait_time = constant(0)
    host = settings.url

    def on_start(self) -> None:
        runner = self.environment.runner
        self.worker = max(getattr(runner, "worker_index", 0), 0)
        self.pool = gevent.pool.Pool(settings.max_in_flight)
        self.rng = random.Random(f"{settings.seed}/prompts/{self.worker}")
        self.client = state.client = Client(settings)

    @task
    def dispatch(self) -> None:
        begin = time.monotonic()
        recorder.began = begin
        for number, due in enumerate(schedule(settings, self.worker)):
            state.next_due = begin + due.at
            if (ahead := begin + due.at - time.monotonic()) > 0:
                gevent.sleep(ahead)
            if state.stopping:
                break
            call = recorder.due(begin + due.at)
            path, body = request(self.rng, settings, number, *due[1:])
            if self.pool.free_count() > 0:
                self.pool.spawn(self.ask, call, path, body)
            else:
                recorder.drop(call)
        state.next_due = float("inf")
        while True:
            gevent.sleep(3600)

    def ask(self, call: Call, path: str, body: dict[str, Any]) -> None:
        recorder.sent(call)
        answer = Answer(streamed=body["stream"], may_repeat=settings.ignore_eos)
        token = partial(recorder.token, call)
        try:
            with gevent.Timeout(call.scheduled + settings.timeout_s - time.monotonic()):
                kind, detail = self.client.ask(path, body, answer, token)
                for _ in range(settings.retries):
                    if call.tokens or not kind.startswith(RETRIED):
                        break
                    recorder.retried += 1
                    answer = Answer(streamed=body["stream"], may_repeat=settings.ignore_eos)
                    kind, detail = self.client.ask(path, body, answer, token)
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
        self.environment.events.request.fire(
            request_type="POST",
            name=path,
            response_time=(time.monotonic() - call.scheduled) * 1e3,
            response_length=len(answer.text),
            exception=CatchResponseError(kind) if kind else None,
            context={},
        )

    @staticmethod
    def _without_secrets(detail: str) -> str:
        """A service may say back what it was told."""
        for value in settings.headers.values():
            for word in (value, value.removeprefix("Bearer ")):
                detail = detail.replace(word, "***")
        return detail


def _report(environment: Any) -> None:
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        return
    index = max(getattr(runner, "worker_index", 0), 0)
    totals = state.stopping or state.reports % TOTALS_EVERY == 0
    state.reports += 1
    if state.own_use is None:  # here, since its counters are this process's
        state.own_use = OwnUse(LAG_SHARE * settings.limit_s, REPORT_S)
    used = state.own_use.look(recorder.worst_lag_s)
    message = recorder.report(index, settings.processes, state.next_due, totals)
    exhausted = state.client.exhausted if state.client else {}
    message |= {"stopped": state.stopping, "max_in_flight": settings.max_in_flight, **used}
    message |= {f"out_of_{name}": count for name, count in exhausted.items()}
    if isinstance(runner, WorkerRunner):
        runner.send_message(MESSAGE, message)
    else:
        _pass_on(message)


def _pass_on(message: dict[str, Any]) -> None:
    if message["stopped"]:
        state.last.add(message["worker"])
    if state.outlet:
        state.outlet.write(message)


def _report_always(environment: Any) -> None:
    while True:
        gevent.sleep(REPORT_S)
        _report(environment)


def _stop_at_end_of_input(environment: Any) -> None:
    while True:
        wait_read(0)
        if not os.read(0, 4096):
            break
    _stop(environment)
    expected = settings.processes
    deadline = time.monotonic() + 1.0
    while len(state.last) < expected and time.monotonic() < deadline:
        gevent.sleep(0.02)
    while state.outlet and not state.outlet.flush() and time.monotonic() < deadline:
        gevent.sleep(0.02)
    environment.runner.quit()
    gevent.sleep(0.2)
    os._exit(0)


def _stop(environment: Any) -> None:
    state.stopping = True
    if isinstance(environment.runner, MasterRunner):
        environment.runner.send_message(STOP, {})
    else:
        _report(environment)


@events.init.add_listener  # type: ignore[untyped-decorator]
def on_init(environment: Any, **_: Any) -> None:
    """Set this process up as what it is: alone, the master, or a worker."""
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        runner.register_message(STOP, lambda environment, **_: _stop(environment))
        gevent.spawn(_report_always, environment)
        return
    state.outlet = Outlet(int(os.environ["AFTERSHOCK_LOAD_FD"]))
    if isinstance(runner, MasterRunner):
        runner.register_message(MESSAGE, lambda msg, **_: _pass_on(msg.data))
    else:
        gevent.spawn(_report_always, environment)
    gevent.spawn(_stop_at_end_of_input, environment)
