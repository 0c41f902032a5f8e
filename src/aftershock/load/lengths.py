"""How many tokens: a distribution that prompts' and answers' lengths are drawn from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from math import exp, log
from pathlib import Path

from aftershock.errors import InvalidInput

KINDS = ("fixed", "uniform", "lognormal", "file")
MOST_TOKENS = 1_000_000
_Z99 = 2.326  # the 99th percentile of a normal distribution


@dataclass(frozen=True, slots=True)
class Lengths:
    """`fixed`: always `low`; `uniform`: `low` to `high`, both included; `lognormal`: of that
    `median`, one in a hundred longer than `p99`, cut to `low` … `high`; `file`: a number a line of
    `path`, each as likely.
    """

    kind: str = "fixed"
    low: int = 1
    high: int = MOST_TOKENS
    median: float = 0.0
    p99: float = 0.0
    path: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInput(f"lengths: {self.kind!r} given, one of {', '.join(KINDS)} expected")
        if not 1 <= self.low <= self.high <= MOST_TOKENS:
            raise InvalidInput(
                f"lengths from {self.low} to {self.high}: give 1 to {MOST_TOKENS:,}, lowest first"
            )
        if self.kind == "lognormal" and not 0 < self.median <= self.p99:
            raise InvalidInput(f"median {self.median:g}, p99 {self.p99:g}: the p99 is not less")

    def draw(self, rng: random.Random) -> int:
        """The next one."""
        if self.kind == "uniform":
            return rng.randint(self.low, self.high)
        if self.kind == "lognormal":
            sigma = log(self.p99 / self.median) / _Z99
            found = round(self.median * exp(rng.gauss(0.0, sigma)))
            return min(max(found, self.low), self.high)
        return rng.choice(read_lengths(self.path)) if self.kind == "file" else self.low


@cache
def read_lengths(path: str) -> tuple[int, ...]:
    """A file's numbers; `InvalidInput` names the line that is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it isn't UTF-8 text"
        raise InvalidInput(f"{path}: {reason}; give a file with a number a line") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (word := line.strip()) or word.startswith("#"):
            continue
        if not word.isdecimal() or not 1 <= int(word) <= MOST_TOKENS:
            raise InvalidInput(f"{path}, line {number}: {word!r}: give 1 to {MOST_TOKENS:,} tokens")
        found.append(int(word))
    if not found:
        raise InvalidInput(f"{path}, line 1: no lengths: give a number a line")
    return tuple(found)
