"""What clients ask for, validated: JSON in, prompts and sampling out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aftershock.lab.model_server.text import Sampling, count_tokens

DEFAULT_COMPLETION_TOKENS = 16


class BadRequest(Exception):
    """A request that can't be served: its status, and a message for OpenAI's error object."""

    def __init__(self, message: str, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


@dataclass(frozen=True, slots=True)
class Ask:
    """A validated request: one answer a prompt."""

    prompts: tuple[str, ...]
    prompt_tokens: tuple[int, ...]
    sampling: Sampling
    stream: bool
    include_usage: bool
    chat: bool


def parse(body: Any, chat: bool, model: str, max_model_len: int, default_seed: int) -> Ask:
    """Validate a request body; `BadRequest` for the first thing that is wrong."""
    if not isinstance(body, Mapping):
        raise BadRequest("the request body must be a JSON object")
    if (asked := body.get("model", model)) != model:
        raise BadRequest(f"The model `{asked}` does not exist.", 404, "model")
    if _number(body, "n", 1, (1, 128), int) != 1:
        raise BadRequest("n must be 1: send several prompts instead", param="n")
    prompts, lengths = _messages(body) if chat else _prompts(body)
    options = body.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise BadRequest("stream_options must be an object", param="stream_options")
    return Ask(
        prompts=prompts,
        prompt_tokens=lengths,
        sampling=_sampling(body, chat, max(lengths), max_model_len, default_seed),
        stream=bool(body.get("stream", False)),
        include_usage=bool(options.get("include_usage", False)),
        chat=chat,
    )


def _sampling(
    body: Mapping[str, Any], chat: bool, prompt_tokens: int, max_model_len: int, default_seed: int
) -> Sampling:
    room = max_model_len - prompt_tokens
    name = "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens"
    default = max(1, room) if chat else DEFAULT_COMPLETION_TOKENS
    max_tokens = int(_number(body, name, default, (1, 1 << 30), int))
    if max_tokens > room:
        raise BadRequest(
            f"This model's maximum context length is {max_model_len} tokens. However, you "
            f"requested {prompt_tokens + max_tokens} tokens ({prompt_tokens} in the prompt, "
            f"{max_tokens} in the completion). Please reduce the length of the prompt or "
            "completion.",
            param=name,
        )
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=int(_number(body, "min_tokens", 0, (0, max_tokens), int)),
        ignore_eos=bool(body.get("ignore_eos", False)),
        temperature=float(_number(body, "temperature", 1.0, (0, 2), float)),
        seed=int(_number(body, "seed", default_seed, (-(1 << 63), 1 << 63), int)),
        stop=_stops(body.get("stop") or []),
    )


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise BadRequest("stop must be a string or a list of strings", param="stop")
    return tuple(stops)


def _number(
    body: Mapping[str, Any], name: str, default: float, bounds: tuple[float, float], kind: type
) -> float:
    low, high = bounds
    value = body.get(name)
    if value is None:
        return default
    wanted = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted) or not low <= value <= high:
        raise BadRequest(
            f"{name} must be {'an integer' if kind is int else 'a number'} from {low:g} to "
            f"{high:g}, got {value!r}",
            param=name,
        )
    return value


def _prompts(body: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return (prompt,), (count_tokens(prompt),)
    if isinstance(prompt, list) and prompt:
        if all(isinstance(each, str) for each in prompt):
            return tuple(prompt), tuple(count_tokens(each) for each in prompt)
        if _is_tokens(prompt):
            return (str(prompt),), (len(prompt),)
        if all(_is_tokens(each) for each in prompt):
            return tuple(str(each) for each in prompt), tuple(len(each) for each in prompt)
    raise BadRequest("prompt must be a string, token ids, or a list of either", param="prompt")


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)


def _messages(body: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with at least one message", param="messages")
    prompt = "\n".join(_message(message) for message in messages)
    return (prompt,), (count_tokens(prompt),)


def _message(message: Any) -> str:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise BadRequest("each message must have a role", param="messages")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise BadRequest("only text content is supported", param="messages")
        content = "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise BadRequest("each message must have content", param="messages")
    return f"{message['role']}: {content}"
