"""Pods killed, evicted, and killed again and again: what goes, what stays, what is refused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.capacity import (
    BlockedAutoscaler,
    Choice,
    Drain,
    Ending,
    KeptDown,
    NothingMatches,
    PodEviction,
    PodKill,
    RepeatedKill,
    Scaled,
    TooMuch,
    kept_down,
)
from aftershock.capacity.base import ApiFault
from aftershock.capacity.nodes import Cordon, Tainted
from aftershock.capacity.reaper import Reaper
from aftershock.cluster import Cluster, pods, taints
from aftershock.cluster.lock import rights as lease_rights
from aftershock.cluster.permissions import NotPermitted, Permission, missing
from aftershock.cluster.places import probes, reads
from aftershock.cluster.workloads import parsed
from aftershock.errors import AftershockError
from aftershock.inventory import Limits
from aftershock.lab.kubernetes import ApiServer
from aftershock.ledger import Ledger
from aftershock.recover import recover
from aftershock.run import processes

from .conftest import until
from .sites import PATIENCE_S, Site, namespace_of

WEB = Choice("app=web")
DEPLOY = Path(__file__).parents[2] / "deploy"


def played(fault: ApiFault) -> dict[str, Any]:
    """A fault's life up to its evidence."""
    fault.check()
    fault.arm()
    fault.fire()
    fault.observe()
    return fault.to_dict()


def test_a_zone_s_pods_are_killed_and_others_live(site: Site) -> None:
    site.deploy("web", 6)
    site.deploy("api", 2)
    before = {pod.uid: pod for pod in site.ready("web")}
    zone = site.nodes()[0].zone
    there = [node for node in site.nodes() if node.zone == zone]
    told = played(PodKill(site.cluster, there, WEB))
    assert told["bit"] and told["clean"], told
    names = {node.name for node in there}
    gone = {pod.uid for pod in before.values() if pod.node in names}
    assert gone and set(told["parameters"]["pods"].values()) == gone
    now = {pod.uid for pod in site.pods()}
    assert not gone & now
    assert set(before) - gone <= now
    assert len(site.ready("api")) == 2
    until(lambda: len(site.ready("web")) == 6, PATIENCE_S)


def test_a_pod_on_its_way_out_is_never_killed_again(site: Site) -> None:
    """While all of some are going, only their replacements can be chosen."""
    site.deploy("web", 2, grace_s=30, stubborn=True)
    dying = site.ready("web")
    pods.kill(site.cluster, dying, 20)
    assert {pod.uid for pod in site.pods() if pod.terminating} == {pod.uid for pod in dying}
    until(lambda: len([pod for pod in site.pods() if pod.node and pod.runs]) == 2, PATIENCE_S)
    second = PodKill(site.cluster, site.nodes(), WEB)
    second.check()
    assert len(second.pods) == 2
    assert not {pod.uid for pod in second.pods} & {pod.uid for pod in dying}
    # Those that are going count for an owner's share: half of four are gone by now.
    with pytest.raises(TooMuch, match=r"max_owner_share 0\.5 leaves none"):
        PodKill(site.cluster, site.nodes(), Choice("app=web", max_owner_share=0.5)).check()
    pods.kill(site.cluster, dying, 0)


def test_a_deadline_ends_what_takes_its_time(site: Site) -> None:
    site.deploy("web", 2, grace_s=60, stubborn=True)
    began = time.monotonic()
    fault = PodKill(site.cluster, site.nodes(), WEB, Ending(-1, deadline_s=0.7))
    told = played(fault)
    assert told["bit"], told
    assert 0.7 <= time.monotonic() - began < 30
    assert told["parameters"]["grace_s"] == -1


