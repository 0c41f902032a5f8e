"""Which pods are to go, as a table: what was seen, what was asked for, who is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from aftershock.capacity import radius
from aftershock.capacity.choosing import (
    Choice,
    NothingMatches,
    TooMuch,
    check_namespace,
    check_owners,
    choose,
)
from aftershock.capacity.toll import Toll
from aftershock.cluster import Pod
from aftershock.cluster.pods import pod_of
from aftershock.errors import InvalidFault
from aftershock.faults.base import Fault, PerNode
from aftershock.faults.command import Command
from aftershock.faults.freeze import Freeze
from aftershock.faults.partition import EVERYONE, Partition
from aftershock.faults.shaping import Loss
from aftershock.faults.traffic import Traffic, networks
from aftershock.inventory import Inventory, Limits, Node

ZONES = {"n1": "a", "n2": "a", "n3": "b"}


def pod(name: str, node: str = "n1", owner: str = "Deployment/web", **more: Any) -> Pod:
    words: dict[str, Any] = {"ready": True, "terminating": False, **more}
    return Pod(name=name, namespace="shop", uid=f"uid-{name}", node=node, owner=owner, **words)


WEB = [pod(f"web-{n}", f"n{n % 3 + 1}") for n in range(6)]


def ended(count: int, at: int = 0) -> tuple[tuple[Pod, str], ...]:
    """So many pods that a run ended; `at`: the first one's number."""
    return tuple((pod(f"web-{at + n}" if at else f"old-{n}"), "pod-kill") for n in range(count))


def names(choice: Choice, pods: list[Pod], zones: Mapping[str, str] = ZONES) -> list[str]:
    return [one.name for one in choose(choice, pods, pods, zones)]


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        (Choice(), 6),
        (Choice(count=2), 2),
        (Choice(share=0.5), 3),
        (Choice(share=0.4), 2),  # rounded down
        (Choice(share=0.01), 1),  # one at least
        (Choice(max_owner_share=0.34), 2),
        (Choice(count=3, max_owner_share=0.34), 2),
        (Choice(name="web-1"), 1),
        (Choice(name="web-*", owner="web"), 6),
        (Choice(owner="deployment/WEB"), 6),
    ],
)
def test_how_many(choice: Choice, count: int) -> None:
    assert len(set(names(choice, WEB))) == count


def test_the_seed_decides_whatever_the_order_and_the_names_are() -> None:
    first = choose(Choice(count=3, seed=5), WEB, WEB, ZONES)
    again = choose(Choice(count=3, seed=5), WEB[::-1], WEB, ZONES)
    assert first == again
    renamed = [replace(one, name=f"x{one.name}") for one in WEB]
    other = choose(Choice(count=3, seed=5), renamed, renamed, ZONES)
    assert [one.node for one in other] == [one.node for one in first]
    assert len({tuple(names(Choice(count=3, seed=seed), WEB)) for seed in range(9)}) > 1


@pytest.mark.parametrize(
    "spared",
    [
        pod("x", terminating=True),
        pod("x", over=True),
        pod("x", spared="ours"),
        pod("x", node="elsewhere"),
        pod("x", node=""),
    ],
)
def test_never_chosen(spared: Pod) -> None:
    assert "x" not in names(Choice(), [spared, *WEB])
    with pytest.raises(NothingMatches):
        names(Choice(), [spared])


def test_an_owner_s_share_counts_what_is_going_and_no_other_owner_s() -> None:
    api = [pod(f"api-{n}", owner="Deployment/api") for n in range(4)]
    going = [replace(one, terminating=True) for one in WEB[:2]]
    there = [*going, *WEB[2:], *api]
    chosen = choose(Choice(max_owner_share=0.5), there, there, ZONES)
    owners = [one.owner for one in chosen]
    assert owners.count("Deployment/web") == 1 and owners.count("Deployment/api") == 2


def test_an_owner_s_share_is_of_all_its_pods_not_of_those_that_match() -> None:
    matching = WEB[:2]
    assert len(choose(Choice(max_owner_share=0.34), matching, WEB, ZONES)) == 2
    check_owners(matching, WEB, Limits(max_owner_share=0.34))
    with pytest.raises(TooMuch, match=r"3 of the 6 pods of Deployment/web .* allows 2"):
        check_owners(WEB[:3], WEB, Limits(max_owner_share=0.34))


def seen(ready: int, unready: int = 0, leaving: int = 0) -> list[Pod]:
    """So many pods of one owner, `ready` ones first, that are not ready, or on their way out."""
    states = [(True, False)] * ready + [(False, False)] * unready + [(False, True)] * leaving
    return [
        pod(f"web-{n}", ready=ready, terminating=leaving)
        for n, (ready, leaving) in enumerate(states)
    ]


