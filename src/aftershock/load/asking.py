"""The `requests` block of a load profile: what is asked for, and how; docs/load.md has all keys."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from aftershock.errors import InvalidInput
from aftershock.inventory_yaml import Block, File, Said
from aftershock.load.lengths import MOST_TOKENS, Lengths, read_lengths
from aftershock.load.settings import PROMPT_KINDS

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SHARES = ("chat_share", "stream_share")
KEYS = (
    *_SHARES,
    "prompts",
    "prompt_tokens",
    "output_tokens",
    "temperatures",
    "ignore_eos",
    "min_tokens",
    "timeout_s",
    "retries",
    "usage",
    "headers",
)
_STEPS = ("from", "to", "step")


def requests_of(file: File, said: Said) -> dict[str, Any]:
    """Fields of `LoadSettings`."""
    block = Block(file, said, "requests", KEYS)
    found: dict[str, Any] = {name: block.number(name, 0, 1, float) for name in _SHARES}
    found |= {name: block.truth(name) for name in ("ignore_eos", "usage")}
    found["min_tokens"] = block.number("min_tokens", 0, MOST_TOKENS)
    found["retries"] = block.number("retries", 0, 10)
    found["timeout_s"] = block.number("timeout_s", 0.01, 86_400, float)
    found["prompts"] = _prompts(block)
    found |= {name: _lengths(file, block, name) for name in ("prompt_tokens", "output_tokens")}
    found["temperatures"] = _temperatures(file, block)
    found["headers"] = _headers(file, block)
    return {name: value for name, value in found.items() if value is not None}


def _prompts(block: Block) -> tuple[str, ...] | None:
    words = block.words("prompts")
    for word in words:
        if word not in PROMPT_KINDS:
            known = ", ".join(PROMPT_KINDS)
            raise block.wrong("prompts", f"prompts has {word!r}: give some of {known}")
    return words or None


def _lengths(file: File, block: Block, name: str) -> Lengths | None:
    """`64`, or a mapping that begins with its kind: `{uniform: [64, 2048]}` …"""
    if (said := block.raw(name)) is None:
        return None
    if not isinstance(said.value, Mapping):
        return Lengths("fixed", low=block.number(name, 1, MOST_TOKENS))
    what = f"requests: {name}"
    own = Block(file, said, what, ("uniform", "median", "p99", "min", "max", "file"))
    forms = [form for form in ("uniform", "median", "file") if form in own]
    if len(forms) != 1:
        raise own.wrong(forms[-1] if forms else "", "give one of uniform, median with p99, or file")
    try:
        return _of_form(own, forms[0])
    except InvalidInput as error:
        if str(error).startswith(str(file.path)):
            raise
        raise own.wrong(forms[0], str(error)) from None


def _of_form(own: Block, form: str) -> Lengths:
    idle = [n for n in ("p99", "min", "max") if n in own and form != "median"]
    if idle:
        raise own.wrong(idle[0], f"{idle[0]} belongs to a median: drop it")
    if form == "file":
        path = own.path("file")
        assert path is not None
        read_lengths(path)
        return Lengths("file", path=path)
    if form == "uniform":
        said = own.raw("uniform")
        ends = [one.value for one in said.value] if said and isinstance(said.value, list) else []
        if len(ends) != 2 or not all(type(end) is int for end in ends):
            raise own.wrong("uniform", "uniform is [lowest, highest], two whole numbers")
        return Lengths("uniform", low=ends[0], high=ends[1])
    if "p99" not in own:
        raise own.wrong("median", "a median needs a p99: the length that one in a hundred exceeds")
    return Lengths(
        "lognormal",
        low=own.number("min", 1, MOST_TOKENS) or 1,
        high=own.number("max", 1, MOST_TOKENS) or MOST_TOKENS,
        median=own.number("median", 1, MOST_TOKENS, float),
        p99=own.number("p99", 1, MOST_TOKENS, float),
    )


def _temperatures(file: File, block: Block) -> tuple[float, ...] | None:
    """A number, a list, or `{from: 0.1, to: 1.0, step: 0.1}`; asked for in turn."""
    if (said := block.raw("temperatures")) is None:
        return None
    if isinstance(said.value, Mapping):
        own = Block(file, said, "requests: temperatures", _STEPS)
        low, high, step = (own.number(name, 0, 2, float) for name in _STEPS)
        if low is None or high is None or not step or high < low:
            raise own.wrong("step", "give from, to and step, with steps above 0 from low to high")
        exact, by = Decimal(str(low)), Decimal(str(step))
        return tuple(
            float(exact + i * by) for i in range(int((Decimal(str(high)) - exact) / by) + 1)
        )
    listed = said.value if isinstance(said.value, list) else [said]
    for one in listed:
        number = isinstance(one.value, int | float) and not isinstance(one.value, bool)
        if not number or not 0 <= one.value <= 2:
            raise file.wrong(one.line, f"requests: temperatures has {one.value!r}: give 0 to 2")
    return tuple(float(one.value) for one in listed) or None


def _headers(file: File, block: Block) -> dict[str, str] | None:
    """Texts, or `{env: NAME}` for a value that is a secret."""
    if (said := block.raw("headers")) is None:
        return None
    if not isinstance(said.value, Mapping):
        raise block.wrong("headers", "headers is a mapping of names to texts, or to {env: NAME}")
    found = {}
    for name, value in said.value.items():
        if not _HEADER.fullmatch(name):
            raise file.wrong(value.line, f"requests: header {name!r}: no name of a header")
        if isinstance(value.value, Mapping):
            own = Block(file, value, f"requests: header {name}", ("env",))
            variable = own.needed("env", "name a variable of the environment")
            found[name] = secret(variable, f"{file.path}, line {value.line}: header {name}")
        elif isinstance(value.value, str) and value.value.isprintable():
            found[name] = value.value
        else:
            raise file.wrong(value.line, f"requests: header {name}: give a text, in quotes")
    return found


def secret(variable: str, what: str) -> str:
    """What a variable of the environment holds; it is never told."""
    value = os.environ.get(variable, "").strip()
    if not value:
        raise InvalidInput(f"{what}: the variable {variable} of the environment is not set: set it")
    if not value.isprintable():
        raise InvalidInput(f"{what}: what the variable {variable} holds is no single line of text")
    return value