def test_what_is_chosen_is_what_the_seed_says(site: Site) -> None:
    site.deploy("web", 6)

    def chosen(seed: int) -> list[str]:
        fault = PodKill(site.cluster, site.nodes(), Choice("app=web", share=0.5, seed=seed))
        fault.check()
        return [pod.name for pod in fault.pods]

    assert chosen(1) == chosen(1) and len(chosen(1)) == 3
    assert len({tuple(chosen(seed)) for seed in range(6)}) > 1


def test_by_owner_and_by_name(site: Site) -> None:
    site.deploy("web", 2)
    site.deploy("api", 2)

    def names(choice: Choice) -> set[str]:
        fault = PodKill(site.cluster, site.nodes(), choice)
        fault.check()
        return {pod.name.partition("-")[0] for pod in fault.pods}

    assert names(Choice(owner="Deployment/api")) == {"api"}
    assert names(Choice(owner="web")) == {"web"}
    assert names(Choice(name="web-*")) == {"web"}


def test_a_choice_that_is_empty_is_refused_before(site: Site) -> None:
    site.deploy("web", 2)
    uids = {pod.uid for pod in site.pods()}
    with pytest.raises(NothingMatches, match=r"app=nobody.* 2 pods, of Deployment/web.*app=web"):
        PodKill(site.cluster, site.nodes(), Choice("app=nobody")).check()
    empty = [n for n in site.nodes() if n.name not in {pod.node for pod in site.pods()}]
    if empty:
        with pytest.raises(NothingMatches, match="but none on"):
            PodKill(site.cluster, empty[:1], WEB).check()
    with pytest.raises(NothingMatches, match="3 pods are asked for, and 2 match"):
        PodKill(site.cluster, site.nodes(), Choice("app=web", count=3)).check()
    assert {pod.uid for pod in site.pods()} == uids


def test_limits_are_refused_before(site: Site) -> None:
    site.deploy("web", 4)
    nodes = site.nodes()
    with pytest.raises(TooMuch, match=r"4 of the 4 pods of Deployment/web would go.*allows 2"):
        PodKill(site.cluster, nodes, WEB, limits=Limits()).check()
    half = PodKill(site.cluster, nodes, Choice("app=web", max_owner_share=0.5), limits=Limits())
    half.check()
    assert len(half.pods) == 2
    with pytest.raises(TooMuch, match="kube-system is never touched"):
        PodKill(site.cluster, nodes, WEB, namespace="kube-system").check()
    assert len(site.ready("web")) == 4


def test_a_hundred_pods_by_label_go_side_by_side_and_not_faster_than_allowed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long it takes is a row of `make bench`: within 2 s on the lab's API."""
    count = 100 if site.lab else 12
    site.deploy("web", count, grace_s=0, wait=False)
    until(lambda: sum(bool(pod.node) for pod in site.pods("app=web")) == count, PATIENCE_S)
    fault = PodKill(site.cluster, site.nodes(), WEB)
    fault.check()
    fault.arm()
    seen = Deletions()
    monkeypatch.setattr(ApiServer, "_route", seen.counting(ApiServer._route))
    began = time.monotonic()
    fault.fire()
    assert fault.observe()["bit"]
    assert len(fault.parameters()["pods"]) == count
    if site.lab is None:
        return
    assert len(seen.at) == count, "one request a pod"
    assert 1 < seen.most <= pods.AT_ONCE, "side by side, but not all at once"
    assert all(at >= began + n / pods.PER_S for n, at in enumerate(sorted(seen.at)))


