"""Asks the golden prompts, one after the other, at a fixed rate, all through a run."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Mapping
from email.message import Message
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit

from aftershock.errors import InvalidInput
from aftershock.load.answers import Answer
from aftershock.load.golden import MAX_TOKENS, PROMPTS
from aftershock.load.scoring import Sample, Scorer
from aftershock.load.tls import tls_context

GROUP = "aftershock.scorers"
_HANDS = 4  # so that one that hangs doesn't hold up the others
_TIMEOUT_S = 10.0
_REPLICA = ("x-served-by", "x-backend-server", "x-upstream")


def replica_of(headers: Mapping[str, str] | Message) -> str:
    """Which replica a gateway says an answer is of; "" if it doesn't."""
    return next((value for name in _REPLICA if (value := headers.get(name))), "")


class GoldenPrompts:
    """Threads that ask; `samples` is what was answered so far, in order of asking."""

    def __init__(
        self, url: str, model: str, rps: float, headers: Mapping[str, str], verify_tls: bool
    ) -> None:
        self._address, self._model = urlsplit(url), model
        self._every_s = 1 / rps
        self._headers = {"Content-Type": "application/json", "Connection": "close", **headers}
        self._tls = tls_context(verify_tls) if self._address.scheme == "https" else None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._next = 0
        self._began = 0.0
        self._samples: list[Sample] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to ask."""
        self._began = time.monotonic()
        for i in range(_HANDS):
            thread = threading.Thread(target=self._ask_on, name=f"golden-{i}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Ask no more. Idempotent."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(_TIMEOUT_S + 2)

    @property
    def samples(self) -> list[Sample]:
        """In order of asking."""
        with self._lock:
            return sorted(self._samples, key=lambda sample: sample.at)

    def _ask_on(self) -> None:
        while True:
            with self._lock:
                late = int((time.monotonic() - self._began) / self._every_s)
                number = self._next = max(
                    self._next, late
                )  # what nobody had a hand for is left out
                self._next += 1
            due = self._began + number * self._every_s
            if self._stopped.wait(max(due - time.monotonic(), 0.0)):
                return
            sample = self._ask(number % len(PROMPTS))
            with self._lock:
                self._samples.append(sample)

    def _ask(self, number: int) -> Sample:
        asked = time.monotonic()
        try:
            replica, text, kind = self._answered(PROMPTS[number].text)
        except (OSError, http.client.HTTPException) as error:
            return Sample(asked, number, "", "", type(error).__name__)
        return Sample(asked, number, replica, text, kind)

    def _answered(self, prompt: str) -> tuple[str, str, str]:
        told = {"model": self._model, "prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0}
        name, port = self._address.hostname or "", self._address.port
        line = (
            http.client.HTTPSConnection(name, port, timeout=_TIMEOUT_S, context=self._tls)
            if self._tls
            else http.client.HTTPConnection(name, port, timeout=_TIMEOUT_S)
        )
        try:
            path = self._address.path.rstrip("/") + "/v1/completions"
            line.request("POST", path, json.dumps(told), self._headers)
            got = line.getresponse()
            replica = replica_of(got.headers)
            answer = Answer(streamed=False, may_repeat=True)
            answer.feed(got.read(1 << 20))
            if got.status >= 400:
                return replica, "", f"http_{got.status}"
            kind, _ = answer.end()
        finally:
            line.close()
        # What says nothing, or garbage, is an answer, and judged as one.
        return replica, answer.text, "" if kind in ("empty", "garbled") else kind


def scorer_of(name: str) -> Scorer | None:
    """A user's scorer by its entry point's name; "" for none. `InvalidInput` if there isn't one."""
    if not name:
        return None
    installed = entry_points(group=GROUP)
    if name not in installed.names:
        known = ", ".join(sorted(installed.names)) or "none"
        raise InvalidInput(
            f"scorer {name!r}: no such entry point in the group {GROUP} (installed: {known})"
        )
    found: Any = installed[name].load()
    if not callable(found):
        raise InvalidInput(f"scorer {name!r}: {found!r} is no function of prompt, baseline, answer")
    return found  # type: ignore[no-any-return]
