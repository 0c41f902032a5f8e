"""A command in a pod, over a WebSocket: three streams that carry any bytes, and how it ended.

The `kubernetes` client's own stream replaces a client's request method for a moment, which other
threads trip over, waits without limit for a server that hangs, and drops what comes together with
the end. So its parts are used, not the whole.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from ssl import SSLSocket
from typing import Any
from urllib.parse import urlencode

from aftershock.errors import AftershockError, HostUnreachable, Unsupported
from aftershock.hosts.starting import Lines

_PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
_STDIN, _STDOUT, _STDERR, _END, _CLOSE = 0, 1, 2, 3, 255
_CHUNK = 32 << 10
_COMPLAINT_BYTES = 4096
_SEND_S = 10.0
_FRAME_S = 5.0  # for the rest of a frame of which something came
_GOODBYE_S = 1.0
_NO_PROGRAM = ("executable file not found", "no such file or directory")


class ExecRefused(HostUnreachable):
    """The API server did not run the command; its own words are in the message."""


class ExecStreams(Lines):
    """A command's streams; `Transport` of an agent's channel."""

    pid = 0  # it isn't a process of this machine

    def __init__(
        self,
        name: str,
        client: Any,
        namespace: str,
        pod: str,
        command: list[str],
        within_s: float,
    ) -> None:
        super().__init__(name)
        self._said = b""
        self._told = ""
        self._lock = threading.Lock()  # one TLS connection must not be read and written at once
        self.requests = _Requests(self)
        query = [("command", word) for word in command]
        query += [(stream, "true") for stream in ("stdin", "stdout", "stderr")]
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec?{urlencode(query)}"
        self._socket = _open(name, client, path, within_s)

    def send(self, content: bytes, within_s: float) -> None:
        """Send to the command's standard input; OSError where it isn't taken in time."""
        until = time.monotonic() + within_s
        for start in range(0, len(content), _CHUNK):
            self._frame(bytes([_STDIN]) + content[start : start + _CHUNK], until)

    def close_stdin(self) -> None:
        """The command sees the end of its input: on v4 there is no other way than to hang up."""
        if self._socket.subprotocol == _PROTOCOLS[0]:
            self._frame(bytes([_CLOSE, _STDIN]), time.monotonic() + _SEND_S)
        else:
            self._hang_up()

    def _frame(self, data: bytes, until: float) -> None:
        from websocket import WebSocketException

        try:
            with self._lock:
                self._socket.settimeout(max(until - time.monotonic(), 0.1))
                self._socket.send_binary(data)
        except (WebSocketException, OSError, AttributeError) as error:  # its socket is None then
            raise OSError(f"not sent: {error}") from error

    def more(self, within_s: float | None = None) -> bool:
        """Whether more of its standard output came; waits for it."""
        until = None if within_s is None else time.monotonic() + within_s
        while True:
            left = 1.0 if until is None else until - time.monotonic()
            if left <= 0:
                return False
            try:
                channel, data = self._next(min(left, 1.0))
            except (EOFError, OSError):
                return False
            if channel == _STDOUT and data:
                self._rest += data
                return True
            if channel == _STDERR:
                self._said = (self._said + data)[-_COMPLAINT_BYTES:]
            elif channel == _END:
                self._told = _ending(data)

    def _next(self, within_s: float) -> tuple[int, bytes]:
        """The next message; channel -1 where none came. EOFError at the end."""
        from websocket import ABNF, WebSocketException

        line = self._socket.sock
        if line is None:
            raise EOFError
        try:
            if not _readable(line, within_s):
                return -1, b""
            with self._lock:
                self._socket.settimeout(_FRAME_S)
                code, frame = self._socket.recv_data_frame(True)
        except (WebSocketException, ValueError) as error:
            raise EOFError from error
        if code == ABNF.OPCODE_CLOSE:
            raise EOFError
        if code not in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) or not frame.data:
            return -1, b""
        return frame.data[0], bytes(frame.data[1:])

    def silent(self) -> AftershockError:
        """Why the agent's starter was not heard."""
        said = self.complaint().strip().splitlines()
        if not said:
            return HostUnreachable(
                f"{self.name}: its pod runs, but started no agent in time: is the node overloaded?"
            )
        if any(word in said[-1].lower() for word in _NO_PROGRAM):
            return Unsupported(
                f"{self.name}: no Python in the agent's image ({said[-1]}): name an image that "
                "has 3.9 or newer, or its program by `python`"
            )
        return HostUnreachable(f"{self.name}: the agent did not start ({said[-1]})")

    def complaint(self) -> str:
        """The last it said on its standard error, or how it ended."""
        return self._said.decode(errors="replace") or self._told

    def end(self, patience_s: float) -> None:
        """Wait; an agent that holds a deadline-only fault is left to it."""
        self._ended.wait(patience_s)
        self._hang_up()

    def _hang_up(self) -> None:
        """Say goodbye if that can be done at once, and close."""
        with contextlib.suppress(Exception):  # whatever a broken line says, it is over
            self._socket.settimeout(_GOODBYE_S)
            self._socket.send_close()
        with contextlib.suppress(Exception):
            self._socket.sock.shutdown(socket.SHUT_RDWR)
        self._socket.shutdown()


