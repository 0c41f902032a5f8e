"""Requests and their answers over geventhttpclient, an eighth of what `requests` costs a core.

Its `readline` hands a stream's lines out as they come; Locust's own FastHttpUser waits for whole
blocks, and so tells a time to first token that is none.
"""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Callable, Iterator
from ssl import SSLContext, SSLError
from typing import Any
from urllib.parse import urlsplit

from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError, HTTPSocketResponse

from aftershock.load.answers import Answer
from aftershock.load.settings import LoadSettings
from aftershock.load.tls import tls_context

_BLOCK = 1 << 16
# Of this machine, not of the service.
OWN_ERRORS = {
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
    errno.EADDRNOTAVAIL: "ports",
    errno.ENOBUFS: "buffers",
    errno.ENOMEM: "memory",
}


class Client:
    """Keeps connections to one service; any number of greenlets may ask at once."""

    def __init__(self, settings: LoadSettings) -> None:
        address = urlsplit(settings.url)
        self.exhausted: Counter[str] = Counter()  # by OWN_ERRORS' names
        self._base = address.path.rstrip("/")

        def context(cafile: str | None = None) -> SSLContext:
            """Without the library's own authorities."""
            return tls_context(settings.verify_tls)

        self._http = HTTPClient(
            address.hostname or "",
            address.port,
            headers={"Content-Type": "application/json", **settings.headers},
            block_size=_BLOCK,
            connection_timeout=settings.timeout_s,
            network_timeout=settings.timeout_s,
            concurrency=settings.max_in_flight,
            ssl=address.scheme == "https",
            ssl_context_factory=context,
            insecure=not settings.verify_tls,
        )

    def ask(
        self, path: str, body: dict[str, Any], answer: Answer, on_token: Callable[[], None]
    ) -> tuple[str, str]:
        """Kind of failure ("" for none) and its detail. Raises nothing but the caller's timeout."""
        try:
            with self._http.request("POST", self._base + path, json.dumps(body).encode()) as found:
                if (status := found.status_code) >= 300:
                    return f"http_{status}", found.read()[:200].decode(errors="replace")
                for piece in _pieces(found) if body["stream"] else (found.read(),):
                    before = answer.tokens
                    answer.feed(piece)
                    for _ in range(answer.tokens - before):
                        on_token()
            return answer.end()
        except (OSError, HTTPParseError) as error:
            if own := OWN_ERRORS.get(getattr(error, "errno", None) or 0):
                self.exhausted[own] += 1
                return "not_sent", repr(error)
            return ("cut" if answer.tokens else _kind_of(error)), repr(error)


def _pieces(found: HTTPSocketResponse) -> Iterator[bytes]:
    """Lines of a stream, then what stands behind the last one."""
    while line := found.readline(b"\n"):
        yield line
    if rest := found.read():
        yield rest


def _kind_of(error: Exception) -> str:
    for kinds, name in (
        (SSLError, "tls"),
        (ConnectionRefusedError, "refused"),
        (TimeoutError, "timeout"),
        ((ConnectionError, HTTPConnectionClosed, HTTPParseError), "reset"),
    ):
        if isinstance(error, kinds):
            return name
    return "connection"
