"""Answers: the same prompt and seed always give the same words."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

_TEXT = (
    "the a of to in and is that it for on with as by at from this which be are was when where how "
    "zone node server model token request answer question prompt memory cache batch queue load "
    "time state steady fault recovery service network packet storage disk cluster region traffic "
    "first second next after before during while because so then there here many few more less "
    "slow fast large small long short simple careful honest clear exact ready open closed full "
    "measure observe wait send receive start stop fail heal return serve route retry report count"
)
_WORDS = tuple(_TEXT.split())
VOCABULARY = (*_WORDS, *(f"{word}." for word in _WORDS[20:60]))
_TYPICAL_LENGTH = 160
_KNOWN = {
    "France is": "Paris",
    "中国的首都是": "北京",
    "日本の首都は": "東京",
    "대한민국의 수도는": "서울",
}
_SUM = re.compile(r"(\d{1,9}) \+ (\d{1,9}) =\s*$")


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens of an answer, leading spaces included, and why it ends there."""

    tokens: tuple[str, ...]
    finish_reason: str

    def text(self, start: int, end: int) -> str:
        """Tokens `start` to `end`."""
        return "".join(self.tokens[start:end])


@dataclass(frozen=True, slots=True)
class Sampling:
    """What of a request decides the answer."""

    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    temperature: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


def count_tokens(prompt: str) -> int:
    """About four bytes of UTF-8 a token, as tokenizers come to on mixed text."""
    return max(1, -(-len(prompt.encode()) // 4))


def answer(prompt: str, sampling: Sampling) -> Answer:
    """The answer; at temperature 0 the seed plays no part."""
    seed = sampling.seed if sampling.temperature > 0 else 0
    rng = random.Random(f"{seed}/{prompt}")
    natural = max(sampling.min_tokens, 1, round(rng.lognormvariate(0, 0.6) * _TYPICAL_LENGTH))
    length = sampling.max_tokens if sampling.ignore_eos else min(natural, sampling.max_tokens)
    reason = "stop" if natural <= sampling.max_tokens and not sampling.ignore_eos else "length"
    words = rng.choices(VOCABULARY, k=length)
    if known := _known(prompt):
        words[0] = known
    # Made from a generator, each would be left to a free list of the interpreter's when it goes: up
    # to 2,000 a length, which takes hours of load to fill and looks like a leak.
    tokens = tuple([f" {word}" for word in words])
    return _stopped(tokens, sampling) or Answer(tokens, reason)


def _known(prompt: str) -> str:
    """It can add and knows some capitals, so that there are answers to be right about."""
    if asked := _SUM.search(prompt):
        return str(int(asked[1]) + int(asked[2]))
    said = prompt.strip()
    return next((answer for end, answer in _KNOWN.items() if said.endswith(end)), "")


def _stopped(tokens: tuple[str, ...], sampling: Sampling) -> Answer | None:
    """Cut before the first stop string that lies after `min_tokens`."""
    if not sampling.stop:
        return None
    head = "".join(tokens[: sampling.min_tokens])
    whole = "".join(tokens)
    found = [at for stop in sampling.stop if (at := whole.find(stop, len(head))) >= 0]
    if not found:
        return None
    kept: list[str] = []
    room = min(found)
    for token in tokens:
        if room <= 0:
            break
        kept.append(token[:room])
        room -= len(token)
    return Answer(tuple(kept or [""]), "stop")
