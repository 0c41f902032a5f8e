"""Pods killed and evicted: what goes, what stays, what is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from aftershock.capacity import Choice, Ending, NothingMatches, PodEviction, PodKill, TooMuch
from aftershock.cluster import pods
from aftershock.inventory import Limits
from aftershock.lab.kubernetes import ApiServer

from .conftest import until
from .sites import PATIENCE_S, WEB, Site, played


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
