"""What counts as an answer: a token, a `finish_reason`, `[DONE]` on a stream, and no error in it.

vLLM reports an error in the middle of a stream under HTTP 200 and then sends `[DONE]`; a proxy that
loses its backend ends a stream without one. Both are failures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class Answer:
    """Takes in a response's body as it comes. `tokens` counts the pieces that carried text."""

    def __init__(self, *, streamed: bool) -> None:
        self._streamed = streamed
        self._rest = b""
        self.tokens = 0
        self.finished = False
        self.done = False
        self.error: str | None = None

    def feed(self, piece: bytes) -> None:
        self._rest += piece
        if not self._streamed:
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, payload: bytes) -> None:
        if payload == b"[DONE]":
            self.done = True
            return
        try:
            self._take(json.loads(payload))
        except (ValueError, AttributeError, TypeError):
            self.error = f"not an event: {payload[:80]!r}"

    def _take(self, said: Mapping[str, Any]) -> None:
        if "error" in said:
            self.error = str(said["error"])[:200]
        for choice in said.get("choices", ()):
            message = choice.get("delta") or choice.get("message") or {}
            if choice.get("text") or message.get("content"):
                self.tokens += 1
            self.finished = self.finished or bool(choice.get("finish_reason"))

    def end(self) -> tuple[str, str]:
        """Kind of failure ("" for none) and its detail, when the body has ended."""
        if not self._streamed:
            try:
                self._take(json.loads(self._rest))
            except (ValueError, AttributeError, TypeError):
                return "truncated", f"no whole JSON in {len(self._rest)} bytes"
        if self.error:
            return "stream_error" if self._streamed else "answer_error", self.error
        if self._streamed and not self.done:
            return "truncated", "the stream ended without [DONE]"
        if not self.finished:
            return "truncated", "no finish_reason"
        if not self.tokens:
            return "empty", "no token"
        return "", ""