@pytest.mark.parametrize(
    ("toll", "there", "chosen", "lost"),
    [
        (Toll(), seen(6), 2, (2, 6)),
        (Toll(), seen(4, 2), 2, (2, 6)),  # who is not ready for reasons of its own doesn't count
        (Toll(), seen(4, 0, 2), 1, (3, 6)),
        (Toll(held={"uid-web-0": "freeze"}), seen(6), 0, (1, 6)),
        (Toll(held={"uid-web-0": "freeze"}), seen(6), 2, (2, 6)),  # it is one of the two
        (Toll(held={"uid-gone": "freeze"}), seen(6), 1, (1, 6)),
        (Toll(ended=ended(2), most=6), seen(4), 1, (3, 6)),  # nobody came back yet
        (Toll(ended=ended(2), most=6), seen(4, 2), 1, (3, 6)),  # they are not ready yet
        (Toll(ended=ended(2), most=6), seen(4, 2), 6, (6, 6)),  # all, and they are among them
        (Toll(ended=ended(2), most=6), seen(6), 1, (1, 6)),
        (Toll(ended=ended(2), most=6), seen(9), 1, (1, 9)),
        (Toll(ended=ended(1), most=6), seen(3, 3), 0, (1, 6)),  # two went without us
        (Toll(ended=ended(2, at=4), most=4), seen(2, 2, 2), 1, (3, 4)),  # ours, on their way
        (Toll(scaled=2, most=6), seen(4), 1, (3, 6)),
        (Toll(scaled=2, most=6), seen(4, 0, 2), 1, (3, 6)),
        (Toll(scaled=2, most=6), seen(6), 1, (3, 6)),  # foreseen only
        (Toll(scaled=4, most=6), seen(6), 6, (6, 6)),  # never more than all
        (Toll(scaled=4), seen(2), 2, (2, 2)),
        (Toll(ended=ended(1), scaled=2, most=6), seen(3), 0, (3, 6)),
        (Toll({"uid-web-0": "delay"}, ended(1), most=6), seen(4, 1), 1, (2, 6)),
    ],
)
def test_what_is_lost_of_an_owner(
    toll: Toll, there: list[Pod], chosen: int, lost: tuple[int, int]
) -> None:
    assert toll.lost(there, {one.uid for one in there[:chosen]}) == lost


def test_what_is_held_already_can_be_broken_once_more() -> None:
    toll = Toll({one.uid: "partition" for one in WEB[:3]})
    check_owners(WEB[:3], WEB, Limits(max_owner_share=0.5), {"Deployment/web": toll})
    check_owners(WEB[:3], WEB, Limits(max_owner_share=0.1), {"Deployment/web": toll})
    with pytest.raises(TooMuch, match=r"3 are taken already \(partition: web-0, web-1, web-2\)"):
        check_owners(WEB[2:4], WEB, Limits(max_owner_share=0.5), {"Deployment/web": toll})


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (Choice("app=x"), "no pod matches app=x: the namespace has 6 pods, of Deployment/web"),
        (Choice("app=x", count=7), "7 pods are asked for, and 6 match"),
    ],
)
def test_what_there_is_instead(choice: Choice, sentence: str) -> None:
    matching = WEB if choice.count else []
    with pytest.raises(NothingMatches) as none:
        choose(choice, matching, WEB, ZONES)
    assert sentence in str(none.value)
    with pytest.raises(NothingMatches, match="but none on n9: they are on n1, n2, n3"):
        choose(Choice(), WEB, WEB, {"n9": "z"})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"count": -1}, "count is -1"),
        ({"share": 1.1}, "share is 1.1: from 0 to 1"),
        ({"count": 1, "share": 0.5}, "give one of them"),
        ({"max_owner_share": 0}, "above 0, up to 1"),
    ],
)
def test_a_choice_that_makes_no_sense(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidFault, match=sentence):
        Choice(**words)


def test_whose_a_pod_is() -> None:
    def plain(labels: dict[str, str], *owners: dict[str, Any], **more: Any) -> dict[str, Any]:
        meta = {"name": "p", "namespace": "s", "uid": "u", "labels": labels, **more}
        return {"metadata": {**meta, "ownerReferences": list(owners)}, "spec": {}, "status": {}}

    replica = {"kind": "ReplicaSet", "name": "web-7f9", "controller": True}
    assert pod_of(plain({"pod-template-hash": "7f9"}, replica)).owner == "Deployment/web"
    assert pod_of(plain({}, replica)).owner == "ReplicaSet/web-7f9"
    other = {"kind": "Config", "name": "x"}
    stateful = {"kind": "StatefulSet", "name": "db", "controller": True}
    assert pod_of(plain({}, other, stateful)).owner == "StatefulSet/db"
    assert pod_of(plain({})).owner == "Pod/p"
    ours = {"app.kubernetes.io/managed-by": "aftershock"}
    assert pod_of(plain(ours)).spared == "ours"
    mirror = {"kubernetes.io/config.mirror": "x"}
    assert "static" in pod_of(plain({}, annotations=mirror)).spared


