"""The agents of a run: one a node, started in parallel, shared by its injections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from aftershock.errors import AftershockError, HostUnreachable, Unsupported
from aftershock.hosts.channel import ANSWER_S, AgentChannel
from aftershock.hosts.local import LocalHost
from aftershock.hosts.zipapp import agent_file
from aftershock.inventory import Node
from aftershock.ledger import Ledger
from aftershock.lock import Occupied

if TYPE_CHECKING:
    from aftershock.hosts.kubernetes import AgentPods

AT_ONCE = 16
_POST_S = 0.0005  # what it takes to ask one more agent


class Host(Protocol):
    """How an agent is started on a node, and nothing else."""

    def start(self) -> AgentChannel:
        """A running agent, or HostUnreachable."""


class NoWay:
    """A node that only the Kubernetes API gets to."""

    def __init__(self, node: Node) -> None:
        self._name = node.name

    def start(self) -> AgentChannel:
        """Nothing can be started there."""
        raise Unsupported(
            f"{self._name}: nothing gets there but the Kubernetes API, and this needs an agent on "
            "the node: give the inventory an `agent` or `ssh` block"
        )


def host_for(node: Node) -> Host:
    """The way to a node; those through pods have things to take away after: see `Ways`."""
    if node.agentless:
        return NoWay(node)
    if node.ssh:
        from aftershock.hosts.ssh import SshHost  # paramiko takes 0.2 s

        return SshHost(node)
    if node.agent:
        raise Unsupported(f"{node.name}: it is reached through a pod: use `Ways`, and close it")
    return LocalHost(node)


class Ways:
    """The ways to nodes, and what has to be there for them: pods, which `close` takes away."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ledger = ledger
        self._pods: AgentPods | None = None
        self._lock = threading.Lock()

    def __call__(self, node: Node) -> Host:
        """The way to a node."""
        if not node.agent:
            return host_for(node)
        from aftershock.hosts.kubernetes import AgentPods, PodHost  # takes a quarter of a second

        with self._lock:
            self._pods = self._pods or AgentPods(self._ledger)
            return PodHost(node, self._pods)

    def close(self) -> None:
        """Take away what was made; NotReverted names what is left. Twice is fine."""
        if self._pods:
            self._pods.close()


class Fleet:
    """Channels by node; a lost one is replaced by a fresh agent when it is asked for.

    `ledger`: where it is written down what has to be made for that, before it is.
    """

    def __init__(
        self, way: Callable[[Node], Host] | None = None, ledger: Ledger | None = None
    ) -> None:
        self._ways = Ways(ledger)
        self._way = way or self._ways
        self._channels: dict[str, AgentChannel] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._take: Mapping[str, Any] | None = None
        self._shared: frozenset[str] = frozenset()

    def take(self, token: str, holder: str, shared: Iterable[Node] = ()) -> None:
        """Every agent that is started from now on keeps its host for this run, but on the `shared`
        ones; where another's run has it, it isn't started: Occupied. `holder`: who we are, for
        people."""
        self._take = {"token": token, "holder": holder}
        self._shared = frozenset(node.name for node in shared)

    def channels(self, nodes: Iterable[Node]) -> dict[str, AgentChannel]:
        """An open channel to each node, all or nothing of what had to be started."""
        with self._lock:
            wanted = {node.name: node for node in nodes}
            started, failed = self._start_missing(wanted)
            if failed:
                for channel in started.values():
                    channel.close()
                _raise(failed)
            self._channels.update(started)
            return {name: self._channels[name] for name in wanted}

    def reach(
        self, nodes: Iterable[Node]
    ) -> tuple[dict[str, AgentChannel], dict[str, AftershockError]]:
        """Open channels to as many of the nodes as can be reached, and what the others said."""
        with self._lock:
            wanted = {node.name: node for node in nodes}
            started, failed = self._start_missing(wanted)
            self._channels.update(started)
        errors: dict[str, AftershockError] = {}
        for name, error in failed.items():
            if not isinstance(error, AftershockError):
                raise error
            errors[name] = error
        return {name: self._channels[name] for name in wanted if name not in errors}, errors

    def admit(self, node: Node) -> AgentChannel:
        """As `fresh`, on a node that may take its time: nobody else is kept waiting meanwhile."""
        if channel := self.current(node):
            return channel
        started, failed = self._start({node.name: node})
        if failed:
            _raise(failed)
        channel = started[node.name]
        with self._lock:
            if not self._closed and not self._is_open(node):
                self._channels[node.name] = channel
                return channel
        channel.close()
        if self._closed:
            raise HostUnreachable(f"{node.name}: its agent started when all was over")
        return self.fresh(node)

    def fresh(self, node: Node) -> AgentChannel:
        """The open channel to a node, or a new one in the place of a lost one."""
        return self.channels([node])[node.name]

    def current(self, node: Node) -> AgentChannel | None:
        """The channel to a node if it is open; nobody is waited for."""
        channel = self._channels.get(node.name)
        return channel if channel and channel.is_open else None

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
            self._closed = True
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda channel: channel.close(), channels))
        self._ways.close()

    def _start_missing(
        self, wanted: Mapping[str, Node]
    ) -> tuple[dict[str, AgentChannel], dict[str, BaseException]]:
        missing = {name: node for name, node in wanted.items() if not self._is_open(node)}
        return self._start(missing)

    def _start(
        self, nodes: Mapping[str, Node]
    ) -> tuple[dict[str, AgentChannel], dict[str, BaseException]]:
        """Agents by node, and why some did not start."""
        if not nodes:
            return {}, {}
        agent_file()  # built once, before several would
        with ThreadPoolExecutor(AT_ONCE) as pool:
            ways = {name: self._way(node) for name, node in nodes.items()}
            starting = {name: pool.submit(self._started, name, way) for name, way in ways.items()}
        failed = {name: error for name, one in starting.items() if (error := one.exception())}
        return {name: one.result() for name, one in starting.items() if name not in failed}, failed

    def _started(self, name: str, way: Host) -> AgentChannel:
        channel = way.start()
        try:
            if self._take and name not in self._shared:
                channel.ask("take", **self._take)
        except BaseException:
            channel.close()
            raise
        return channel

    def _is_open(self, node: Node) -> bool:
        channel = self._channels.get(node.name)
        if channel and not channel.is_open:
            self._channels.pop(node.name).abandon(patience_s=0.5)
            return False
        return channel is not None


def _raise(failed: Mapping[str, BaseException]) -> NoReturn:
    if len(failed) > 1 and all(isinstance(each, AftershockError) for each in failed.values()):
        taken = all(isinstance(each, Occupied) for each in failed.values())
        said = "; ".join(str(error) for error in failed.values())
        raise Occupied(said) if taken else HostUnreachable(said)
    raise next(iter(failed.values()))


def soon(channels: Mapping[str, AgentChannel]) -> dict[str, float | None]:
    """One moment on each agent's clock, when all of them will have been asked.

    Asked one after the other and firing at once, they would be as far apart as that takes, and each
    would work while the next is asked. One alone has nobody to wait for.
    """
    if len(channels) < 2:
        return dict.fromkeys(channels)
    furthest_s = max(channel.offset.error_s for channel in channels.values())  # half a round trip
    moment = time.monotonic() + _POST_S * len(channels) + furthest_s
    return {name: moment + channel.offset.seconds for name, channel in channels.items()}


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
    wait(posted.values(), timeout_s)  # once for all of them
    for name, answer in posted.items():
        try:
            if not answer.done():
                raise channels[name].silent(op, timeout_s)
            answers[name] = answer.result()
        except AftershockError as error:
            errors[name] = error
    return answers, errors
