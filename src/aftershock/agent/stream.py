"""JSON lines over the agent's standard streams, without ever waiting for long."""

from __future__ import annotations

import json
import os
import select
import threading
from typing import Any, Dict, List

from .errors import Invalid

_PATIENCE_S = 1.0
_LONGEST = 64 << 20


class Closed(Exception):
    """The controller's end is gone."""


class Stream:
    """Requests in, answers out. Answers may come from several threads."""

    def __init__(self, requests: int, answers: int) -> None:
        self.requests = requests
        self._answers = answers
        self._rest = b""
        self._lock = threading.Lock()
        os.set_blocking(requests, False)
        os.set_blocking(answers, False)

    def read(self) -> List[bytes]:
        """The whole lines that are there; Closed at the end of the stream."""
        try:
            chunk = os.read(self.requests, 1 << 16)
        except BlockingIOError:
            return []
        except OSError as error:
            raise Closed from error
        if not chunk:
            raise Closed
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LONGEST:
            raise Closed
        return lines

    def write(self, answer: Dict[str, Any]) -> None:
        """Send a line; a controller that doesn't read (a paused one) must not hold up the lease."""
        line = json.dumps(answer).encode() + b"\n"
        with self._lock:
            while line:
                if not select.select([], [self._answers], [], _PATIENCE_S)[1]:
                    raise Closed
                try:
                    line = line[os.write(self._answers, line) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise Closed from error


def parse(line: bytes) -> Dict[str, Any]:
    """A request, or Invalid."""
    try:
        request = json.loads(line)
    except ValueError as error:
        raise Invalid(f"not JSON: {error}") from None
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        raise Invalid("a request is an object with an `op`")
    return request
