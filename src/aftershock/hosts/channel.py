"""The controller's end of an agent: requests and answers, heartbeats, and the clocks' offset."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from aftershock.agent.clock import identity
from aftershock.errors import (
    AftershockError,
    HostUnreachable,
    InvalidInput,
    NotApplied,
    NotReverted,
    Unsupported,
)
from aftershock.lock import Occupied

BEAT_S = 1.0
ANSWER_S = 10.0
_ROUNDS = 5
_LATELY = 10  # beats: a drift of 50 ppm is half a millisecond in them
_ERRORS: Mapping[str, type[AftershockError]] = {
    "invalid": InvalidInput,
    "unsupported": Unsupported,
    "not_applied": NotApplied,
    "not_reverted": NotReverted,
    "taken": Occupied,
}


class Sink(Protocol):
    """Where requests go; what can't be written is OSError or ValueError."""

    def write(self, line: bytes, /) -> Any: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class Transport(Protocol):
    """The agent's three streams and its end; over a pipe, SSH or an exec."""

    @property
    def requests(self) -> Sink:
        """What the agent reads."""

    @property
    def answers(self) -> Iterable[bytes]:
        """What it answers, by lines, until its end."""

    @property
    def pid(self) -> int:
        """The agent's process as the controller's machine numbers it; 0 where it can't be seen."""

    def complaint(self) -> str:
        """What it said on its standard error so far."""

    def end(self, patience_s: float) -> None:
        """The channel is closed: wait for the agent to end, and take the streams down."""


@dataclass(frozen=True, slots=True)
class Offset:
    """What to subtract from the agent's clock to get the controller's monotonic one."""

    seconds: float
    error_s: float


def _offset(agent_time: float, sent: float, took: float) -> Offset:
    return Offset(agent_time - sent - took / 2, took / 2)


class AgentChannel:
    """One running agent. Any thread may ask; answers find their request by number."""

    def __init__(self, name: str, transport: Transport) -> None:
        self.name = name
        self._transport = transport
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.facts: dict[tuple[str, ...], Any] = {}  # of its host, by what was asked for
        threading.Thread(target=self._read, daemon=True, name=f"{name} answers").start()
        try:
            self.hello = self.ask("hello")
            self.offset = self._measure_offset()
        except AftershockError as error:
            self.abandon(patience_s=1.0)
            raise HostUnreachable(
                f"{name}: the agent did not start{self._said()}: "
                "is Python 3.9 or newer there, and may we?"
            ) from error
        threading.Thread(target=self._beat, daemon=True, name=f"{name} beats").start()

    @property
    def pid(self) -> int:
        """The agent's process as the controller sees it."""
        return self._transport.pid

    def who(self) -> dict[str, Any]:
        """The agent's process as this machine sees it, if it is here, and as its own host does."""
        there = {name: self.hello[name] for name in ("pid", "started", "boot")}
        here = identity(self.pid) if self.pid else None
        return {"here": here, "there": there, "netns": self.hello["netns"]}

    @property
    def is_open(self) -> bool:
        """Whether answers can still come."""
        return not self._closed.is_set()

    def post(self, op: str, **options: Any) -> Future[Any]:
        """Send a request; its answer is the future's result."""
        answer: Future[Any] = Future()
        with self._lock:
            if not self.is_open:
                raise self._lost(op)
            number = next(self._numbers)
            self._waiting[number] = answer
            line = json.dumps({"id": number, "op": op, **options}).encode() + b"\n"
            try:
                self._transport.requests.write(line)
                self._transport.requests.flush()
            except (OSError, ValueError):
                self._closed.set()
                raise self._lost(op) from None
        return answer

    def ask(self, op: str, patience_s: float = ANSWER_S, /, **options: Any) -> Any:
        """Send a request and wait for its answer; the agent's refusals are raised here."""
        return self.result(self.post(op, **options), op, patience_s)

    def result(self, answer: Future[Any], op: str, timeout_s: float = ANSWER_S) -> Any:
        """The answer to what was posted."""
        try:
            return answer.result(timeout_s)
        except FutureTimeout:
            raise self.silent(op, timeout_s) from None

    def silent(self, op: str, timeout_s: float) -> HostUnreachable:
        """What to say of an agent that does not answer."""
        return HostUnreachable(
            f"{self.name}: {op}: no answer within {timeout_s:g} s{self._said()}: "
            "is the host overloaded, or its agent stopped?"
        )

    def to_monotonic(self, agent_time: float) -> float:
        """The controller's monotonic time of an agent's time."""
        return agent_time - self.offset.seconds

    def close(self, patience_s: float = 5.0) -> None:
        """Say goodbye, which reverts what is still held, and let the agent end."""
        with contextlib.suppress(AftershockError):
            self.ask("bye", patience_s)
        self.abandon(patience_s)

    def abandon(self, patience_s: float = 5.0) -> None:
        """Close the channel without a word; the agent heals by itself and ends."""
        self._closed.set()
        with contextlib.suppress(OSError, ValueError):
            self._transport.requests.close()
        self._transport.end(patience_s)

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._transport.answers:
                self._settle(json.loads(line))
        self._closed.set()
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.set_exception(self._lost("waiting for an answer"))

    def _settle(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            answer = self._waiting.pop(message["id"], None)
        if answer is None:
            return
        if error := message.get("error"):
            kind = _ERRORS.get(error["kind"], AftershockError)
            answer.set_exception(kind(f"{self.name}: {error['message']}"))
        else:
            answer.set_result(message["ok"])

    def _beat(self) -> None:
        """A sign of life a second; its answer tells the time, for clocks that drift apart."""
        lately = deque([self.offset], _LATELY)
        while not self._closed.wait(BEAT_S):
            sent = time.monotonic()
            try:
                answer = self.post("beat")
            except HostUnreachable:
                return
            answer.add_done_callback(partial(self._refine, lately, sent))

    def _refine(self, lately: deque[Offset], sent: float, answer: Future[float]) -> None:
        if answer.exception() is None:
            lately.append(_offset(answer.result(), sent, time.monotonic() - sent))
            self.offset = min(lately, key=lambda offset: offset.error_s)

    def _measure_offset(self) -> Offset:
        """The midpoint of the quickest of a few rounds, off by at most half its round trip."""
        rounds = []
        for _ in range(_ROUNDS):
            sent = time.monotonic()
            agent_time = self.ask("clock")
            rounds.append(_offset(agent_time, sent, time.monotonic() - sent))
        return min(rounds, key=lambda offset: offset.error_s)

    def _lost(self, step: str) -> HostUnreachable:
        return HostUnreachable(
            f"{self.name}: {step}: the agent's channel is closed{self._said()}: "
            "what it held is healed by now, or will be by its deadline; see its record"
        )

    def _said(self) -> str:
        said = self._transport.complaint().strip()
        return f" ({said.splitlines()[-1]})" if said else ""
