"""The agent's life: answer, keep the leases, and leave nothing behind however it ends."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional

from .alone import Alone
from .clock import boottime
from .errors import AgentError, Invalid, complain
from .held import ORDER, Held
from .lean import spare
from .ops import SLOW, Operations
from .records import Records
from .stream import Closed, Stream, parse

_TICK_S = 0.5  # select doesn't count time asleep, so no wait is long
_IDLE_S = 60.0  # an agent that holds nothing and hears nothing ends
# What else our program is, by its first word: a module's function, given the others.
_CHILDREN = {
    "watch": ("watcher", "watch"),
    "press": ("pressing", "press"),
    "storage": ("storage", "main"),
    "hog": ("hogs", "main"),
    "fork": ("trying", "main"),
    "allocate": ("gpuroom", "main"),
    "cuda": ("checkpoint", "main"),
}


class Agent:
    """One process, one thread that matters: requests, signals and deadlines in one loop."""

    def __init__(self, stream: Stream, operations: Operations) -> None:
        self._stream: Optional[Stream] = stream
        self._operations = operations
        self._beat = boottime()
        self._signals: List[int] = []
        self._wake, alarm = os.pipe()
        os.set_blocking(alarm, False)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, lambda got, _: self._signals.append(got))

    def run(self) -> None:
        """Until there is nobody to serve and nothing held."""
        try:
            while not self._operations.finished and (self._stream or self._on()):
                self._wait()
                self._keep_leases()
                self._heed_signals()
        finally:
            self._heal("end of the agent", self._on())
            self._operations.alone.release()

    def _on(self) -> List[Held]:
        return [held for held in self._operations.held.values() if held.is_on()]

    def _wait(self) -> None:
        due = [held.lease.deadline - boottime() for held in self._on()]
        left = min([wait for wait in due if wait > 0] + [_TICK_S])
        sources = [self._wake] + ([self._stream.requests] if self._stream else [])
        ready, _, _ = select.select(sources, [], [], left)
        if self._wake in ready:
            os.read(self._wake, 512)
        if self._stream and self._stream.requests in ready:
            try:
                for line in self._stream.read():
                    self._answer(self._stream, line)
            except Closed:
                self._lose_controller("channel lost")

    def _answer(self, stream: Stream, line: bytes) -> None:
        self._beat = boottime()
        number: Any = None
        try:
            request = parse(line)
            number, op = request.pop("id", None), request.pop("op")
            call = self._operations.find(op, request)
        except Invalid as error:
            stream.write(_refusal(number, error))
            return
        if op in SLOW:
            threading.Thread(
                target=_reply_quietly, args=(stream, number, call), daemon=True
            ).start()
        else:
            _reply(stream, number, call)
            self._beat = boottime()  # an answer that took long is no silence of the controller's

    def _keep_leases(self) -> None:
        now = boottime()
        silence = now - self._beat
        expired = [one for one in self._on() if now >= one.lease.deadline]
        if expired:
            self._heal("deadline", expired)
        for held in self._on():
            self._tick(held)
        losing = [one for one in self._mortal() if silence > one.lease.grace_s]
        if losing:
            self._heal("heartbeat missed", losing)
        missed = any(silence > one.lease.grace_s for one in [*losing, *expired])
        if (missed or silence > _IDLE_S) and not self._on():
            self._stream = None

    def _tick(self, held: Held) -> None:
        try:
            held.tick()
        except (AgentError, OSError) as error:
            complain(str(error))

    def _mortal(self) -> List[Held]:
        """What the controller's loss heals."""
        return [held for held in self._on() if not held.lease.deadline_only]

    def _lose_controller(self, reason: str) -> None:
        self._stream = None
        self._heal(reason, self._mortal())

    def _heed_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGHUP:  # sent by whoever held the channel
                self._lose_controller("SIGHUP")
            elif number == signal.SIGUSR1:
                for held, reason in self._operations.left_orders():
                    self._heal(reason, [held], ordered=reason == ORDER)
                self._stream = None  # another agent speaks for this host by now
            else:
                self._heal(signal.Signals(number).name, self._on())
                self._operations.finished = True

    def _heal(self, reason: str, losing: List[Held], ordered: bool = False) -> None:
        """What fails must not keep the others; the deadline's check comes round to it again."""
        for held in losing:
            try:
                held.revert(reason, ordered)
            except (AgentError, OSError) as error:
                complain(str(error))


def _reply(stream: Stream, number: Any, call: Callable[[], Any]) -> None:
    try:
        answer: Dict[str, Any] = {"id": number, "ok": call()}
    except AgentError as error:
        answer = _refusal(number, error)
    except Exception as error:  # the controller must hear of it, whatever it is
        answer = _refusal(number, AgentError(f"{type(error).__name__}: {error}"))
    stream.write(answer)


def _reply_quietly(stream: Stream, number: Any, call: Callable[[], Any]) -> None:
    with contextlib.suppress(Closed):  # the loop notices by itself
        _reply(stream, number, call)


def _refusal(number: Any, error: AgentError) -> Dict[str, Any]:
    return {"id": number, "error": {"kind": error.kind, "message": str(error)}}


def _words(arguments: List[str]) -> Iterator[str]:
    if len(arguments) != 4 or arguments[0::2] != ["--state", "--host"]:
        raise SystemExit("usage: agent --state FOLDER --host NAME, spoken to in JSON lines")
    yield from arguments[1::2]


def main() -> None:
    """Entry point of the zipapp."""
    spare()
    if folders := os.environ.get("AFTERSHOCK_JOIN"):
        from .cgroups import join

        join(folders.split(":"))
    if sys.argv[1:2] == ["look"]:
        from .looking import look

        print(json.dumps(look(*json.loads(sys.argv[2]))))
        return
    if sys.argv[1:2] and sys.argv[1] in _CHILDREN:
        module, name = _CHILDREN[sys.argv[1]]
        getattr(importlib.import_module(f".{module}", __package__), name)(*sys.argv[2:])
        return
    state, host = _words(sys.argv[1:])
    with contextlib.suppress(OSError):  # leads a group of its own already
        os.setsid()  # Ctrl-C and Ctrl-Z reach the whole foreground group
    answers = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not garble the channel
    alone = Alone(state)
    alone.sweep()
    Agent(Stream(0, answers), Operations(Records(state, host), alone)).run()