class _Requests:
    """What the agent reads."""

    def __init__(self, streams: ExecStreams) -> None:
        self._streams = streams

    def write(self, line: bytes) -> None:
        self._streams.send(line, _SEND_S)

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """The agent sees the end of its standard input."""
        self._streams.close_stdin()


def _open(name: str, client: Any, path: str, within_s: float) -> Any:
    """A connected WebSocket; HostUnreachable has what the API server said."""
    from kubernetes.stream import ws_client
    from websocket import WebSocket, WebSocketBadStatusException, WebSocketException

    settings = client.configuration
    known = [one for one in settings.auth_settings().values() if one["in"] == "header"]
    headers = {one["key"]: one["value"] for one in known if one["value"]}
    url = settings.host.replace("http", "ws", 1) + path
    options: dict[str, Any] = {"header": [f"{key}: {value}" for key, value in headers.items()]}
    if settings.proxy or settings.proxy_headers:
        care: Any = ws_client.websocket_proxycare
        options = care(options, settings, url, headers)
    options |= {"subprotocols": _PROTOCOLS, "timeout": within_s, "suppress_origin": True}
    made: Any = WebSocket(sslopt=_tls(settings), skip_utf8_validation=True)
    try:
        made.connect(url, **options)
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except WebSocketBadStatusException as error:
        said = reason_of(getattr(error, "resp_body", b""), f"status {error.status_code}")
        raise ExecRefused(f"{name}: the API server refuses exec: {said}") from None
    except (WebSocketException, OSError) as error:
        raise HostUnreachable(
            f"{name}: exec over the API server {settings.host}: {error or type(error).__name__}: "
            "does it answer, and its node's kubelet?"
        ) from error
    return made


def _tls(settings: Any) -> dict[str, Any]:
    import ssl

    import certifi

    if not settings.verify_ssl:
        return {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
    told = {
        "cert_reqs": ssl.CERT_REQUIRED,
        "ca_certs": settings.ssl_ca_cert or certifi.where(),
        "certfile": settings.cert_file,
        "keyfile": settings.key_file,
        "server_hostname": settings.tls_server_name,
        "check_hostname": settings.assert_hostname,
    }
    return {key: value for key, value in told.items() if value is not None}


def reason_of(body: Any, otherwise: str) -> str:
    """The message of a Status, as the API server sends it with a refusal."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(body)["message"])
    return otherwise


def _ending(data: bytes) -> str:
    with contextlib.suppress(ValueError):
        told = json.loads(data)
        return "" if told.get("status") == "Success" else str(told.get("message", ""))
    return data.decode(errors="replace")


def _readable(line: Any, within_s: float) -> bool:
    if isinstance(line, SSLSocket) and line.pending():
        return True
    poll = select.poll()
    poll.register(line, select.POLLIN)
    return bool(poll.poll(within_s * 1000))