class Deletions:
    """Sits in the lab's API, and answers each DELETE a tenth of a second late."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.most = 0
        self._now = 0

    def counting(self, route: Any) -> Any:
        async def slowly(server: ApiServer, request: Any) -> Any:
            if request.method != "DELETE":
                return await route(server, request)
            self.at.append(time.monotonic())
            self._now += 1
            self.most = max(self.most, self._now)
            await asyncio.sleep(0.1)
            self._now -= 1
            return await route(server, request)

        return slowly


def test_a_budget_is_honoured_until_it_lets_go(site: Site) -> None:
    site.deploy("web", 3)
    site.budget("web", 3)
    waits = PodEviction(site.cluster, site.nodes(), Choice("app=web", count=1), deadline_s=20)
    waits.check()
    waits.arm()
    waits.fire()
    assert waits.refusals == 1  # asked once, refused once
    (asked,) = waits.pods
    assert asked.uid in {pod.uid for pod in site.pods()}
    threading.Timer(0.3, site.scale, ("web", 4)).start()
    assert waits.observe()["bit"]
    assert asked.uid not in {pod.uid for pod in site.pods()}
    assert waits.parameters()["refusals"] >= 1


def test_a_budget_that_never_lets_go_and_one_that_is_overridden(site: Site) -> None:
    site.deploy("web", 3)
    site.budget("web", 3)
    held = PodEviction(site.cluster, site.nodes(), Choice("app=web", count=1), deadline_s=0.8)
    told = played(held)
    assert not told["bit"]
    assert "disruption budget" in str(told["evidence"])
    assert len(site.ready("web")) == 3
    assert played(PodKill(site.cluster, site.nodes(), Choice("app=web", count=1)))["bit"]


def test_pods_are_killed_again_and_again_until_it_stops(site: Site) -> None:
    site.deploy("web", 4, grace_s=0)
    seen = Counter(pod.uid for pod in site.pods())
    fault = RepeatedKill(
        site.cluster, site.nodes(), Choice("app=web", count=1, seed=3), interval_s=0.3, lease_s=60
    )
    told = played(fault)
    assert told["bit"] and not told["reverted"]
    until(lambda: len(fault.rounds) >= 4, 10)
    fault.revert()
    told = fault.to_dict()
    assert told["reverted"] and told["ordered"] and not told["healed_early"]
    assert told["bit"] and told["evidence"]["pieces"][-1]["seen"].endswith("all gone")
    rounds = len(fault.rounds)
    killed = [name for one in told["parameters"]["rounds"] for name in one["pods"]]
    assert len(killed) == len(set(killed)) >= 3
    until(lambda: len(site.ready("web")) == 4, PATIENCE_S)
    after = {pod.uid for pod in site.pods()}
    assert len(set(seen) - after) >= 2
    time.sleep(1)
    assert len(fault.rounds) == rounds
    assert {pod.uid for pod in site.pods()} == after


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps nodes down looks five times a second in the place of once."""
    monkeypatch.setattr(kept_down, "LOOK_S", 0.2)


def test_what_comes_up_on_lost_nodes_is_killed_again(site: Site, often: None) -> None:
    """Nothing keeps replacements off here: they are as those that tolerate our taint."""
    site.deploy("web", 6, grace_s=0)
    zone = site.nodes()[0].zone
    there = [node for node in site.nodes() if node.zone == zone]
    names = {node.name for node in there}
    fault = KeptDown(site.cluster, there, WEB, lease_s=60, zones=[zone])
    told = played(fault)
    first = set(told["parameters"]["pods"])
    assert told["fault"] == "pod-kill" and told["bit"] and not told["reverted"]
    until(lambda: len(fault.rounds) >= 3, PATIENCE_S)
    fault.stop()
    fault.revert()
    told = fault.to_dict()
    again = [name for one in told["parameters"]["again"] for name in one["pods"]]
    assert len(set(again)) == len(again) >= 2 and not set(again) & first
    assert told["bit"] and told["reverted"] and not told["healed_early"], told
    assert f"{len(again)} pods came up and were killed again" in str(told["evidence"])
    alive = lambda: {p.uid for p in site.ready("web") if p.node in names}  # noqa: E731
    until(alive, PATIENCE_S)
    before = alive()
    time.sleep(0.7)
    assert before <= {pod.uid for pod in site.pods()}, "nothing is killed after the heal"


