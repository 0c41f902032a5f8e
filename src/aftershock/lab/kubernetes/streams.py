"""`exec`: a command in a pod, its streams over a WebSocket (v4 and v5 of channel.k8s.io).

A message is a byte that names the channel, and data: 0 to 2 are the standard streams, 3 tells how
the command ended, 4 resizes a terminal; on v5, 255 and a channel close that one. A command whose
client is gone reads the end of its standard input and otherwise goes on, as under containerd.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import struct
import termios
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import WSMsgType, web

from aftershock.lab.kubernetes.kubelet import Kubelets
from aftershock.lab.kubernetes.resources import PODS
from aftershock.lab.kubernetes.runtime import ExecRuntime
from aftershock.lab.kubernetes.status import Refusal, bad_request
from aftershock.lab.kubernetes.store import Object, Store

_STDIN, _STDOUT, _STDERR, _END, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_V5 = "v5.channel.k8s.io"
_PROTOCOLS = (_V5, "v4.channel.k8s.io")
_CHUNK = 32 << 10
_DIAL_S = 30.0
_DRAIN_S = 10.0  # a process that the command left may hold its output open
_YES = ("1", "true", "True")
Awake = Callable[[], Awaitable[None]]


async def serve_exec(
    request: web.Request, store: Store, kubelets: Kubelets, namespace: str, name: str
) -> web.StreamResponse:
    """Run what the query asks for; refusals come before the connection is upgraded."""
    pod = store.get(PODS, namespace, name)
    query = request.query
    command = query.getall("command", [])
    container = _container(pod, query.get("container", ""))
    if not command:
        raise bad_request("you must specify at least 1 command for the container")
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise bad_request("Upgrade request required")
    node, runtime = pod["spec"]["nodeName"], kubelets.runtime
    await _await_kubelet(kubelets, node)
    if not isinstance(runtime, ExecRuntime) or not _runs(pod, container):
        why = f'unable to upgrade connection: container not found ("{container}")'
        raise Refusal(500, "InternalError", f"Internal error occurred: {why}")
    socket = web.WebSocketResponse(protocols=_PROTOCOLS, max_msg_size=0, compress=False)
    wanted = {name for name in ("stdin", "stdout", "stderr", "tty") if query.get(name) in _YES}
    streams = _Streams.with_terminal() if "tty" in wanted else _Streams.with_pipes(wanted)
    try:
        ended = await runtime.exec(pod["metadata"]["uid"], command, streams.theirs, streams.slave)
    except OSError as error:
        streams.close()
        raise Refusal(500, "InternalError", f"Internal error occurred: {error}") from None
    streams.started()
    await socket.prepare(request)
    await _serve(socket, streams, ended, lambda: kubelets.awake(node))
    return socket


async def _await_kubelet(kubelets: Kubelets, node: str) -> None:
    """Wait for it as a server that connects to a kubelet does, and give up as it does."""
    try:
        async with asyncio.timeout(_DIAL_S):
            await kubelets.awake(node)
    except TimeoutError:
        why = f"error dialing backend: dial tcp: kubelet of {node}: i/o timeout"
        raise Refusal(500, "InternalError", f"Internal error occurred: {why}") from None


def _container(pod: Object, asked: str) -> str:
    names = [container["name"] for container in pod["spec"]["containers"]]
    where = pod["metadata"]["name"]
    if not asked and len(names) > 1:
        told = " ".join(names)
        raise bad_request(f"a container name must be specified for pod {where}, choose: [{told}]")
    if asked and asked not in names:
        raise bad_request(f"container {asked} is not valid for pod {where}")
    if not pod["spec"].get("nodeName"):
        raise bad_request(f"pod {where} does not have a host assigned")
    return asked or str(names[0])


def _runs(pod: Mapping[str, Any], container: str) -> bool:
    told = (pod.get("status") or {}).get("containerStatuses") or ()
    return any(one["name"] == container and "running" in one["state"] for one in told)


@dataclass
class _Streams:
    """Both ends of a command's standard streams; `slave` is a terminal's device, if it has one."""

    theirs: tuple[int, int, int]
    stdin: int
    outputs: Mapping[int, int]  # descriptor → channel
    slave: str = ""

    @classmethod
    def with_pipes(cls, wanted: set[str]) -> _Streams:
        """Pipes for the streams that are wanted; the others lead nowhere."""
        stdin = os.pipe() if "stdin" in wanted else (os.open(os.devnull, os.O_RDONLY), -1)
        theirs, outputs = [stdin[0]], {}
        for channel, name in ((_STDOUT, "stdout"), (_STDERR, "stderr")):
            if name in wanted:
                ours, end = os.pipe()
                os.set_blocking(ours, False)
                outputs[ours] = channel
            else:
                end = os.open(os.devnull, os.O_WRONLY)
            theirs.append(end)
        if stdin[1] >= 0:
            os.set_blocking(stdin[1], False)
        return cls((theirs[0], theirs[1], theirs[2]), stdin[1], outputs)

    @classmethod
    def with_terminal(cls) -> _Streams:
        """A terminal; what it shows comes on one channel."""
        master, slave = pty.openpty()
        os.set_blocking(master, False)
        return cls((slave, slave, slave), os.dup(master), {master: _STDOUT}, os.ttyname(slave))

    def started(self) -> None:
        """The command has its ends now."""
        for end in set(self.theirs):
            os.close(end)

    def close_stdin(self) -> None:
        """The command sees the end of its input; a terminal has no such end."""
        if self.stdin >= 0 and not self.slave:
            os.close(self.stdin)
            self.stdin = -1

    def close(self) -> None:
        """Let go of everything, before the command was started."""
        self.started()
        self.finish()

    def finish(self) -> None:
        """Let go of our ends."""
        for end in (*self.outputs, *([self.stdin] if self.stdin >= 0 else [])):
            os.close(end)
        self.stdin, self.outputs = -1, {}

    def resize(self, columns: int, rows: int) -> None:
        """Tell a terminal how large it is."""
        for end in self.outputs if self.slave else ():
            fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def _serve(
    socket: web.WebSocketResponse, streams: _Streams, ended: asyncio.Future[int], awake: Awake
) -> None:
    """Carry data until the command ends; its client may go before.

    All of it passes the kubelet: nothing does while that is silent.
    """
    with contextlib.suppress(ConnectionError):
        await socket.send_bytes(bytes([_STDOUT]))
    pumps = [asyncio.create_task(_pump(socket, *one, awake)) for one in streams.outputs.items()]
    hearing = asyncio.create_task(_hear(socket, streams, awake))
    try:
        status = await asyncio.shield(ended)
        await awake()
        if pumps:
            await asyncio.wait(pumps, timeout=_DRAIN_S)
    finally:
        for task in (*pumps, hearing):
            task.cancel()
        await asyncio.gather(*pumps, hearing, return_exceptions=True)
        streams.finish()
    with contextlib.suppress(ConnectionError):
        await socket.send_bytes(bytes([_END]) + json.dumps(_told(status)).encode())
        await socket.close()


async def _hear(socket: web.WebSocketResponse, streams: _Streams, awake: Awake) -> None:
    async for message in socket:
        await awake()
        if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT) or not message.data:
            continue
        data = message.data if isinstance(message.data, bytes) else message.data.encode()
        channel, data = data[0], data[1:]
        if channel == _STDIN and streams.stdin >= 0:
            await _write(streams, data)
        elif channel == _CLOSE and data == bytes([_STDIN]) and socket.ws_protocol == _V5:
            streams.close_stdin()
        elif channel == _RESIZE:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                size = json.loads(data)
                streams.resize(size["Width"], size["Height"])
    await awake()
    streams.close_stdin()


async def _write(streams: _Streams, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(streams.stdin, data) :]
        except BlockingIOError:
            await _turn(streams.stdin, write=True)
        except OSError:
            return streams.close_stdin()
    return None


async def _pump(socket: web.WebSocketResponse, descriptor: int, channel: int, awake: Awake) -> None:
    """From the command to the client; what nobody reads any more must not hold the command up."""
    while True:
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            await _turn(descriptor)
            continue
        except OSError:  # a terminal that nobody has open
            return
        if not chunk:
            return
        await awake()
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(bytes([channel]) + chunk)


async def _turn(descriptor: int, write: bool = False) -> None:
    """Wait until a descriptor can be read, or written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (
        (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    )
    add(descriptor, _settle, ready)
    try:
        await ready
    finally:
        remove(descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _told(status: int) -> dict[str, Any]:
    """What channel 3 says of an exit status (as Popen's)."""
    if status == 0:
        return {"metadata": {}, "status": "Success"}
    code = status if status > 0 else 128 - status
    how = f"command terminated with exit code {code}"
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: {how}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
