"""Faults from an experiment's words."""

import socket
from typing import Any

import pytest

from aftershock.errors import InvalidFault, InvalidInput
from aftershock.faults.partition import Partition
from aftershock.faults.shaping import Loss
from aftershock.faults.traffic import EVERYONE, networks
from aftershock.inventory import Inventory, Node
from aftershock.run import wording

NODES = tuple(
    Node(f"node-{zone}-{n}", f"az-{zone}", (f"10.0.{place}.{n}", f"fd00:{place}::{n}"))
    for place, zone in enumerate("abc")
    for n in (1, 2)
)
WITNESS = Node("edge", "none", ("10.0.9.1",))
TARGET = Inventory("test", NODES, "http://gateway", "model", witness=WITNESS)
A = TARGET.in_zone("az-a")


def nets(*names: str) -> set[Any]:
    wanted = [node for node in (*NODES, WITNESS) if node.name in names or node.zone in names]
    return set(networks(address for node in wanted for address in node.addresses))


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("az-a", ["node-a-1", "node-a-2"]),
        ("node-c-2, az-b", ["node-b-1", "node-b-2", "node-c-2"]),
        ("all", [node.name for node in NODES]),
    ],
)
def test_where(where: str, names: list[str]) -> None:
    assert [node.name for node in TARGET.select(where)] == names


@pytest.mark.parametrize(
    ("where", "said"), [("", "name zones or nodes"), ("az-z", "no zone or node 'az-z'.*az-a")]
)
def test_nowhere(where: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        TARGET.select(where)


def test_everybody_but_the_hosts_themselves() -> None:
    traffic = wording.traffic_of_words(TARGET, A, "", "both")
    assert traffic.peers == EVERYONE and set(traffic.spare) == nets("az-a")
    assert traffic.touches("10.0.1.1") and not traffic.touches("10.0.0.2")


def test_peers_by_zone_node_witness_prefix_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolver(name: str, *_: Any, **__: Any) -> Any:
        if name != "db.test":
            raise socket.gaierror("no such name")
        return [(0, 0, 0, "", ("192.0.2.7", 0)), (0, 0, 0, "", ("192.0.2.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    words = "az-b, node-c-1, edge, 198.51.100.0/24, db.test"
    traffic = wording.traffic_of_words(TARGET, A, words, "egress")
    expected = nets("az-b", "node-c-1", "edge") | set(networks(["198.51.100.0/24", "192.0.2.7"]))
    assert set(traffic.peers) == expected and traffic.spare == ()
    assert traffic.names == {"db.test": ("192.0.2.7",)}
    assert wording.network_fault("partition", traffic, {}).to_dict()["names"] == {
        "db.test": ["192.0.2.7"]
    }
    with pytest.raises(InvalidFault, match=r"peer 'web\.test' is no prefix and does not resolve"):
        wording.traffic_of_words(TARGET, A, "web.test", "both")


def test_a_host_among_its_own_peers_is_not_spared() -> None:
    traffic = wording.traffic_of_words(TARGET, A, "node-a-2, az-b", "both")
    assert traffic.touches("10.0.0.2") and traffic.spare == ()


def test_more_of_the_traffic() -> None:
    more = {
        "protocols": "tcp, udp",
        "peer_ports": "53,80-90",
        "cut_gateway": "yes",
        "spare": "az-c",
    }
    traffic = wording.traffic_of_words(TARGET, A, "az-b,az-c", "ingress", more)
    assert traffic.protocols == ("tcp", "udp") and traffic.peer_ports == ((53, 53), (80, 90))
    assert traffic.cut_gateway is True and traffic.cut_controller is False
    assert traffic.touches("10.0.1.1") and not traffic.touches("10.0.2.1")


@pytest.mark.parametrize(
    ("peers", "direction", "more", "said"),
    [
        ("10.0.0.0/99", "both", {}, "use an address or prefix"),
        ("10.0.0.256", "both", {}, "use an address or prefix"),
        ("", "up", {}, "direction 'up': one of both"),
        ("", "both", {"peer_port": "80"}, "unknown 'peer_port': did you mean peer_ports"),
        ("", "both", {"cut_gateway": "perhaps"}, "give true or false"),
        ("", "both", {"peer_ports": "http"}, "give them as 53"),
        ("az-b", "both", {"spare": "az-b"}, "every peer is spared"),
    ],
)
def test_traffic_that_makes_no_sense(
    peers: str, direction: str, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidFault, match=said):
        wording.traffic_of_words(TARGET, A, peers, direction, more)


def test_families_that_never_meet_are_refused() -> None:
    only_old = [Node("old", "az-a", ("10.0.0.9",))]
    with pytest.raises(InvalidFault, match="old has IPv4 addresses and the peers have IPv6 ones"):
        wording.traffic_of_words(TARGET, only_old, "fd00:9::/64", "both")
    assert wording.traffic_of_words(TARGET, only_old, "fd00:9::/64,10.9.0.0/16", "both")
    assert wording.traffic_of_words(TARGET, only_old, "", "both")


def test_numbers_may_be_words() -> None:
    traffic = wording.traffic_of_words(TARGET, A, "", "both")
    fault = wording.network_fault("loss", traffic, {"share": "0.25"})
    assert isinstance(fault, Loss) and fault.share == 0.25
    for value in ("a lot", "nan", "inf", True, None):
        with pytest.raises(InvalidFault, match=r"loss: share is .*: give a number"):
            wording.network_fault("loss", traffic, {"share": value})


@pytest.mark.parametrize("groups", ["zones", "nodes"])
def test_a_shape_is_a_fault_for_each_that_does_not_hear(groups: str) -> None:
    fault = wording.shape_fault(TARGET, "all", "isolate", groups, "", 3)
    deaf = fault.about["deaf_to"]
    assert fault.about["seed"] == 3 and len(fault.by_node) == 6
    for node in NODES:
        one = fault.by_node[node.name]
        assert isinstance(one, Partition) and one.direction == "ingress"
        unheard = deaf[node.zone if groups == "zones" else node.name]
        assert set(one.peers) == nets(*unheard)
    with pytest.raises(InvalidFault, match="zones or nodes"):
        wording.shape_fault(TARGET, "all", "isolate", "racks", "", 3)


def test_commands_are_split_as_a_shell_would() -> None:
    fault = wording.command_fault("tc 'a b'", ["undo", "it"], "", "5")
    assert fault.apply == ("tc", "a b") and fault.undo == ("undo", "it") and fault.timeout_s == 5
    with pytest.raises(InvalidFault, match="No closing quotation"):
        wording.command_fault("tc 'a", "x", "", 5)
