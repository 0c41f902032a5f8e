"""Master and workers: who sends which share, by which clock, and who has gone.

Locust carries the messages and knows its workers; what it would do when one goes, start its users
again in another, is not for an open loop. A share whose worker is silent is lost until another
worker takes it over; what it did not send is counted by what the others were to send meanwhile.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
import gevent.event

from aftershock.load.clocks import Clock
from aftershock.load.sender import REPORT_S
from aftershock.load.settings import LoadSettings
from aftershock.slo.timeline import FOR_EVER, LOAD

LOAD_MESSAGE, STOP = "aftershock-load", "aftershock-stop"
_CLOCK, _READY, _ORDERS = "aftershock-clock", "aftershock-ready", "aftershock-orders"
LOST_S = 2.0  # a worker that is silent for so long has gone
_MASTERLESS_S = 5.0  # and a worker without a master ends
_FIRST_ANSWERS, _FAST_S, _SLOW_S = 8, 0.02, 1.0
_AHEAD_S = 0.3  # all workers hear of the beginning before it
_ALL_GONE = 3  # exit status

Message = dict[str, Any]


@dataclass(slots=True)
class _Share:
    """One worker's part of the load, as the master sees it."""

    holder: str = ""  # Locust's name of the worker
    heard: float = 0.0
    due: float = 0.0  # requests so far, of all its holders
    before: float = 0.0  # of its earlier holders
    lost_at: float = 0.0  # 0: not lost
    missing: float = 0.0


@dataclass(slots=True)
class Conductor:
    """The master's side."""

    runner: Any
    settings: LoadSettings
    pass_on: Callable[[Message], None]
    shares: dict[int, _Share] = field(default_factory=dict)
    begin: float = 0.0
    stopping: bool = False

    def start(self) -> None:
        """Listen to workers, and look after them."""
        for name, hear in ((_CLOCK, self._tell_time), (_READY, self._hear_ready)):
            self.runner.register_message(name, hear)
        self.runner.register_message(LOAD_MESSAGE, self._hear)
        gevent.spawn(self._look_after)

    def stop(self) -> None:
        """Order all workers to stop."""
        self.stopping = True
        self.runner.send_message(STOP, {})

    def _tell_time(self, msg: Any, **_: Any) -> None:
        answer = {"asked": msg.data["asked"], "told": time.monotonic()}
        self.runner.send_message(_CLOCK, answer, client_id=msg.node_id)

    def _hear_ready(self, msg: Any, **_: Any) -> None:
        """A worker whose clock is aligned; all of them, and it begins."""
        number = self._free_share()
        if number is None:
            print(f"{msg.node_id}: one worker more than shares, it idles", file=sys.stderr)
            return
        share = self.shares.setdefault(number, _Share())
        share.holder, share.heard, share.before = msg.node_id, time.monotonic(), share.due
        if self.begin:
            self._order(number)
        elif len(self.shares) >= self.settings.processes:
            self.begin = time.monotonic() + _AHEAD_S
            for each in self.shares:
                self._order(each)

    def _free_share(self) -> int | None:
        for number in range(self.settings.processes):
            if number not in self.shares or self.shares[number].lost_at:
                return number
        return None

    def _order(self, number: int) -> None:
        told = self.settings.without_headers().to_json()
        orders = {"settings": told, "share": number, "begin": self.begin}
        self.runner.send_message(_ORDERS, orders, client_id=self.shares[number].holder)

    def _hear(self, msg: Any, **_: Any) -> None:
        message: Message = msg.data
        share = self.shares[message["worker"]]
        if share.holder != msg.node_id:  # it was taken for gone, and its share is another's by now
            self.runner.send_message(STOP, {}, client_id=msg.node_id)
            return
        share.heard, share.due = time.monotonic(), share.before + message["due"]
        share.lost_at = 0.0
        self.pass_on({**message, "lost_at": 0.0, "missing": round(share.missing)})

    def _look_after(self) -> None:
        looked = time.monotonic()
        while True:
            gevent.sleep(REPORT_S)
            now = time.monotonic()
            if now - looked < LOST_S / 2 and self.begin and not self.stopping:
                self._look(now)  # else this process itself was away, and has not read yet
            looked = now

    def _look(self, now: float) -> None:
        dues = {n: share.due for n, share in self.shares.items() if not share.lost_at}
        for number, share in self.shares.items():
            if now - share.heard <= LOST_S:
                continue
            others = [due for n, due in dues.items() if n != number]
            if not others:
                print("all workers of the load have gone", file=sys.stderr, flush=True)
                os._exit(_ALL_GONE)
            share.lost_at = share.lost_at or share.heard
            share.missing = max(share.missing, sum(others) / len(others) - share.due)
            self.pass_on(
                {
                    "source": LOAD,
                    "worker": number,
                    "workers": self.settings.processes,
                    "decided": FOR_EVER,
                    "lost_at": round(share.lost_at, 3),
                    "missing": round(share.missing),
                    "in_flight": 0,
                    "stopped": True,
                }
            )


class Follower:
    """A worker's side: `orders` are there once the master gave some."""

    def __init__(self, runner: Any, clock: Clock) -> None:
        """`clock` is aligned to the master's as answers come."""
        self._runner, self.clock = runner, clock
        self.orders = gevent.event.AsyncResult()
        self._heard = time.monotonic()

    def start(self, stop: Callable[[], None]) -> None:
        """Ask for the time, for ever, and listen; `stop` is called when that is ordered."""
        self._runner.register_message(_CLOCK, self._hear_time)
        self._runner.register_message(_ORDERS, lambda msg, **_: self.orders.set(msg.data))
        self._runner.register_message(STOP, lambda **_: stop())
        gevent.spawn(self._ask_for_time)

    def _hear_time(self, msg: Any, **_: Any) -> None:
        self._heard = time.monotonic()
        self.clock.answered(msg.data["asked"], msg.data["told"])

    def _ask_for_time(self) -> None:
        self._runner.connection_event.wait()
        self._heard, said = time.monotonic(), False
        while True:
            if not said and self.clock.answers >= _FIRST_ANSWERS:
                said = True
                self._runner.send_message(_READY, {})
            self._runner.send_message(_CLOCK, {"asked": self.clock.asked()})
            asked = time.monotonic()
            gevent.sleep(_SLOW_S if said else _FAST_S)
            overslept = time.monotonic() - asked > 2 * _SLOW_S  # answers are there, unread
            if not overslept and asked - self._heard > _MASTERLESS_S:
                print("the master has gone", file=sys.stderr, flush=True)
                os._exit(1)
