"""Seeded requests as an LLM's clients send them: several languages, lengths and temperatures."""

from __future__ import annotations

import random
from typing import Any

from aftershock.load.settings import LoadSettings

_LONG_SENTENCES = 40
# In front of many questions: what an engine's prefix cache is for.
_PREFIX = (
    "You are the assistant of an operations team. Answer in short sentences. Name the source of "
    "each claim. If you do not know, say so, and say who would. Do not repeat the question. "
) * 8
_SENTENCES = {
    "english": (
        "Explain how a load balancer notices that a server is gone.",
        "Summarise the incident report and name the root cause.",
        "Which seat should I book for a night train to Vienna?",
        "Compare two ways to store sensor readings for ten years.",
    ),
    "chinese": (
        "请解释负载均衡器如何发现服务器已经下线。",
        "总结这份事故报告，并指出根本原因。",
        "用三句话介绍长江的地理特点。",
        "比较两种保存传感器数据的方法。",
    ),
    "japanese": (
        "ロードバランサーがサーバーの停止を検知する仕組みを説明してください。",
        "障害報告書を要約し、根本原因を挙げてください。",
        "京都で雨の日に楽しめる場所を三つ教えてください。",
    ),
    "korean": (
        "로드 밸런서가 서버 장애를 감지하는 방법을 설명해 주세요.",
        "장애 보고서를 요약하고 근본 원인을 알려 주세요.",
        "부산에서 주말을 보내는 방법을 추천해 주세요.",
    ),
    "code": (
        "def quantile(values: list[float], share: float) -> float:\n    # complete this function\n",
        "SELECT zone, count(*) FROM pods WHERE ready GROUP BY zone; -- explain this query",
        "fn retry<T>(mut call: impl FnMut() -> Option<T>) -> T { /* with backoff */ }",
    ),
}


def prompt(rng: random.Random, kind: str) -> str:
    """A prompt of a kind (see `PROMPT_KINDS`), by chance."""
    if kind == "long":
        return " ".join(rng.choice(_SENTENCES["english"]) for _ in range(_LONG_SENTENCES))
    if kind == "shared":
        return _PREFIX + rng.choice(_SENTENCES["english"])
    if kind == "short":
        return rng.choice(("Hello!", "Why is the sky blue?", "2 + 2 =", "Name a river."))
    return rng.choice(_SENTENCES[kind])


def of_length(rng: random.Random, kind: str, tokens: int) -> str:
    """A prompt of about so many tokens, at four bytes of UTF-8 each, as tokenizers come to."""
    room, parts = 4 * tokens, list[str]()
    while room > 0:
        parts.append(prompt(rng, kind))
        room -= len(parts[-1].encode()) + 1
    whole = " ".join(parts).encode()[: 4 * tokens]
    return whole.decode(errors="ignore")


def request(
    rng: random.Random,
    settings: LoadSettings,
    number: int = 0,
    prompt_tokens: int = 0,
    output_tokens: int = 0,
) -> tuple[str, dict[str, Any]]:
    """The path and body of a worker's request of that number; tokens above 0 are a trace's."""
    kind = rng.choice(settings.prompts)
    if settings.prompt_tokens and not prompt_tokens:
        prompt_tokens = settings.prompt_tokens.draw(rng)
    text = of_length(rng, kind, prompt_tokens) if prompt_tokens else prompt(rng, kind)
    asked = output_tokens or settings.output_tokens.draw(rng)
    body: dict[str, Any] = {
        "model": settings.model,
        "max_tokens": max(asked, settings.min_tokens),
        "temperature": settings.temperatures[number % len(settings.temperatures)],
        "stream": rng.random() < settings.stream_share,
    }
    if settings.min_tokens:
        body["min_tokens"] = settings.min_tokens
    if settings.ignore_eos:
        body["ignore_eos"] = True
    if body["stream"] and settings.usage:
        body["stream_options"] = {"include_usage": True}
    if rng.random() < settings.chat_share:
        return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}
    return "/v1/completions", {**body, "prompt": text}
