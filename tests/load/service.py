"""A small OpenAI-like service that goes away by itself, at planned monotonic times.

Reads its plan as one JSON line on stdin: {port, seed, outages: [[start, end, share, how]], …}; it
listens on loopback, or on `host`.
`how` is "close" (the listener goes, connections are reset), "reset" (a seeded `share` of
requests is reset) or "stall" (answers wait for the end). `modes`: answers of `streams.py`, in turn,
or the one that the request's model names; `told_back` is 401 with the token in it. `tls`: the files
of a certificate and its key. `tell`: say what each request
asks for. Prints what it did. Ends with stdin.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
import struct
import sys
import time
from typing import Any

import streams

TOKEN_S = 0.005


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


class Service:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.rng = random.Random(plan.get("seed", 1))
        self.share = 0.0
        self.stalled_until = 0.0
        self.peers: set[asyncio.StreamWriter] = set()
        self.server: asyncio.Server | None = None
        self.turn = 0
        self.tls: ssl.SSLContext | None = None
        if "tls" in plan:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(*plan["tls"])

    async def listen(self) -> None:
        plug = socket.socket()
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        plug.bind((self.plan.get("host", "127.0.0.1"), self.plan["port"]))
        plug.listen(1024)
        opened = time.monotonic()
        self.plan["port"] = plug.getsockname()[1]
        self.server = await asyncio.start_server(self.serve, sock=plug, ssl=self.tls)
        say(port=self.plan["port"], opened=opened)

    def kill(self) -> None:
        """At one instant: the listener is closed and every connection reset."""
        assert self.server
        self.server.close()
        for peer in list(self.peers):
            reset(peer)
        say(closed=time.monotonic())

    async def outage(self, start: float, end: float, share: float, how: str) -> None:
        await until(start)
        if how == "close":
            self.kill()
            await until(end)
            await self.listen()
        elif how == "stall":
            self.stalled_until = end
        else:
            self.share = share
            say(closed=time.monotonic())
            await until(end)
            self.share = 0.0
            say(opened=time.monotonic())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if self.rng.random() < self.share:
                    reset(writer)
                    return
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = json.loads(await reader.readexactly(length)) if length else {}
                if self.stalled_until > time.monotonic():
                    await until(self.stalled_until)
                await self.answer(head, body, writer)
                if b"connection: close" in head.lower():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.peers.discard(writer)
            writer.close()

    async def answer(self, head: bytes, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        chat = "messages" in body
        if self.plan.get("tell"):
            text = body["messages"][0]["content"] if chat else body["prompt"]
            told = {"temperature": body["temperature"], "asked": body["max_tokens"]}
            say(**told, prompt=len(text.encode()), token=b"Bearer sk-of-workers" in head)
        if modes := self.plan.get("modes"):
            mode = (
                body["model"] if body["model"] in streams.KINDS else modes[self.turn % len(modes)]
            )
            self.turn += 1
            if mode == "told_back":
                text = next((h for h in head.split(b"\r\n") if h.startswith(b"Auth")), b"")
                length = b"Content-Length: %d\r\n\r\n" % len(text)
                writer.write(b"HTTP/1.1 401 Unauthorized\r\n" + length + text)
                return
            self.as_told(mode, chat, bool(body.get("stream")), writer)
            return
        if not body.get("stream"):
            said = {"message": {"content": "a"}} if chat else {"text": "a"}
            await asyncio.sleep(TOKEN_S * body["max_tokens"])
            text = json.dumps({"choices": [{**said, "finish_reason": "length"}]}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            return
        await self.stream(body, chat, writer)

    def as_told(self, mode: str, chat: bool, streamed: bool, writer: asyncio.StreamWriter) -> None:
        say(mode=mode)
        if mode == "page" or not streamed:
            text = (
                b"<html><title>Welcome</title></html>"
                if mode == "page"
                else streams.whole(mode, chat)
            )
            kind = b"text/html" if mode == "page" else b"application/json"
            head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
            writer.write(head % (kind, len(text)) + text)
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in streams.events(mode, chat):
            chunk(writer, piece)
        chunk(writer, b"")

    async def stream(self, body: dict[str, Any], chat: bool, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        broken = self.rng.random() < self.plan.get("truncate", 0.0)
        for i in range(body["max_tokens"]):
            await asyncio.sleep(TOKEN_S)
            if broken and i == body["max_tokens"] // 2:
                chunk(writer, b"")
                return
            said = {"delta": {"content": "a"}} if chat else {"text": "a"}
            why = "length" if i == body["max_tokens"] - 1 else None
            event = json.dumps({"choices": [{**said, "finish_reason": why}]})
            chunk(writer, f"data: {event}\n\n".encode())
        if self.rng.random() < self.plan.get("stream_errors", 0.0):
            chunk(writer, b'data: {"error": {"message": "engine died"}}\n\n')
        chunk(writer, b"data: [DONE]\n\n")
        chunk(writer, b"")


def chunk(writer: asyncio.StreamWriter, payload: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(payload), payload))


def reset(writer: asyncio.StreamWriter) -> None:
    plug = writer.get_extra_info("socket")
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def until(moment: float) -> None:
    await asyncio.sleep(max(moment - time.monotonic() - 0.002, 0))
    while time.monotonic() < moment:
        await asyncio.sleep(0)


async def main() -> None:
    plan = json.loads(sys.stdin.readline())
    service = Service(plan)
    await service.listen()
    tasks = [asyncio.create_task(service.outage(*outage)) for outage in plan.get("outages", [])]
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(0, lambda: None if sys.stdin.buffer.read1(1024) else over.set())
    await over.wait()
    for task in tasks:
        task.cancel()
    import os

    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