def test_a_pod_that_the_limits_spare_is_no_effect(site: Site, often: None) -> None:
    site.deploy("web", 4, grace_s=0)
    node = next(n for n in site.nodes() if n.name == site.ready("web")[0].node)
    fault = KeptDown(site.cluster, [node], WEB, lease_s=60, limits=Limits(max_owner_share=0.5))
    assert played(fault)["bit"]
    fault.limits = Limits(max_owner_share=0.01)  # as if others of its owner had died meanwhile
    site.scale("web", 4 * len(site.nodes()))  # so that some come up there
    until(lambda: fault._escaped, PATIENCE_S)
    fault.revert()
    told = fault.to_dict()
    assert not told["bit"] and "lived on" in str(told["evidence"]), told


def test_nodes_that_come_up_in_a_lost_zone_count_too(site: Site, often: None) -> None:
    site.deploy("web", 6, grace_s=0)
    zone = site.nodes()[0].zone
    known, *late = [node for node in site.nodes() if node.zone == zone]
    if not late or not {pod.node for pod in site.ready("web")} >= {known.name, late[0].name}:
        pytest.skip("wants a zone of two nodes with pods on both")
    fault = KeptDown(site.cluster, [known], WEB, lease_s=60, zones=[zone])
    played(fault)
    new = {pod.uid for pod in site.pods() if pod.node == late[0].name}
    until(lambda: not new & {pod.uid for pod in site.pods()}, PATIENCE_S)
    others = {pod.node for pod in site.pods()} - {node.name for node in (known, *late)}
    fault.revert()
    assert others and others <= fault._elsewhere


