"""Established connections are reset, at both ends; others and new ones live."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from held import held, match
from wires import FAMILIES, World, inside, wait_for

from aftershock.errors import InvalidInput
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Node

pytestmark = pytest.mark.root


@pytest.fixture
def agent(wires: World, fleet: Fleet) -> AgentChannel:
    return fleet.fresh(wires["a"])


@contextmanager
def connection(
    source: Node, target: Node, family: int = 4, port: int = 0
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection that has said something."""
    address = target.addresses[0 if family == 4 else 1]
    with ExitStack() as stack:
        listener = stack.enter_context(
            inside(
                target.netns, lambda: socket.create_server((address, port), family=FAMILIES[family])
            )
        )
        where = listener.getsockname()[:2]
        here = stack.enter_context(
            inside(source.netns, lambda: socket.create_connection(where, 10))
        )
        there = stack.enter_context(listener.accept()[0])
        here.sendall(b"?")
        assert there.recv(1) == b"?"
        yield here, there


def is_reset(one: socket.socket) -> bool:
    """Whether an end was told that its connection is over."""
    one.settimeout(0.3)
    try:
        return one.recv(1) == b"unreachable"
    except TimeoutError:
        return False
    except (ConnectionResetError, ConnectionAbortedError):
        return True


def reset(every_s: float = 0, **more: object) -> dict[str, object]:
    return {"kind": "reset", "match": match(**more), "every_s": every_s}  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [4, 6])
def test_both_ends_are_told(wires: World, agent: AgentChannel, family: int) -> None:
    a, b, w = wires["a"], wires["b"], wires["w"]
    with (
        connection(a, w, family) as (here, there),
        connection(a, b, family) as others,
        held(agent, reset(peers=w.addresses), fire=False) as holding,
    ):
        assert holding.ask("observe")[0]["left"] == 1
        assert not is_reset(here) and not is_reset(there), "armed, yet nothing is felt"
        holding.ask("fire")
        assert is_reset(here) and is_reset(there)
        seen = holding.ask("observe")[0]
        assert (seen["destroyed"], seen["left"]) == (1, 0)
        assert not any(is_reset(end) for end in others), "a connection to a stranger lives"
        with connection(a, w, family) as (new, _):
            assert not is_reset(new), "once is once"


def test_ports_choose(wires: World, agent: AgentChannel) -> None:
    with (
        connection(wires["a"], wires["w"], port=7001) as (chosen, _),
        connection(wires["a"], wires["w"], port=7002) as (other, _),
        held(agent, reset(peer_ports=[[7001, 7001]])),
    ):
        assert is_reset(chosen) and not is_reset(other)


def test_again_and_again_until_the_heal(wires: World, agent: AgentChannel) -> None:
    with held(agent, reset(every_s=0.5)) as holding:
        for _ in range(2):
            with connection(wires["a"], wires["w"]) as (here, _):
                assert wait_for(lambda: is_reset(here), 5)
        assert holding.ask("observe")[0]["destroyed"] >= 2
        holding.ask("revert")
        with connection(wires["a"], wires["w"]) as (here, _):
            here.settimeout(1.5)
            with pytest.raises(TimeoutError):
                here.recv(1)


def test_what_is_spared_lives(wires: World, agent: AgentChannel) -> None:
    with (
        connection(wires["a"], wires["w"]) as (chosen, _),
        connection(wires["a"], wires["b"]) as (spared, _),
        held(agent, reset(peers=["10.99.0.0/24"], spare=[f"{wires['b'].addresses[0]}/32"])),
    ):
        assert is_reset(chosen) and not is_reset(spared)


def test_only_tcp_can_be_reset(agent: AgentChannel) -> None:
    with pytest.raises(InvalidInput, match="only TCP"), held(agent, reset(protocols=["udp"])):
        pass
