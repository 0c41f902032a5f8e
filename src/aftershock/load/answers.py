"""What counts as an answer: a token, a `finish_reason`, `[DONE]` on a stream, and no error in it.

vLLM reports an error in the middle of a stream under HTTP 200 and then sends `[DONE]`; a proxy that
loses its backend ends a stream without one. Both are failures, and so is an answer that came twice,
that is empty, or whose text no model means (docs/load.md lists the kinds).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_KEPT = 8192  # characters of an answer's end that are looked at
_LOST = "�"
_CUT_CHARACTER = 3  # a character of four bytes that `length` cuts leaves as many behind
_UNIT, _TIMES, _SHORTEST = 200, 8, 48
_ANCHOR = 24


class Answer:
    """Takes in a response's body as it comes. `tokens` counts the pieces that carried text.

    `usage` is what the server counted, from the last chunk that has it. `may_repeat`: the model was
    told to go on after its own end, and then even a sound one goes round in circles.
    """

    def __init__(self, *, streamed: bool, may_repeat: bool = False) -> None:
        self._streamed, self._may_repeat = streamed, may_repeat
        self._rest = b""
        self._began = b""
        self._id: Any = None
        self._again = self._undecodable = ""
        self._without_role = False
        self._lost = 0
        self.text = ""  # its end, if it is long
        self.tokens = 0
        self.reason = ""
        self.done = False
        self.error: str | None = None
        self.usage: Mapping[str, Any] = {}

    @property
    def finished(self) -> bool:
        """Whether a reason for the end was given."""
        return bool(self.reason)

    @property
    def output_tokens(self) -> int:
        """As the server counted them, else the pieces that carried text."""
        told = self.usage.get("completion_tokens")
        return told if isinstance(told, int) else self.tokens

    def feed(self, piece: bytes) -> None:
        """Take in what came next."""
        self._began = self._began or piece.lstrip()[:200]
        self._rest += piece
        if not self._streamed:
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, payload: bytes) -> None:
        if self.done:
            self._again = self._again or f"after [DONE]: {payload[:80]!r}"
        if payload == b"[DONE]":
            self.done = True
            return
        try:
            self._take(json.loads(payload))
        except UnicodeDecodeError:
            self._undecodable = f"no UTF-8: {payload[:80]!r}"
        except (ValueError, AttributeError, TypeError):
            self.error = f"not an event: {payload[:80]!r}"

    def _take(self, said: Mapping[str, Any]) -> None:
        if said.get("error"):
            self.error = str(said["error"])[:200]
        if isinstance(usage := said.get("usage"), Mapping):
            self.usage = usage
        if name := said.get("id"):
            if self._id not in (None, name):
                self._again = self._again or f"a second answer in the stream: {name}"
            self._id = name
        for choice in said.get("choices", ()):
            message = choice.get("delta") or choice.get("message") or {}
            text = choice.get("text") or _text_of(message)
            if message.get("role"):  # some servers say it in every chunk, others in the first
                if self._without_role:
                    self._again = self._again or "it began again after its first tokens"
            elif text:
                self._without_role = True
            if text:
                self._say(text)
            self.reason = self.reason or str(choice.get("finish_reason") or "")

    def _say(self, text: str) -> None:
        if self.reason:
            self._again = self._again or f"text after finish_reason {self.reason!r}"
        self.tokens += 1
        self._lost += text.count(_LOST)
        self.text = (self.text + text)[-_KEPT:]

    def end(self) -> tuple[str, str]:
        """Kind of failure ("" for none) and its detail, when the body has ended."""
        if self._began[:1] == b"<":
            return "html", f"a page in the place of an answer: {self._began[:120]!r}"
        if not self._streamed:
            try:
                self._take(json.loads(self._rest))
            except UnicodeDecodeError:
                return "garbled", "no UTF-8"
            except (ValueError, AttributeError, TypeError):
                return "truncated", f"no whole JSON in {len(self._rest)} bytes"
        if self.error:
            return "stream_error" if self._streamed else "answer_error", self.error
        return self._twice() or self._cut() or self._meaningless() or ("", "")

    def _cut(self) -> tuple[str, str] | None:
        if self._streamed and not self.done:
            return "truncated", "the stream ended without [DONE]"
        if not self.finished:
            return "truncated", "no finish_reason"
        return None if self.tokens else ("empty", "no token")

    def _twice(self) -> tuple[str, str] | None:
        counted = self.usage.get("completion_tokens")
        if not self._again and isinstance(counted, int) and self.tokens > counted:
            # Every piece is a token at least.
            self._again = f"{self.tokens} pieces of text in {counted} tokens"
        return ("duplicated", self._again) if self._again else None

    def _meaningless(self) -> tuple[str, str] | None:
        if self._undecodable:
            return "garbled", self._undecodable
        lost = self._lost
        if self.reason == "length":
            lost -= min(len(self.text) - len(self.text.rstrip(_LOST)), _CUT_CHARACTER)
        if lost > 0:
            return "garbled", f"U+FFFD {lost} times: {self.text[-80:]!r}"
        if not self._may_repeat and (unit := repeated(self.text)):
            return "repetition", f"it ends with {unit[:60]!r} over and over"
        return None


def _text_of(message: Mapping[str, Any]) -> str:
    """What a chat's message says; a reasoning model's thoughts are tokens, too."""
    return str(
        message.get("content") or message.get("reasoning_content") or message.get("reasoning") or ""
    )


def repeated(text: str) -> str:
    """What a text ends with again and again, "" if it doesn't.

    A unit of up to 200 characters, at least 8 times and 48 characters, that is half of the text or
    more: a line under a heading, or someone laughing, is less.
    """
    if len(text) < _SHORTEST:
        return ""
    end = text[-_ANCHOR:]
    found = text.rfind(end, 0, len(text) - 1)
    period = len(text) - _ANCHOR - found
    if found < 0 or period > _UNIT:
        return ""
    span = max(_TIMES * period, _SHORTEST, len(text) // 2)
    if span > len(text) or text[-span:-period] != text[-span + period :]:
        return ""
    return text[-period:]