DIES = """
import os, sys, time
sys.path.insert(0, {here!r})
from tests.kubernetes.test_pod_faults import *
from aftershock.cluster.places import nodes_of
from aftershock.inventory import FromApi
cluster = Cluster({kubeconfig!r}, {namespace!r})
fault = RepeatedKill(
    cluster, nodes_of(cluster, FromApi()), Choice("app=web", count=1), interval_s=0.2, lease_s=60
)
played(fault)
while len(fault.rounds) < 3:
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""


def test_a_controller_that_is_killed_kills_no_more_and_leaves_nothing(site: Site) -> None:
    site.deploy("web", 4, grace_s=0)
    before = {pod.uid for pod in site.pods()}
    here, way = str(Path(__file__).parents[2]), str(site.kubeconfig)
    words = DIES.format(here=here, kubeconfig=way, namespace=site.namespace)
    died = subprocess.run([sys.executable, "-c", words], check=False, capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    until(lambda: len(site.ready("web")) == 4, PATIENCE_S)
    after = {pod.uid for pod in site.pods()}
    assert before - after, "it had killed"
    time.sleep(1)
    assert {pod.uid for pod in site.pods()} == after
    assert recover().lines()[0].startswith("Nothing was left behind")


def test_rounds_that_an_api_refuses_are_no_effect(site: Site, tmp_path: Path) -> None:
    """The rights are taken away in the middle: what was ordered did not go on."""
    if site.lab is None:
        pytest.skip("takes a user's rights away, which the lab's API does at once")
    site.deploy("web", 2, grace_s=0)
    documents = list(yaml.safe_load_all((DEPLOY / "rbac-pods.yaml").read_text()))
    cluster = Cluster(str(site.somebody(documents)), site.namespace)
    nodes = site.nodes()
    choice = Choice("app=web", count=1)
    fault = RepeatedKill(cluster, nodes, choice, interval_s=0.2, lease_s=60)
    assert played(fault)["bit"]
    site.lab.server.users.clear()
    until(lambda: any("failed" in one for one in fault.rounds), 10)
    fault.revert()
    told = fault.to_dict()
    assert told["reverted"] and not told["bit"], told
    assert "does not know us (401)" in str(told["evidence"])
    cluster.close()


def test_repeated_killing_ends_with_its_lease_and_says_so(site: Site) -> None:
    site.deploy("web", 2, grace_s=0)
    fault = RepeatedKill(
        site.cluster, site.nodes(), Choice("app=web", count=1), interval_s=5, lease_s=0.4
    )
    played(fault)
    until(lambda: fault.healed_early, 5)
    fault.revert()
    assert fault.to_dict()["healed_early"]


def faults(cluster: Cluster, site: Site, folder: Path) -> dict[str, list[ApiFault]]:
    """Every fault of the API, by the file in deploy/ that grants it."""
    nodes, ledger = site.nodes(), Ledger("run")
    taint = taints.checked("NoExecute", "run")
    reaper = Reaper(cluster, ledger, "python")
    ledger.close()
    return {
        "rbac-pods.yaml": [
            PodKill(cluster, nodes, WEB),
            PodEviction(cluster, nodes, WEB),
            RepeatedKill(cluster, nodes, WEB),
        ],
        "rbac-nodes.yaml": [
            Cordon(cluster, nodes, ledger, reaper),
            Tainted(cluster, nodes, taint, ledger, reaper),
            Drain(cluster, nodes),
        ],
        "rbac-scale.yaml": [
            Scaled(cluster, parsed("Deployment/web", site.namespace), 1, ledger),
            Scaled(cluster, parsed("StatefulSet/web", site.namespace), 1, ledger),
            BlockedAutoscaler(cluster, parsed("Deployment/web", site.namespace), 1, ledger),
        ],
    }


def granted(documents: list[dict[str, Any]], namespace: str) -> set[Permission]:
    return {
        Permission(verb, resource, namespace_of(one, namespace), group)
        for one in documents
        if one["kind"] in ("Role", "ClusterRole")
        for rule in one["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("name", ["rbac-pods.yaml", "rbac-nodes.yaml", "rbac-scale.yaml"])
def test_the_rights_in_deploy_are_enough_and_no_more(site: Site, tmp_path: Path, name: str) -> None:
    documents = list(yaml.safe_load_all((DEPLOY / name).read_text()))
    kubeconfig = site.somebody(documents)
    cluster = Cluster(str(kubeconfig), site.namespace)
    try:
        needed = {
            one for fault in faults(cluster, site, tmp_path)[name] for one in fault.permissions()
        }
        if name == "rbac-pods.yaml":
            needed |= {*reads(site.namespace), *probes(site.namespace)}
            needed |= {*lease_rights(site.namespace)}
            needed.add(Permission("get", "namespaces", site.namespace))
        if name == "rbac-nodes.yaml":
            needed |= {*processes.PERMISSIONS}
        assert missing(cluster, needed) == []
        assert granted(documents, site.namespace) == needed, "more, or less, than is needed"
    finally:
        cluster.close()


def test_with_those_rights_pods_are_killed_and_nothing_else_is(site: Site, tmp_path: Path) -> None:
    site.deploy("web", 2)
    documents = list(yaml.safe_load_all((DEPLOY / "rbac-pods.yaml").read_text()))
    cluster = Cluster(str(site.somebody(documents)), site.namespace)
    nodes = site.nodes()
    try:
        assert played(PodKill(cluster, nodes, Choice("app=web", count=1)))["bit"]
        assert played(PodEviction(cluster, nodes, Choice("app=web", count=1)))["bit"]
        cordon = faults(cluster, site, tmp_path)["rbac-nodes.yaml"][0]
        with pytest.raises(
            NotPermitted, match=r"get nodes; .*patch nodes.*: grant it \(deploy/rbac"
        ):
            cordon.check()
        elsewhere = PodKill(cluster, nodes, WEB, namespace="default")
        with pytest.raises(NotPermitted, match="delete pods in namespace default"):
            elsewhere.check()
        with pytest.raises(AftershockError, match=r"403 .*cannot patch"):
            cluster.uncordon(nodes[0].name)
    finally:
        cluster.close()
