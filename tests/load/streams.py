"""Answers as services give them, sound and broken, event by event; `KINDS` says what each is."""

from __future__ import annotations

import json
from typing import Any

# What a client has to make of each: "" is a sound answer.
KINDS = {
    "plain": "",
    "laughing": "",  # the same words again, but not without end
    "table": "",  # a long line of dashes, and text after it
    "cut_character": "",  # `length` may cut a character of several bytes
    "role_everywhere": "",
    "comments": "",
    "reasoning": "",
    "no_usage": "",
    "no_done": "truncated",
    "no_reason": "truncated",
    "error": "stream_error",
    "every_chunk_twice": "duplicated",
    "begun_again": "duplicated",  # in completions no role tells it, but the count does
    "another_answer": "duplicated",
    "after_the_end": "duplicated",
    "after_done": "duplicated",
    "empty": "empty",
    "lost_characters": "garbled",
    "no_utf8": "garbled",
    "exclaiming": "repetition",
    "same_sentence": "repetition",
    "page": "html",
}
PLAIN = ("One ", "zone ", "is ", "gone, ", "two ", "go ", "on.")
TEXTS: dict[str, tuple[str, ...]] = {
    "laughing": ("Ha ", "ha ", "ha ", "ha ", "ha, ", "very funny!"),
    "table": (
        "Results\n",
        "-" * 60,
        "\n",
        *("| zone a | 12 ms | fine |\n", "| zone b | none |\n") * 2,
    ),
    "cut_character": (*PLAIN, " 京", "��"),
    "lost_characters": ("One ", "��", " zone"),
    "exclaiming": ("Yes", *("!" * 8,) * 12),
    "same_sentence": (*PLAIN, *("The zone is the zone. ",) * 9),
    "empty": ("",),
    "reasoning": PLAIN,
}
DONE = b"data: [DONE]\n\n"


def events(mode: str, chat: bool) -> list[bytes]:
    """The pieces of a stream."""
    texts = TEXTS.get(mode, PLAIN)
    chunks = [chunk(mode, chat, text, i) for i, text in enumerate(texts)]
    reason = "length" if mode == "cut_character" else "stop"
    last = event({"choices": [choice("", chat, 9, mode, reason)], "id": "a"})
    counted = {"prompt_tokens": 5, "completion_tokens": len(texts) if texts != ("",) else 0}
    usage = event({"choices": [], "usage": counted, "id": "a"})
    if mode == "every_chunk_twice":
        chunks = [one for one in chunks for _ in range(2)]
    if mode in ("begun_again", "another_answer"):
        chunks = chunks[:3] + [
            chunk(mode, chat, text, i, again=True) for i, text in enumerate(texts)
        ]
    if mode == "comments":
        chunks = [piece for one in chunks for piece in (b": ping\n\n", one)]
    if mode == "error":
        chunks.append(b'data: {"error": {"message": "engine died"}}\n\n')
    if mode == "no_utf8":
        chunks.append(chunks[-1].replace(b"on.", b"\xff\xfe"))
    ends = [last, usage, DONE]
    if mode == "no_usage":
        ends = [last, DONE]
    if mode == "after_the_end":
        ends = [last, chunks[0], usage, DONE]
    if mode == "after_done":
        ends = [last, usage, DONE, *chunks, DONE]
    if mode == "no_done":
        ends = [last, usage]
    if mode == "no_reason":
        ends = [usage, DONE]
    return [*chunks, *ends]


def chunk(mode: str, chat: bool, text: str, number: int, *, again: bool = False) -> bytes:
    name = "b" if again and mode == "another_answer" else "a"
    return event({"choices": [choice(text, chat, number, mode)], "id": name})


def choice(
    text: str, chat: bool, number: int, mode: str, reason: str | None = None
) -> dict[str, Any]:
    if not chat:
        return {"text": text, "finish_reason": reason}
    delta = {"reasoning_content" if mode == "reasoning" else "content": text}
    if number == 0 or mode == "role_everywhere":
        delta["role"] = "assistant"
    return {"delta": delta, "finish_reason": reason}


def event(said: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def whole(mode: str, chat: bool) -> bytes:
    """The answer in one piece."""
    text = "".join(TEXTS.get(mode, PLAIN))
    said = {"message": {"content": text}} if chat else {"text": text}
    reason = {"no_reason": None, "cut_character": "length"}.get(mode, "stop")
    body: dict[str, Any] = {"choices": [{**said, "finish_reason": reason}]}
    if mode != "no_usage":
        body["usage"] = {"prompt_tokens": 5, "completion_tokens": 7}
    if mode == "error":
        body = {"error": {"message": "engine died"}}
    encoded = json.dumps(body).encode()
    if mode == "no_utf8":
        return encoded.replace(b"zone", b"\xff")
    return encoded[:-20] if mode == "no_done" else encoded
