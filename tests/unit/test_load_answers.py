"""What a client makes of streams from a real server, sound and broken, in its own pieces."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "load"))

from rig import Service
from streams import KINDS

from aftershock.load.answers import Answer, repeated


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    running = Service(modes=["plain"])
    yield running
    running.stop()


def asked(service: Service, mode: str, *, chat: bool, streamed: bool, size: int = 37) -> Answer:
    body = {"model": mode, "stream": streamed, "messages" if chat else "prompt": "hello"}
    line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    line.request("POST", "/v1/completions", json.dumps(body))
    got, answer = line.getresponse(), Answer(streamed=streamed)
    while piece := got.read(size):
        answer.feed(piece)
    line.close()
    return answer


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("chat", [True, False])
def test_streams_of_a_real_server(service: Service, mode: str, chat: bool) -> None:
    answer = asked(service, mode, chat=chat, streamed=True)
    kind, detail = answer.end()
    assert kind == KINDS[mode], detail
    assert bool(detail) == bool(kind)
    if not kind:
        assert answer.output_tokens >= answer.tokens > 1
        assert bool(answer.usage) == (mode != "no_usage")


@pytest.mark.parametrize("mode", ["plain", "laughing", "table", "cut_character", "no_usage"])
def test_sound_answers_in_one_piece(service: Service, mode: str) -> None:
    answer = asked(service, mode, chat=True, streamed=False)
    assert answer.end() == ("", "")
    assert answer.output_tokens == (1 if mode == "no_usage" else 7)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("no_done", "truncated"),
        ("no_reason", "truncated"),
        ("error", "answer_error"),
        ("empty", "empty"),
        ("lost_characters", "garbled"),
        ("no_utf8", "garbled"),
        ("exclaiming", "repetition"),
        ("same_sentence", "repetition"),
        ("page", "html"),
    ],
)
def test_broken_answers_in_one_piece(service: Service, mode: str, kind: str) -> None:
    assert asked(service, mode, chat=False, streamed=False).end()[0] == kind


def test_a_model_that_was_told_to_go_on_may_go_round_in_circles() -> None:
    answer = Answer(streamed=False, may_repeat=True)
    said = {"choices": [{"text": "round " * 99, "finish_reason": "length"}]}
    answer.feed(json.dumps(said).encode())
    assert answer.end() == ("", "")


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("", ""),
        ("no " * 15, ""),
        ("no " * 17, "no "),
        ("Yes, " + "!" * 99, "!"),
        (
            "a line " * 3
            + "-" * 80
            + "\nand more than half of the text that is said comes after" * 2,
            "",
        ),
        ("".join(f"row {i}: ok\n" for i in range(60)), ""),
        ("好的。" * 40, "好的。"),
        ("The same sentence, word for word, without an end. " * 7, ""),
        ("The same sentence, word for word, without an end. " * 8, "word for word"),
    ],
)
def test_what_repeats_without_end(text: str, unit: str) -> None:
    found = repeated(text)
    assert bool(found) == bool(unit) and unit in found * 2