def target(zones: str, limits: Limits | None = None) -> Inventory:
    """A node a letter, in a zone of that letter."""
    nodes = [Node(f"{zone}{n}", zone, (f"10.0.0.{n}",)) for n, zone in enumerate(zones)]
    return Inventory("t", tuple(nodes), "http://x", "m", limits=limits or Limits())


@pytest.mark.parametrize(
    ("zones", "lost", "first", "sentence"),
    [
        ("aabbcc", "a", "", None),
        ("aabb", "a", "", None),
        ("aa", "a", "", "it has one zone only: the last zone is never broken"),
        ("ab", "ab", "", "no other zone would be left"),
        ("aabbcc", "ab", "", "2 of 3 zones, and max_zone_share 0.5 allows less: choose fewer"),
        ("abc", "b", "a0", "a, b would be lost, 2 of 3 zones, and .*; cordon is on a0 already: "),
        ("ab", "b", "a0", "no other zone would be left; cordon is on a0 already: the last zone"),
        ("aaaabc", "a", "", "4 of 6 nodes would be touched, and max_node_share 0.5"),
    ],
)
def test_how_many_nodes(zones: str, lost: str, first: str, sentence: str | None) -> None:
    there = target(zones)
    nodes = [node for node in there.nodes if node.zone in lost]
    broken = dict.fromkeys(first.split(), "cordon")
    if sentence is None:
        radius.check_nodes(there, nodes, broken)
        return
    with pytest.raises(TooMuch, match=sentence):
        radius.check_nodes(there, nodes, broken)


def test_what_is_only_touched_loses_no_zone() -> None:
    there = target("aabbcc")
    others = dict.fromkeys((node.name for node in there.in_zone("b")), "delay")
    one, _ = others
    radius.check_nodes(there, there.in_zone("a"), touched={one: "delay"})
    radius.check_nodes(there, [there.nodes[0], there.nodes[2], there.nodes[4]], loses=False)
    already = r"4 of 6 nodes .* max_node_share 0\.5 allows less; delay is on b2, b3 already: heal"
    with pytest.raises(TooMuch, match=already):
        radius.check_nodes(there, there.in_zone("a"), touched=others)
    with pytest.raises(TooMuch, match="6 of 6 nodes"):
        radius.check_nodes(there, there.nodes, loses=False)


def test_which_faults_lose_a_node() -> None:
    there = target("aabb")
    zone = there.in_zone("a")
    own = networks(address for node in zone for address in node.addresses)
    others = networks(address for node in there.in_zone("b") for address in node.addresses)
    whole = Traffic(EVERYONE, spare=own)

    def lost(fault: Fault) -> bool:
        return radius.loses(there, fault, zone)

    assert lost(Partition(EVERYONE, spare=own))
    assert not lost(Partition(others)), "clients still reach it"
    assert not lost(Partition(EVERYONE, peer_ports=((80, 80),), protocols=("tcp",)))
    assert lost(Loss(share=1.0, traffic=whole)) and not lost(Loss(share=0.9, traffic=whole))
    command = Command(("true",), ("true",))
    assert not lost(command) and lost(PerNode("power-off", {zone[0].name: command}, {}))
    assert lost(PerNode("freeze", {zone[0].name: Freeze(named=("kubelet",))}, {}))
    assert not lost(PerNode("partition", {zone[0].name: Partition(others)}, {}))


def test_no_limit_lets_the_last_zone_go() -> None:
    everything = Limits(max_zone_share=1, max_node_share=1)
    radius.check_nodes(target("abc", everything), target("abc").nodes[:2])
    with pytest.raises(TooMuch, match="the last zone"):
        radius.check_nodes(target("abc", everything), target("abc").nodes)
    one = target("aa", everything)
    radius.check_nodes(one, one.nodes[:1])  # a node of the one zone that there is


def test_namespaces_that_are_never_touched() -> None:
    for name in ("kube-system", "kube-public", "kube-node-lease", "aftershock"):
        with pytest.raises(TooMuch, match=f"namespace {name} is never touched"):
            check_namespace(name, Limits())
    check_namespace("kube-system", Limits(never=("payments",)))
    with pytest.raises(TooMuch):
        check_namespace("payments", Limits(never=("payments",)))
