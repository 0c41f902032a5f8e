"""What a drop step loses: by chance, in bursts, by protocol and by port."""

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from held import drop, held, match
from wires import FAMILIES, HOOKS, World, arrives, fates, inside, lost, share_lost

from aftershock.errors import InvalidInput
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Node

pytestmark = pytest.mark.root
COUNT = 2000


@pytest.fixture
def agent(wires: World, fleet: Fleet) -> AgentChannel:
    return fleet.fresh(wires["a"])


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_a_share_of_the_packets_is_lost(
    wires: World, agent: AgentChannel, hook: str, direction: str
) -> None:
    here, there = (wires["a"], wires["w"]) if direction == "egress" else (wires["w"], wires["a"])
    assert share_lost(here, there, 200) == 0
    step = drop(0.3, hook=hook, directions=[direction], match=match(wires["w"].addresses))
    with held(agent, step) as holding:
        assert 0.24 < share_lost(here, there, COUNT) < 0.36  # 6 standard deviations
        assert share_lost(wires["a"], wires["b"], 200) == 0, "others lose nothing"
        counts = holding.counts(direction)
        assert 0.24 < counts["packets"] / counts["matched_packets"] < 0.36
    assert share_lost(here, there, 200) == 0


def test_bursts_last_as_long_as_their_model_says(wires: World, agent: AgentChannel) -> None:
    """Gilbert's model: bad one packet in fifty, for ten on average: 1/6 lost, in long runs."""
    chances = {"to_bad": 0.02, "to_good": 0.1, "in_good": 0.0, "in_bad": 1.0}
    with held(agent, drop(loss=chances["in_bad"]) | {"loss": chances}):
        fate = fates(wires["a"], wires["w"], 4 * COUNT)
    share = 1 - sum(fate) / len(fate)
    assert 0.08 < share < 0.25
    bursts = sum(before and not now for before, now in pairwise(fate))
    length = fate.count(False) / bursts
    assert 6 < length < 15, "by chance alone it would be 1.2"


def test_loss_in_both_states(wires: World, agent: AgentChannel) -> None:
    chances = {"to_bad": 0.5, "to_good": 0.5, "in_good": 0.2, "in_bad": 0.6}
    with held(agent, drop() | {"loss": chances}):
        assert 0.33 < share_lost(wires["a"], wires["w"], COUNT) < 0.47


def test_correlated_loss_keeps_its_rate(wires: World, agent: AgentChannel) -> None:
    """Rate 0.2, correlation 0.5: after a loss 0.6 are lost, after a success 0.1."""
    rate, kept = 0.2, 0.5
    chances = {"to_bad": rate * (1 - kept), "to_good": (1 - rate) * (1 - kept)}
    with held(agent, drop() | {"loss": {**chances, "in_good": 0.0, "in_bad": 1.0}}):
        fate = fates(wires["a"], wires["w"], 4 * COUNT)
    assert 0.15 < 1 - sum(fate) / len(fate) < 0.25
    after_loss = [now for before, now in pairwise(fate) if not before]
    assert 0.52 < 1 - sum(after_loss) / len(after_loss) < 0.68


@contextmanager
def tcp_server(node: Node, family: int) -> Iterator[int]:
    address = node.addresses[0 if family == 4 else 1]
    with inside(
        node.netns, lambda: socket.create_server((address, 0), family=FAMILIES[family])
    ) as server:
        yield server.getsockname()[1]


def connects(source: Node, target: Node, port: int, family: int) -> bool:
    """Whether a TCP connection comes about."""
    address = target.addresses[0 if family == 4 else 1]

    def attempt() -> bool:
        with socket.socket(FAMILIES[family]) as one:
            one.settimeout(0.5)
            return one.connect_ex((address, port)) == 0

    return inside(source.netns, attempt)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_a_peers_port_is_cut_and_its_neighbour_is_not(
    wires: World, agent: AgentChannel, family: int, direction: str
) -> None:
    a, w = wires["a"], wires["w"]
    with tcp_server(w, family) as cut, tcp_server(w, family) as free:
        ports = match(peer_ports=[[cut, cut]], protocols=["tcp"])
        assert connects(a, w, cut, family) and connects(a, w, free, family)
        with held(agent, drop(directions=[direction], match=ports)):
            assert not connects(a, w, cut, family)
            assert connects(a, w, free, family) and arrives(a, w, family)
        assert connects(a, w, cut, family)


def test_a_port_of_the_hosts_own_is_cut(wires: World, agent: AgentChannel) -> None:
    a, w = wires["a"], wires["w"]
    with tcp_server(a, 4) as cut, tcp_server(a, 4) as free:
        with held(agent, drop(directions=["ingress"], match=match(local_ports=[[cut, cut]]))):
            assert not connects(w, a, cut, 4) and connects(w, a, free, 4)
        assert connects(w, a, cut, 4)


@pytest.mark.parametrize("family", [4, 6])
def test_a_protocol_is_cut_and_others_are_not(
    wires: World, agent: AgentChannel, family: int
) -> None:
    a, w = wires["a"], wires["w"]
    with tcp_server(w, family) as port:
        with held(agent, drop(match=match(protocols=["udp"]))):
            assert lost(a, w, family) and connects(a, w, port, family)
        with held(agent, drop(match=match(protocols=["tcp"]))):
            assert arrives(a, w, family) and not connects(a, w, port, family)


def test_a_fragment_without_ports_passes(wires: World, agent: AgentChannel) -> None:
    """Only a datagram's first fragment has ports; the rest alone can't be put together."""
    a, w = wires["a"], wires["w"]

    def big_one_arrives(port: int) -> bool:
        with inside(w.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as there:
            there.bind((w.addresses[0], port))
            with inside(a.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as here:
                here.sendto(b"x" * 4000, (w.addresses[0], port))
            return bool(select.select([there], [], [], 0.3)[0])

    assert big_one_arrives(5353) and big_one_arrives(5354)
    with held(agent, drop(match=match(peer_ports=[[5353, 5353]]))):
        assert not big_one_arrives(5353) and big_one_arrives(5354)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": {"to_bad": 0, "to_good": 0, "in_good": 1.4, "in_bad": 0}}, "from 0 to 1"),
        ({"loss": {"to_bad": 0, "to_good": 0, "in_good": 0, "in_bad": 1}}, "nothing would ever"),
        ({"loss": {"share": 0.5}}, "to_bad"),
        ({"match": match(protocols=["smtp"])}, "smtp"),
        ({"match": match(peer_ports=[[10, 5]])}, "ports 10 to 5"),
        ({"match": {"peers": []}}, "spare"),
        ({"directions": ["sideways"]}, "sideways"),
        ({"speed": 7}, "speed"),
    ],
)
def test_nonsense_is_refused_by_the_agent_too(
    agent: AgentChannel, change: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said), held(agent, drop() | change):
        pass
