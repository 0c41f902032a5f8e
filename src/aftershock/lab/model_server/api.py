"""OpenAI's HTTP API over an engine, with vLLM's `/health` and `/metrics`."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from aftershock.lab.model_server.engine import Engine
from aftershock.lab.model_server.requests import Ask, BadRequest, parse
from aftershock.lab.model_server.scheduler import Sequence
from aftershock.lab.model_server.spoiling import spoiled
from aftershock.lab.model_server.text import Answer, answer

MAX_BODY_BYTES = 16 << 20
_ERROR_TYPES = {400: "BadRequestError", 404: "NotFoundError"}
_SSE = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class Api:
    """The handlers of one server."""

    def __init__(self, engine: Engine, model: str, max_model_len: int, seed: int) -> None:
        self._engine = engine
        self._model = model
        self._max_model_len = max_model_len
        self._seed = seed
        self._created = int(time.time())
        self.spoil: str | None = None  # a key of SPOILED

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors])
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/chat/completions", self.chat_completions)
        return app

    async def health(self, _: web.Request) -> web.Response:
        """200 while the process serves; like vLLM's, it does not ask the engine."""
        return web.Response()

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus text."""
        state = self._engine.scheduler
        return web.Response(
            text=self._engine.metrics.text(
                len(state.running), len(state.waiting), state.kv_usage, state.preemptions
            ),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def models(self, _: web.Request) -> web.Response:
        """The one model."""
        entry = {
            "id": self._model,
            "object": "model",
            "created": self._created,
            "owned_by": "aftershock",
            "max_model_len": self._max_model_len,
        }
        return web.json_response({"object": "list", "data": [entry]})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """`/v1/completions`."""
        return await self._answer(request, chat=False)

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        """`/v1/chat/completions`."""
        return await self._answer(request, chat=True)

    async def _answer(self, request: web.Request, chat: bool) -> web.StreamResponse:
        try:
            body = json.loads(await request.read())
        except ValueError as why:
            raise BadRequest(f"the request body is not JSON: {why}") from why
        ask = parse(body, chat, self._model, self._max_model_len, self._seed)
        answers = [answer(prompt, ask.sampling) for prompt in ask.prompts]
        if self.spoil:
            pairs = zip(answers, ask.prompts, strict=True)
            answers = [spoiled(each, self.spoil, prompt) for each, prompt in pairs]
        reply = _Reply(ask, answers, self._model)
        if ask.stream:
            return await self._stream(request, reply)
        await asyncio.gather(*(self._drain(reply.sequence(i)) for i in range(len(answers))))
        for each in answers:
            self._engine.metrics.finished[each.finish_reason] += 1
        return web.json_response(reply.whole())

    async def _drain(self, sequence: Sequence) -> None:
        async for _ in self._engine.generate(sequence):
            pass

    async def _stream(self, request: web.Request, reply: _Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers=_SSE)
        indexes = range(len(reply.answers))
        await response.prepare(request)
        await asyncio.gather(*(self._stream_one(response, reply, index) for index in indexes))
        if reply.ask.include_usage:
            await response.write(_event(reply.chunk([], reply.usage())))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _stream_one(self, response: web.StreamResponse, reply: _Reply, index: int) -> None:
        sequence = reply.sequence(index)
        sent = 0
        async for count in self._engine.generate(sequence):
            await response.write(_event(reply.delta(index, sent, count)))
            sent = count
        self._engine.metrics.finished[reply.answers[index].finish_reason] += 1


class _Reply:
    """An answer in OpenAI's shapes."""

    def __init__(self, ask: Ask, answers: list[Answer], model: str) -> None:
        self.ask = ask
        self.answers = answers
        kind = "chat.completion" if ask.chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if ask.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": f"{kind}.chunk" if ask.chat and ask.stream else kind,
            "created": int(time.time()),
            "model": model,
        }

    def sequence(self, index: int) -> Sequence:
        """What the engine is to work on."""
        length = len(self.answers[index].tokens)
        return Sequence(self.ask.prompt_tokens[index], length, self.ask.stream)

    def usage(self) -> dict[str, int]:
        """Token counts over all answers."""
        prompt = sum(self.ask.prompt_tokens)
        generated = sum(len(each.tokens) for each in self.answers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
        }

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> dict[str, Any]:
        """A chunk of a stream."""
        chunk = {**self._head, "choices": choices}
        return {**chunk, "usage": usage} if usage else chunk

    def delta(self, index: int, sent: int, count: int) -> dict[str, Any]:
        """The tokens from `sent` to `count`; the last one tells the reason and the usage."""
        each = self.answers[index]
        last = count == len(each.tokens)
        text = each.text(sent, count)
        choice: dict[str, Any] = {
            "index": index,
            "finish_reason": each.finish_reason if last else None,
            "logprobs": None,
        }
        if self.ask.chat:
            choice["delta"] = {"content": text} if sent else {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        only = last and len(self.answers) == 1 and not self.ask.include_usage
        return self.chunk([choice], self.usage() if only else None)

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        choices = []
        for index, each in enumerate(self.answers):
            choice = {"index": index, "finish_reason": each.finish_reason, "logprobs": None}
            text = each.text(0, len(each.tokens))
            said = {"role": "assistant", "content": text}
            choices.append({**choice, **({"message": said} if self.ask.chat else {"text": text})})
        return {**self._head, "choices": choices, "usage": self.usage()}


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refusals as OpenAI's error object."""
    try:
        return await handler(request)
    except BadRequest as why:
        return _refusal(str(why), why.status, why.param)
    except web.HTTPException as why:
        return _refusal(why.reason, why.status, None)


def _refusal(message: str, status: int, param: str | None) -> web.Response:
    kind = _ERROR_TYPES.get(status, "APIError")
    error = {"message": message, "type": kind, "param": param, "code": status}
    return web.json_response({"error": error}, status=status)
