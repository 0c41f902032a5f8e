"""The agents of a run: one a node, started in parallel, shared by its injections."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from aftershock.errors import AftershockError, HostUnreachable
from aftershock.hosts.channel import ANSWER_S, AgentChannel
from aftershock.hosts.local import LocalHost
from aftershock.hosts.zipapp import agent_file
from aftershock.inventory import Node

_AT_ONCE = 16


class Host(Protocol):
    """How an agent is started on a node, and nothing else."""

    def start(self) -> AgentChannel:
        """A running agent, or HostUnreachable."""


def host_for(node: Node) -> Host:
    """The way to a node."""
    return LocalHost(node)


class Fleet:
    """Channels by node; a lost one is replaced by a fresh agent when it is asked for."""

    def __init__(self, way: Callable[[Node], Host] = host_for) -> None:
        self._way = way
        self._channels: dict[str, AgentChannel] = {}
        self._lock = threading.Lock()

    def channels(self, nodes: Iterable[Node]) -> dict[str, AgentChannel]:
        """An open channel to each node, all or nothing of what had to be started."""
        with self._lock:
            wanted = {node.name: node for node in nodes}
            missing = [node for node in wanted.values() if not self._is_open(node)]
            self._channels.update(_start_all([self._way(node) for node in missing], missing))
            return {name: self._channels[name] for name in wanted}

    def fresh(self, node: Node) -> AgentChannel:
        """The open channel to a node, or a new one in the place of a lost one."""
        return self.channels([node])[node.name]

    def let_go(self, node: Node) -> None:
        """Give up on a channel that doesn't answer; the next one who asks gets a fresh agent."""
        with self._lock:
            channel = self._channels.pop(node.name, None)
        if channel:
            channel.abandon(patience_s=0)

    def close(self) -> None:
        """End every agent; what they still hold is reverted."""
        with self._lock:
            channels, self._channels = list(self._channels.values()), {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda channel: channel.close(), channels))

    def _is_open(self, node: Node) -> bool:
        channel = self._channels.get(node.name)
        if channel and not channel.is_open:
            self._channels.pop(node.name).abandon(patience_s=0.5)
            return False
        return channel is not None


def _start_all(hosts: Sequence[Host], nodes: Sequence[Node]) -> dict[str, AgentChannel]:
    if not hosts:
        return {}
    agent_file()  # built once, before several would
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        starting = {
            node.name: pool.submit(host.start) for node, host in zip(nodes, hosts, strict=True)
        }
    failed = {name: error for name, start in starting.items() if (error := start.exception())}
    started = {name: start.result() for name, start in starting.items() if name not in failed}
    if failed:
        for channel in started.values():
            channel.close()
        if len(failed) > 1 and all(isinstance(each, AftershockError) for each in failed.values()):
            raise HostUnreachable("; ".join(str(error) for error in failed.values()))
        raise next(iter(failed.values()))
    return started


def ask_all(
    channels: Mapping[str, AgentChannel],
    op: str,
    options: Callable[[str], Mapping[str, Any]] = lambda _: {},
    timeout_s: float = ANSWER_S,
) -> tuple[dict[str, Any], dict[str, AftershockError]]:
    """Ask every agent at once: first all requests go out, then answers and errors are gathered."""
    posted, errors, answers = {}, {}, {}
    requests = [(name, channel, dict(options(name))) for name, channel in channels.items()]
    for name, channel, request in requests:
        try:
            posted[name] = channel.post(op, **request)
        except AftershockError as error:
            errors[name] = error
    for name, answer in posted.items():
        try:
            answers[name] = channels[name].result(answer, op, timeout_s)
        except AftershockError as error:
            errors[name] = error
    return answers, errors
