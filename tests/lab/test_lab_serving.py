"""The service as its clients see it, through the gateway."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from typing import Any

import pytest

from aftershock.lab.world import Lab, gateway_status


def call(lab: Lab, path: str, body: Any = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", lab.settings.gateway_port, timeout=10)
    try:
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, sent)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ask(lab: Lab, **fields: Any) -> dict[str, Any]:
    path = "/v1/chat/completions" if "messages" in fields else "/v1/completions"
    status, answer = call(lab, path, {"model": lab.inventory.model, **fields})
    assert status == 200, answer
    return dict(json.loads(answer))


def events(lab: Lab, path: str, **fields: Any) -> list[dict[str, Any]]:
    status, answer = call(lab, path, {"stream": True, **fields})
    assert status == 200, answer
    *chunks, done, end = answer.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


def test_a_completion_has_the_tokens_that_were_asked_for(lab: Lab) -> None:
    answer = ask(lab, prompt="What is a zone?", max_tokens=24, ignore_eos=True)
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert len(answer["choices"][0]["text"].split()) == 24
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 24, "total_tokens": 28}


def test_a_stream_says_the_same_and_ends_with_reason_usage_and_done(lab: Lab) -> None:
    asked = {"prompt": "Tell me", "max_tokens": 24, "seed": 5, "ignore_eos": True}
    chunks = events(lab, "/v1/completions", **asked)
    assert len(chunks) > 2
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (
        len(chunks) - 1
    )
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 24
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert text == ask(lab, **asked)["choices"][0]["text"]


def test_chat_streams_deltas_and_usage_in_a_chunk_of_its_own_where_asked(lab: Lab) -> None:
    chunks = events(
        lab,
        "/v1/chat/completions",
        messages=[{"role": "user", "content": [{"type": "text", "text": "你好"}]}],
        max_tokens=12,
        stream_options={"include_usage": True},
    )
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    assert all("usage" not in chunk for chunk in chunks[:-1])


def test_seed_and_prompt_decide_the_answer_and_temperature_0_ignores_the_seed(lab: Lab) -> None:
    def text(**fields: Any) -> str:
        return str(ask(lab, max_tokens=16, **fields)["choices"][0]["text"])

    assert text(prompt="a", seed=1) == text(prompt="a", seed=1)
    assert text(prompt="a", seed=1) != text(prompt="a", seed=2)
    assert text(prompt="a", seed=1) != text(prompt="b", seed=1)
    assert text(prompt="a", seed=1, temperature=0) == text(prompt="a", seed=2, temperature=0)


def test_models_and_health(lab: Lab) -> None:
    status, models = call(lab, "/v1/models")
    assert (status, json.loads(models)["data"][0]["id"]) == (200, lab.inventory.model)
    assert call(lab, "/health") == (200, b"")


def test_metrics_carry_vllms_names(lab: Lab) -> None:
    for _ in range(len(lab.inventory.nodes)):
        ask(lab, prompt="count me", max_tokens=4)
    status, page = call(lab, "/metrics")
    text = page.decode()
    assert status == 200
    for name in (
        *("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
        *("vllm:num_preemptions_total", "vllm:time_to_first_token_seconds_bucket"),
        *("vllm:inter_token_latency_seconds_bucket", "vllm:e2e_request_latency_seconds_bucket"),
    ):
        assert f"\n{name}{{" in f"\n{text}", name
    count = next(x for x in text.splitlines() if x.startswith("vllm:e2e_request_latency_seconds_c"))
    assert int(count.rpartition(" ")[2]) >= 1


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "JSON object"),
        ({"prompt": 3}, 400, "prompt must be"),
        ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens must be an integer"),
        ({"prompt": "a", "max_tokens": 5000}, 400, "maximum context length is 4096"),
        ({"prompt": "a", "min_tokens": 20, "max_tokens": 10}, 400, "min_tokens"),
        ({"prompt": "a", "temperature": 3}, 400, "temperature must be a number"),
        ({"prompt": "a", "model": "gpt-5"}, 404, "`gpt-5` does not exist"),
        ({"prompt": "a", "stream": True, "seed": "x"}, 400, "seed must be"),
    ],
)
def test_a_bad_request_gets_openais_error_object(
    lab: Lab, body: Any, status: int, says: str
) -> None:
    got, answer = call(lab, "/v1/completions", body)
    error = json.loads(answer)["error"]
    assert (got, error["code"]) == (status, status)
    assert says in error["message"]


def test_the_gateway_spreads_requests_and_counts_them(lab: Lab) -> None:
    before = {slot.node: slot.requests_total for slot in gateway_status(lab)}
    for _ in range(12):
        ask(lab, prompt="hi", max_tokens=1)
    slots = gateway_status(lab)
    assert [slot.requests_total - before[slot.node] for slot in slots] == [2] * 6
    assert all(slot.up for slot in slots)
    assert [slot.zone for slot in slots] == ["az-a"] * 2 + ["az-b"] * 2 + ["az-c"] * 2
