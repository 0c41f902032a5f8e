"""Taints of ours on nodes of an API server: what they drive away, and what they leave alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from aftershock import ledger
from aftershock.capacity import Tainted, TooMuch
from aftershock.cluster import Cluster, taints
from aftershock.cluster.taints import OURS, Taint
from aftershock.errors import HostUnreachable, InvalidFault
from aftershock.inventory import Limits, Node
from aftershock.recover import recover

from .conftest import Lab, deployment, ready_pods, until

NODES = [Node(name, "az-a", ()) for name in ("node-a-1", "node-a-2")]
NAMES = [node.name for node in NODES]
pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def cluster(lab: Lab) -> Iterator[Cluster]:
    cluster = Cluster(str(lab.kubeconfig), "shop")
    yield cluster
    cluster.close()


def tainted(
    cluster: Cluster,
    book: ledger.Ledger,
    effect: str = "NoExecute",
    limits: Limits | None = None,
) -> Tainted:
    return Tainted(cluster, NODES, taints.checked(effect, "run-1"), book, limits=limits)


def on(core: Any, selector: str = "app=web") -> set[str]:
    return {pod.spec.node_name for pod in ready_pods(core, selector)}


def test_no_execute_empties_the_nodes_and_they_fill_again(
    web: Lab, cluster: Cluster, book: ledger.Ledger, core: Any
) -> None:
    assert on(core) >= set(NAMES)
    fault = tainted(cluster, book)
    fault.check()
    fault.arm()
    assert on(core) >= set(NAMES), "armed, yet nothing is felt"
    fault.fire()
    assert fault.observe()["bit"] is True
    until(lambda: not on(core) & set(NAMES))
    web.kubectl("-n", "shop", "scale", "deployment/web", "--replicas=8")
    until(lambda: len(ready_pods(core)) == 8)
    assert not on(core) & set(NAMES)
    fault.revert()
    web.kubectl("-n", "shop", "scale", "deployment/web", "--replicas=12")
    until(lambda: on(core) >= set(NAMES))
    assert not any(taints.taints_of(cluster, name) for name in NAMES)


def test_what_others_put_there_stays(lab: Lab, cluster: Cluster, book: ledger.Ledger) -> None:
    theirs = Taint("team/maintenance", "soon", "NoSchedule")
    taints.add(cluster, NAMES[0], theirs)
    fault = tainted(cluster, book, "NoSchedule")
    fault.arm()
    fault.fire()
    assert fault.observe()["bit"] is True
    later, same_key = Taint("team/disk", "", "NoExecute"), Taint(OURS, "another-run", "NoExecute")
    for one in (later, same_key):
        taints.add(cluster, NAMES[0], one)
    fault.revert()
    assert set(taints.taints_of(cluster, NAMES[0])) == {theirs, later, same_key}
    assert taints.taints_of(cluster, NAMES[1]) == []


def test_a_taint_that_somebody_adds_meanwhile_is_not_lost(
    lab: Lab, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = taints.checked("NoSchedule", "run-1"), Taint("team/disk", "", "NoSchedule")
    look = cluster.node

    def slowly(name: str) -> dict[str, Any]:
        found = look(name)
        if not found["spec"].get("taints"):  # between our look and our write
            lab.kubectl("taint", "node", name, "team/disk=:NoSchedule")
        return found

    monkeypatch.setattr(cluster, "node", slowly)
    taints.add(cluster, NAMES[0], ours)
    assert set(taints.taints_of(cluster, NAMES[0])) == {ours, theirs}


def test_a_taint_that_is_gone_is_no_effect(lab: Lab, cluster: Cluster, book: ledger.Ledger) -> None:
    fault = tainted(cluster, book, "NoSchedule")
    fault.arm()
    fault.fire()
    lab.kubectl("taint", "node", NAMES[1], f"{OURS}-")
    assert fault.observe()["bit"] is False
    fault.revert()


def test_what_keeps_the_cluster_going_is_not_ended(
    lab: Lab, cluster: Cluster, book: ledger.Ledger, core: Any
) -> None:
    vital = deployment("dns", replicas=6)
    vital["metadata"]["namespace"] = "kube-system"
    lab.apply(vital)
    until(lambda: len(core.list_namespaced_pod("kube-system").items) == 6)
    until(lambda: all(p.spec.node_name for p in core.list_namespaced_pod("kube-system").items))
    with pytest.raises(
        InvalidFault, match=r"it would end kube-system/dns-.*: use the effect NoSch"
    ):
        tainted(cluster, book).check()
    tainted(cluster, book, "NoSchedule").check()


def test_more_of_an_owner_than_the_limits_allow_is_not_driven_away(
    web: Lab, cluster: Cluster, book: ledger.Ledger, core: Any
) -> None:
    going = sum(pod.spec.node_name in NAMES for pod in ready_pods(core))
    assert going >= 1
    few = Limits(max_owner_share=0.1)
    told = f"{going} of the 6 pods of Deployment/web would go, and max_owner_share 0.1 allows 0"
    with pytest.raises(TooMuch, match=told):
        tainted(cluster, book, limits=few).check()
    tainted(cluster, book, "NoSchedule", few).check()
    tainted(cluster, book, limits=Limits(max_owner_share=0.7)).check()


def test_pods_that_tolerate_it_stay(
    lab: Lab, cluster: Cluster, book: ledger.Ledger, core: Any
) -> None:
    lab.apply(deployment(replicas=6, tolerations=[{"operator": "Exists"}]))
    until(lambda: len(ready_pods(core)) == 6)
    there = {pod.metadata.uid for pod in ready_pods(core)}
    fault = tainted(cluster, book)
    fault.arm()
    fault.fire()
    assert fault.observe()["bit"] is True, "nothing that should go is there"
    assert {pod.metadata.uid for pod in ready_pods(core)} == there
    fault.revert()


def test_recover_takes_off_what_a_dead_run_left(
    lab: Lab, cluster: Cluster, book: ledger.Ledger
) -> None:
    fault = tainted(cluster, book, "NoSchedule")
    fault.arm()
    fault.fire()
    begun, *rest = book.path.read_text().splitlines()
    dead = {**json.loads(begun), "controller": {"pid": 999_999, "start": 1, "boot": "then"}}
    book.path.write_text("\n".join([json.dumps(dead), *rest]) + "\n")
    found = recover()
    assert found.healed and found.lines() == ["run-1: took the taint off node-a-1, node-a-2"]
    assert not any(taints.taints_of(cluster, name) for name in NAMES)


@pytest.mark.parametrize("effect", ["NoExec", ""])
def test_an_effect_that_kubernetes_does_not_know(effect: str) -> None:
    with pytest.raises(InvalidFault, match="one of NoSchedule, PreferNoSchedule, NoExecute"):
        taints.checked(effect, "run-1")


def test_an_api_that_is_gone_is_said(lab: Lab, cluster: Cluster) -> None:
    lab.do(lab.server.stop())
    with pytest.raises(HostUnreachable, match="does not answer"):
        taints.add(cluster, NAMES[0], taints.checked("NoSchedule", "run-1"))
