"""Traces of requests, replayed at the times and with the lengths that were once recorded.

Read a row at a time, so that a trace of any length costs no memory. Three formats, told by the
first line: numbers (`at_s[, prompt_tokens[, output_tokens]]`); CSV with a heading, as of the Azure
LLM inference traces (TIMESTAMP, ContextTokens, GeneratedTokens) and BurstGPT (Timestamp in
seconds, Request tokens, Response tokens); JSON lines as of Mooncake (timestamp in ms,
input_length, output_length) or with `at_s`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from aftershock.errors import InvalidInput

_MOST_TOKENS = 1_000_000
_TIMES = ("at_s", "timestamp")
_PROMPT = ("prompt_tokens", "input_length", "contexttokens", "request tokens")
_OUTPUT = ("output_tokens", "output_length", "generatedtokens", "response tokens")


class Row(NamedTuple):
    """One request: seconds after the first; tokens, 0 where the trace doesn't say."""

    at_s: float
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """What a checked trace is made of."""

    path: str
    requests: int
    length_s: float

    @property
    def rate(self) -> float:
        """Requests a second in the mean."""
        return self.requests / self.length_s


def check(path: Path) -> Trace:
    """Read a trace to its end; `InvalidInput` names the first line that is wrong."""
    count, last = 0, 0.0
    for row in rows(path):
        count, last = count + 1, row.at_s
    if count < 2 or last <= 0:
        raise InvalidInput(f"{path}: a trace has two requests at least, at different times")
    return Trace(str(path.absolute()), count, last * count / (count - 1))


def rows(path: Path) -> Iterator[Row]:
    """The requests in order of time, counted from the first."""
    first, before = None, 0.0
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, said in _parsed(lines):
                row = _row(number, said)
                first = row.at_s if first is None else first
                if (at := row.at_s - first) < before:
                    sentence = f"{at:g} s comes after {before:g} s: sort it by time"
                    raise _Wrong(number, sentence)
                before = at
                yield row._replace(at_s=at)
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: it isn't UTF-8 text") from None
    except _Wrong as error:
        raise InvalidInput(f"{path}, line {error.line}: {error}") from None
    except OSError as error:
        raise InvalidInput(f"trace {path}: {error.strerror}; give the path of a file") from None


def _row(number: int, said: Mapping[str, Any]) -> Row:
    try:
        return Row(_seconds(said), _tokens(said, _PROMPT), _tokens(said, _OUTPUT))
    except ValueError as error:
        raise _Wrong(number, str(error)) from None


class _Wrong(Exception):
    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(sentence)
        self.line = line


def _parsed(lines: Iterator[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers, and what a line says by the columns' names in small letters."""
    heads: list[str] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.lstrip().startswith("{"):
            yield number, {"json": True, **_object(number, line)}
            continue
        cells = [cell.strip() for cell in line.split(",")]
        if heads is None:
            heads, is_heading = _heads(number, cells)
            if is_heading:
                continue
        if len(cells) > len(heads):
            sentence = f"{len(cells)} cells under {len(heads)} columns ({', '.join(heads)})"
            raise _Wrong(number, sentence)
        yield number, dict(zip(heads, cells, strict=False))


def _heads(number: int, cells: list[str]) -> tuple[list[str], bool]:
    """The columns, and whether this line was the heading that names them."""
    heads = [cell.lower() for cell in cells]
    if any(name in heads for name in _TIMES):
        return heads, True
    if _is_number(cells[0]):
        return [_TIMES[0], _PROMPT[0], _OUTPUT[0]], False
    raise _Wrong(number, f"no column of times: name one of them {' or '.join(_TIMES)}")


def _object(number: int, line: str) -> dict[str, Any]:
    try:
        return {str(key).lower(): value for key, value in json.loads(line).items()}
    except ValueError as error:
        raise _Wrong(number, f"not JSON: {error}") from None


def _is_number(text: Any) -> bool:
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False


def _seconds(said: Mapping[str, Any]) -> float:
    name = next((name for name in _TIMES if said.get(name) not in (None, "")), None)
    if name is None:
        raise ValueError(f"no time: give {' or '.join(_TIMES)}")
    value = said[name]
    if isinstance(value, bool) or not _is_number(value):
        try:
            # Azure's traces have seven decimals, which `fromisoformat` of Python 3.11 takes.
            return datetime.fromisoformat(str(value)).timestamp()
        except ValueError:
            raise ValueError(f"{name} is {value!r}: give a number or a date") from None
    if float(value) < 0:
        raise ValueError(f"{name} is {value}: give a time from 0 on")
    return float(value) / (1e3 if name == "timestamp" and said.get("json") else 1)


def _tokens(said: Mapping[str, Any], names: tuple[str, ...]) -> int:
    name = next((name for name in names if said.get(name) not in (None, "")), None)
    if name is None:
        return 0
    value = said[name]
    number = float(value) if not isinstance(value, bool) and _is_number(value) else -1
    if number % 1 or not 0 <= number <= _MOST_TOKENS:
        raise ValueError(f"{name} is {value!r}: give a whole number, 0 to {_MOST_TOKENS:,}")
    return int(number)
