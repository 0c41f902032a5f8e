"""Run by Locust: open-loop load of an LLM's clients. Started and set up by `Generator`.

What was measured leaves every 0.2 s: from a worker to the master by message, from there (or from
the only process) as JSON lines through the pipe AFTERSHOCK_LOAD_FD. The end of standard input is
the order to stop. Workers on other machines (`aftershock.load.worker`) get their settings from the
master, but for headers, which may be secrets.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from typing import Any

import gevent
from gevent.socket import wait_read
from locust import User, constant, events, task
from locust.runners import MasterRunner, WorkerRunner

from aftershock.load.clocks import Clock
from aftershock.load.conducting import LOAD_MESSAGE, Conductor, Follower
from aftershock.load.parent import Outlet, die_with
from aftershock.load.sender import REPORT_S, Sender
from aftershock.load.settings import LoadSettings

_SPARE_S = 0.2


class _State:
    """Of this process; Locust's processes each have their own after the fork."""

    def __init__(self) -> None:
        self.settings: LoadSettings | None = None
        self.outlet: Outlet | None = None
        self.conductor: Conductor | None = None
        self.sender: Sender | None = None
        self.clock = Clock()
        self.last: set[int] = set()


state = _State()
if told := os.environ.get("AFTERSHOCK_LOAD"):
    state.settings = LoadSettings.from_json(told)
if parent := os.environ.get("AFTERSHOCK_PARENT"):
    die_with(int(parent))
_locust = os.getpid()
os.register_at_fork(after_in_child=lambda: die_with(_locust))


class Dispatcher(User):
    """What Locust counts as a user; the load itself does not depend on it."""

    wait_time = constant(3600)
    host = state.settings.url if state.settings else ""

    @task
    def exist(self) -> None:
        """Nothing."""


def _work(environment: Any, settings: LoadSettings, share: int, begin: float) -> None:
    state.sender = sender = Sender(environment, settings, share, state.clock)
    gevent.spawn(sender.send, begin)
    while True:
        gevent.sleep(REPORT_S)
        _report(environment, sender)


def _report(environment: Any, sender: Sender) -> None:
    message = sender.report()
    if isinstance(environment.runner, WorkerRunner):
        of_clock = {"offset_s": state.clock.offset_s, "error_s": state.clock.error_s}
        message |= {f"clock_{name}": round(value, 6) for name, value in of_clock.items()}
        environment.runner.send_message(LOAD_MESSAGE, message)
    else:
        _pass_on(message)


def _pass_on(message: dict[str, Any]) -> None:
    if message["stopped"]:
        state.last.add(message["worker"])
    if state.outlet:
        state.outlet.write(message)


def _stop(environment: Any) -> None:
    if state.conductor:
        state.conductor.stop()
    elif state.sender:
        state.sender.stopping = True
        _report(environment, state.sender)


def _stop_at_end_of_input(environment: Any, expected: int) -> None:
    while True:
        wait_read(0)
        if not os.read(0, 4096):
            break
    _stop(environment)
    deadline = time.monotonic() + 1.0
    while len(state.last) < expected and time.monotonic() < deadline:
        gevent.sleep(0.02)
    while state.outlet and not state.outlet.flush() and time.monotonic() < deadline:
        gevent.sleep(0.02)
    environment.runner.quit()
    gevent.sleep(_SPARE_S)
    os._exit(0)


def _follow(environment: Any) -> None:
    """A worker: wait for the master's orders, and do as they say."""
    follower = Follower(environment.runner, state.clock)
    follower.start(lambda: _stop(environment))
    orders = follower.orders.get()
    settings = LoadSettings.from_json(orders["settings"])
    own = json.loads(os.environ.get("AFTERSHOCK_HEADERS", "{}"))
    settings = replace(settings, headers=state.settings.headers if state.settings else own)
    _work(environment, settings, orders["share"], orders["begin"])


@events.init.add_listener  # type: ignore[untyped-decorator]
def on_init(environment: Any, **_: Any) -> None:
    """Set this process up as what it is: alone, the master, or a worker."""
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        gevent.spawn(_follow, environment)
        return
    settings = state.settings
    assert settings is not None
    state.outlet = Outlet(int(os.environ["AFTERSHOCK_LOAD_FD"]))
    if isinstance(runner, MasterRunner):
        state.conductor = Conductor(runner, settings, _pass_on)
        state.conductor.start()
    else:
        gevent.spawn(_work, environment, settings, 0, time.monotonic())
    gevent.spawn(_stop_at_end_of_input, environment, settings.processes)
