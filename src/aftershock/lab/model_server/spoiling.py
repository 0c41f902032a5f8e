"""Answers spoilt on purpose, in time and under HTTP 200, as a broken engine gives them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from aftershock.lab.model_server.text import VOCABULARY, Answer

_FOREIGN = ("ответ", "служба", "узел", "время", "сеть", "память", "запрос", "зона")


def _corrupt(answer: Answer, rng: random.Random) -> Answer:
    """Every third token is another word, in which no prompt's known answer stands."""
    words = [
        f" {rng.choice(VOCABULARY)}" if i % 3 == 0 else token
        for i, token in enumerate(answer.tokens)
    ]
    return replace(answer, tokens=tuple(words))


def _truncate(answer: Answer, _: random.Random) -> Answer:
    kept = answer.tokens[: max(1, len(answer.tokens) // 4)]
    return replace(answer, tokens=kept, finish_reason="stop")


def _repeat(answer: Answer, _: random.Random) -> Answer:
    return replace(answer, tokens=("!!",) * max(len(answer.tokens), 32))


def _swap(answer: Answer, rng: random.Random) -> Answer:
    """What somebody else asked for."""
    words = tuple(f" {word}" for word in rng.choices(VOCABULARY, k=len(answer.tokens)))
    return replace(answer, tokens=words)


def _garble(answer: Answer, _: random.Random) -> Answer:
    return replace(answer, tokens=tuple("�" + token[2:] for token in answer.tokens))


def _translate(answer: Answer, rng: random.Random) -> Answer:
    return replace(answer, tokens=tuple(f" {rng.choice(_FOREIGN)}" for _ in answer.tokens))


SPOILED: dict[str, Callable[[Answer, random.Random], Answer]] = {
    "corrupt": _corrupt,
    "garble": _garble,
    "repeat": _repeat,
    "swap": _swap,
    "translate": _translate,
    "truncate": _truncate,
}


def spoiled(answer: Answer, mode: str, seed: str) -> Answer:
    """An answer as `mode` (a key of SPOILED) makes it."""
    return SPOILED[mode](answer, random.Random(f"{mode}/{seed}"))
