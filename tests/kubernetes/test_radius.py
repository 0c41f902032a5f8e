"""Limits hold for all of a run's injections together, as long as each is in effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.capacity import TooMuch
from aftershock.cluster.workloads import parsed
from aftershock.errors import AftershockError
from aftershock.ledger import Ledger
from aftershock.run.foresight import Foresight
from aftershock.run.injecting import Injected, Injections
from aftershock.run.podwords import Place
from aftershock.run.settings import Settings
from aftershock.run.target import Target

from .conftest import until
from .sites import PATIENCE_S, Site

ANYWHERE = Place()


@pytest.fixture
def target(site: Site, tmp_path: Path) -> Iterator[Target]:
    kubernetes = {"kubeconfig": str(site.kubeconfig), "namespace": site.namespace}
    plain = {
        "gateway_url": "http://127.0.0.1:1",
        "model": "m",
        "kubernetes": {**kubernetes, "selector": "app=web", "reaper_image": "none"},
        "agent": {"image": "i"},
        "limits": {"max_zone_share": 0.9, "max_node_share": 0.9},
    }
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(plain))
    target = Target(Settings(target=str(path), zone="all"))
    target.check()
    yield target
    target.down()


@pytest.fixture
def injections(target: Target, book: Ledger) -> Injections:
    return Injections(target, book, target.settings)


def kill(injections: Injections, count: int, kind: str = "kill", **words: Any) -> Injected:
    fault = injections.pods(kind, ANYWHERE, {"count": count, **words})
    injections.arm([fault])
    fault.fire()
    fault.observe()
    return fault


def stay_unready(site: Site, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No pod that comes up from now on gets ready until this is undone."""
    if site.lab is None:
        pytest.skip("keeps new pods from getting ready, which the lab's runtime decides")
    old = {pod.uid for pod in site.pods()}

    async def is_ready(uid: str) -> bool:
        return uid in old

    monkeypatch.setattr(site.lab.runtime, "is_ready", is_ready)
    return monkeypatch


def test_what_earlier_kills_took_counts_until_it_is_back(
    site: Site, injections: Injections, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.deploy("web", 6, grace_s=0)
    kept_back = stay_unready(site, monkeypatch)
    first = kill(injections, 2)
    names = ", ".join(sorted(first.to_dict()["parameters"]["pods"]))
    with pytest.raises(TooMuch) as refused:
        kill(injections, 4)
    assert str(refused.value).startswith(
        f"4 of the 6 pods of Deployment/web would go, 2 are taken already (pod-kill: {names}), and "
        "max_owner_share 0.5 allows 3 at once: "
    )
    assert len(site.ready("web")) == 4, "nothing was touched"
    one, other, *_ = (pod.name for pod in site.ready("web"))
    kill(injections, 1, name=one)
    with pytest.raises(TooMuch, match=r"1 of the 6 .*, 3 are taken already"):
        kill(injections, 1, name=other)
    kept_back.undo()
    until(lambda: len(site.ready("web")) == 6, PATIENCE_S)
    kill(injections, 3)


def test_a_share_of_an_owner_leaves_out_what_is_taken(
    site: Site, injections: Injections, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.deploy("web", 6, grace_s=0)
    stay_unready(site, monkeypatch)
    kill(injections, 2)
    second = kill(injections, 0, max_owner_share=0.5)
    assert len(second.to_dict()["parameters"]["pods"]) == 1


def test_rounds_of_repeated_killing_hold_the_limit_together(
    site: Site, injections: Injections, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.deploy("web", 6, grace_s=0)
    stay_unready(site, monkeypatch)
    told = {"interval_s": 0.1, "lease_s": 60, "name": "web-*"}
    fault: Any = kill(injections, 2, "keep killing", **told)
    until(lambda: any("3 at once" in one.get("skipped", "") for one in fault.rounds), PATIENCE_S)
    fault.revert()
    assert len(site.ready("web")) >= 3


def test_replicas_that_are_scaled_away_count_until_the_heal(
    site: Site, injections: Injections
) -> None:
    site.deploy("web", 6, grace_s=0)
    web = parsed("Deployment/web", site.namespace)
    scaled = injections.scale(web, 4)
    injections.arm([scaled])
    scaled.fire()
    scaled.observe()
    with pytest.raises(TooMuch, match=r"2 are taken already \(scale: 6 to 4 replicas\), and"):
        kill(injections, 2)
    with pytest.raises(TooMuch, match=r"2 of the 4 replicas .*2 are taken already \(scale"):
        injections.arm([injections.scale(web, 2)])
    kill(injections, 1)
    scaled.revert()
    until(lambda: len(site.ready("web")) == 6, PATIENCE_S)
    kill(injections, 3)


def method(*steps: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for name, arguments in steps:
        module, _, func = name.partition(".")
        told = {"type": "python", "module": f"aftershock.actions.{module}", "func": func}
        found.append({"type": "action", "name": name, "provider": {**told, "arguments": arguments}})
    return found


def test_a_run_is_refused_ahead_for_what_its_actions_take_together(
    site: Site, target: Target
) -> None:
    site.deploy("web", 6)

    def ahead(*steps: tuple[str, dict[str, Any]]) -> str:
        try:
            Foresight(target.settings, target).refuse(method(*steps), {})
        except AftershockError as error:
            return str(error)
        return ""

    first, second, third, fourth = (f"pod/{pod.name}" for pod in site.ready("web")[:4])
    delayed = ("network.degrade_network", {"where": f"{first},{second}", "delay_ms": 10})
    frozen = ("kubernetes.freeze_containers", {"where": third})
    killed = ("kubernetes.kill_pods", {"name": fourth.removeprefix("pod/")})
    fewer = ("kubernetes.scale_workload", {"workload": "Deployment/web", "replicas": 3})
    healed = ("zone.heal_everything", {})
    names = [first.removeprefix("pod/"), second.removeprefix("pod/")]
    assert not ahead(delayed, frozen)
    said = ahead(delayed, frozen, killed)
    assert f"3 are taken already (delay: {', '.join(sorted(names))}; freeze: " in said
    assert not ahead(delayed, frozen, healed, killed)
    assert "1 of the 6 pods of Deployment/web would go, 3 are taken already" in ahead(fewer, killed)
    assert "(scale: 6 to 3 replicas)" in ahead(fewer, frozen)
    assert "3 of the 6 replicas" in ahead(killed, frozen, fewer)
    zone = site.nodes()[0].zone
    lost = [pod.name for pod in site.ready("web") if pod.node in on(site, zone)]
    others = [pod.name for pod in site.ready("web") if pod.node not in on(site, zone)][:2]
    cut = ("zone.fail_zone", {"zone": zone})
    delays = ("network.degrade_network", {"where": f"pod/{others[0]},pod/{others[1]}"})
    delays[1]["delay_ms"] = 10
    said = ahead(cut, delays)
    if len(lost) == 2:  # where the scheduler spread them evenly
        assert f"2 are taken already (partition: {', '.join(sorted(lost))})" in said
    assert not ahead(cut, ("zone.heal_zone", {"zone": zone}), delays)


def on(site: Site, zone: str) -> set[str]:
    return {node.name for node in site.nodes() if node.zone == zone}
