"""Seeded requests as an LLM's clients send them: several languages, lengths and temperatures."""

from __future__ import annotations

import random
from typing import Any

from aftershock.load.settings import LoadSettings

_LONG_SENTENCES = 40
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
    if kind == "short":
        return rng.choice(("Hello!", "Why is the sky blue?", "2 + 2 =", "Name a river."))
    return rng.choice(_SENTENCES[kind])


def request(rng: random.Random, settings: LoadSettings) -> tuple[str, dict[str, Any]]:
    """The path and body of the next request."""
    text = prompt(rng, rng.choice(settings.prompts))
    body: dict[str, Any] = {
        "model": settings.model,
        "max_tokens": rng.randint(*settings.max_tokens),
        "temperature": rng.choice(settings.temperatures),
        "stream": rng.random() < settings.stream_share,
    }
    if rng.random() < settings.chat_share:
        return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}
    return "/v1/completions", {**body, "prompt": text}
