"""What every way to a far host shares: the starter's words, and the lines that come back.

The agent's file travels once per content. A starter (`agent/starter.py`), sent first, checks its
hash on the host before it runs; see there for the words that the two exchange.
"""

from __future__ import annotations

import hashlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import aftershock.agent
from aftershock.errors import AftershockError, HostUnreachable, Unsupported
from aftershock.hosts.local import gone
from aftershock.hosts.zipapp import agent_file
from aftershock.inventory import Node

_MARK = b"aftershock-agent "
_MOST_CHATTER = 64 << 10  # what rc files may print before we are heard
_UPLOAD_S = 60.0
_LACKS = {
    "sudo": "there is no sudo: install it, or log in as root",
    "nsenter": "there is no `nsenter`: install util-linux",
    "python": "there is no {python}: install Python 3.9 or newer, or name another by `python`",
}


class Lines(ABC):
    """What an agent answers, as lines; a subclass brings more of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._rest = b""
        self._ended = threading.Event()

    @abstractmethod
    def more(self, within_s: float | None = None) -> bool:
        """Wait for more and add it to the rest; whether more came."""

    @abstractmethod
    def send(self, content: bytes, within_s: float) -> None:
        """Send much at once; OSError where it isn't taken in time."""

    @abstractmethod
    def silent(self) -> AftershockError:
        """Why the agent's starter was not heard."""

    @property
    def answers(self) -> Iterator[bytes]:
        """Lines, until the channel ends."""
        try:
            while (end := self._rest.find(b"\n") + 1) or self.more():
                if end:
                    line, self._rest = self._rest[:end], self._rest[end:]
                    yield line
        finally:
            self._ended.set()

    def first_word(self, within_s: float) -> str:
        """What the starter says, whatever rc files printed before it."""
        until, heard = time.monotonic() + within_s, 0
        while True:
            end = self._rest.find(b"\n") + 1
            if end:
                line, self._rest = self._rest[:end], self._rest[end:]
                heard += len(line)
                if line.startswith(_MARK):
                    return line[len(_MARK) :].decode(errors="replace").strip()
            if len(self._rest) + heard > _MOST_CHATTER:
                raise HostUnreachable(
                    f"{self.name}: its shell prints on and on instead of starting the agent: "
                    "look at the user's rc files there"
                )
            if not end and not self.more(max(until - time.monotonic(), 0.01)):
                raise self.silent()


def settle(lines: Lines, content: bytes, node: Node, python: str, within_s: float) -> None:
    """Bring the agent's file if it is wanted; returns when the agent answers next."""
    word = lines.first_word(within_s)
    if word == "want":
        lines.send(content, _UPLOAD_S)
        word = lines.first_word(_UPLOAD_S)
    if word != "have":
        raise _refused(node, python, word)


def _refused(node: Node, python: str, word: str) -> HostUnreachable | Unsupported:
    name, kind, rest = node.name, *word.partition(" ")[::2]
    if kind == "gone":
        return gone(node)
    if kind == "lacks":
        return Unsupported(f"{name}: {_LACKS[rest].format(python=python)}")
    if kind == "old":
        return Unsupported(
            f"{name}: {python} there is Python {rest}: the agent needs 3.9 or newer: "
            "install one, and name it by `python`"
        )
    if kind == "shared":
        return Unsupported(
            f"{name}: the pod uses its node's own network, so its faults would be the node's: "
            "name the node instead"
        )
    if kind == "unsafe":
        return HostUnreachable(
            f"{name}: others may write to {rest} there: nothing is run from it: give it to "
            "its user alone (chmod 700)"
        )
    return HostUnreachable(f"{name}: the agent's file arrived damaged ({word}): try again")


_ENTER = """
def _go(pod, path):
    if pod:
        path = network_of_pod(pod)
        if path in ("", "shared"):
            os.write(1, b"aftershock-agent " + (path or "gone").encode() + b"\\n")
            raise SystemExit(1)
    if path:
        try:
            enter_network(path)
        except FileNotFoundError:
            os.write(1, b"aftershock-agent gone\\n")
            raise SystemExit(1)
"""


def program(node: Node, env: Mapping[str, str], reached: str | None = None) -> bytes:
    """A starter that goes into the node's namespace, or its pod's, first.

    `reached`: an expression, evaluated there outside of any pod, for the addresses from which the
    controller reaches the host.
    """
    uid = node.pod.uid if node.pod else ""
    lines = [source("containers"), _ENTER, f"os.environ.update({dict(env)!r})"]
    if reached:
        lines.append(f"os.environ['AFTERSHOCK_CONTROLLER'] = {reached}")
    lines += [f"_go({uid!r}, {node.namespace!r})", source("starter")]
    return "\n".join(lines).encode()


@cache
def source(module: str) -> str:
    """The text of one of the agent's modules."""
    return (Path(aftershock.agent.__path__[0]) / f"{module}.py").read_text(encoding="utf-8")


def agent() -> tuple[bytes, str]:
    """The agent's file and its hash."""
    return _read(agent_file())


@cache
def _read(path: Path) -> tuple[bytes, str]:
    content = path.read_bytes()
    return content, hashlib.sha256(content).hexdigest()
