"""Workloads scaled and autoscalers held: what comes back exactly, whoever gives it back."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client

from aftershock.capacity import (
    BlockedAutoscaler,
    Choice,
    NothingMatches,
    PodKill,
    Scaled,
    TooMuch,
)
from aftershock.capacity.held import HeldChange
from aftershock.capacity.reaper import NAMESPACE, Reaper
from aftershock.cluster import objects
from aftershock.cluster.workloads import Workload, parsed
from aftershock.errors import InvalidInput, NotApplied
from aftershock.inventory import Limits
from aftershock.ledger import Ledger
from aftershock.recover import recover

from .conftest import until
from .sites import IMAGE, PATIENCE_S, Site


def web(site: Site) -> Workload:
    return parsed("deploy/web", site.namespace)


def asked(site: Site) -> int:
    apps = client.AppsV1Api(site.client)
    return int(apps.read_namespaced_deployment("web", site.namespace).spec.replicas)


def autoscaled(site: Site, least: int, most: int) -> None:
    """An autoscaler of the deployment that would like 90 % of a metric to be 30."""
    metric: dict[str, Any] = {"metric": {"name": "busy"}}
    metric["target"] = {"type": "AverageValue", "averageValue": "30"}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "minReplicas": least,
        "maxReplicas": most,
        "metrics": [{"type": "Pods", "pods": metric}],
    }
    client.AutoscalingV2Api(site.client).create_namespaced_horizontal_pod_autoscaler(
        site.namespace, {"metadata": {"name": "web"}, "spec": spec}
    )


def bounds(site: Site) -> tuple[int, int]:
    api = client.AutoscalingV2Api(site.client)
    spec = api.read_namespaced_horizontal_pod_autoscaler("web", site.namespace).spec
    return spec.min_replicas, spec.max_replicas


def played(*faults: HeldChange) -> None:
    for fault in faults:
        fault.check()
        fault.arm()
    for fault in faults:
        fault.fire()
        assert fault.observe()["bit"], fault.to_dict()


def test_fewer_replicas_until_the_heal_and_then_exactly_as_many(site: Site, book: Ledger) -> None:
    site.deploy("web", 5, grace_s=0)
    fault = Scaled(site.cluster, web(site), 2, book)
    fault.check()
    fault.arm()
    assert len(site.ready("web")) == 5, "armed, yet nothing is felt"
    fault.fire()
    assert fault.observe()["bit"]
    assert len(site.ready("web")) == asked(site) == 2
    fault.revert()
    fault.revert()
    assert asked(site) == 5
    until(lambda: len(site.ready("web")) == 5, PATIENCE_S)
    told = fault.to_dict()
    assert told["clean"] and not told["healed_early"] and told["hosts"] == ["Deployment/web"]
    assert told["parameters"]["before"] == 5


def test_an_api_without_autoscaling_v2_scales_all_the_same(
    site: Site, book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes before 1.23."""

    def absent(*_: Any, **__: Any) -> Any:
        said = json.dumps({"message": "the server could not find the requested resource"})
        return SimpleNamespace(status=404, reason="Not Found", data=said.encode())

    absent.__name__ = "list_namespaced_horizontal_pod_autoscaler"
    monkeypatch.setattr(client.AutoscalingV2Api, absent.__name__, absent)
    site.deploy("web", 2, grace_s=0)
    fault = Scaled(site.cluster, web(site), 1, book)
    played(fault)
    fault.revert()
    assert asked(site) == 2 and fault.to_dict()["clean"] and not fault.healed_early
    with pytest.raises(InvalidInput, match="no autoscaler of autoscaling/v2 scales Deployment/web"):
        BlockedAutoscaler(site.cluster, web(site), None, book).check()


def test_what_somebody_else_chose_meanwhile_stands(site: Site, book: Ledger) -> None:
    site.deploy("web", 2, grace_s=0)
    fault = Scaled(site.cluster, web(site), 3, book)
    played(fault)
    site.scale("web", 4)
    fault.revert()
    told = fault.to_dict()
    assert asked(site) == 4 and told["reverted"] and told["healed_early"]
    assert told["parameters"]["left_to_others"] == "4 replicas"
    late = Scaled(site.cluster, web(site), 2, book)
    late.check()
    late.arm()
    site.scale("web", 3)
    with pytest.raises(NotApplied, match="somebody else scaled Deployment/web meanwhile"):
        late.fire()
    assert asked(site) == 3


def test_a_stateful_set_s_pods_come_again_by_name(site: Site, book: Ledger) -> None:
    stateful(site, 3)
    until(lambda: len(site.ready("db")) == 3, PATIENCE_S)
    before = {pod.name: pod.uid for pod in site.pods()}
    kill = PodKill(site.cluster, site.nodes(), Choice(owner="StatefulSet/db", name="db-1"))
    kill.check()
    kill.arm()
    kill.fire()
    assert kill.observe()["bit"], "gone is who had the UID, whoever has the name now"
    until(lambda: len(site.ready("db")) == 3, PATIENCE_S)
    after = {pod.name: pod.uid for pod in site.pods()}
    assert set(after) == set(before) == {"db-0", "db-1", "db-2"}
    assert {name for name in after if after[name] != before[name]} == {"db-1"}
    fault = Scaled(site.cluster, parsed("sts/db", site.namespace), 1, book)
    played(fault)
    until(lambda: {pod.name for pod in site.pods()} == {"db-0"}, PATIENCE_S)
    fault.revert()
    until(lambda: len(site.ready("db")) == 3, PATIENCE_S)
    assert fault.to_dict()["clean"] and fault.parameters()["before"] == 3


def stateful(site: Site, replicas: int) -> None:
    labels = {"app": "db"}
    container = {"name": "sleep", "image": IMAGE, "command": ["sleep", "1000"]}
    pod = {"containers": [container], "terminationGracePeriodSeconds": 0}
    spec = {
        "serviceName": "db",
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    client.AppsV1Api(site.client).create_namespaced_stateful_set(
        site.namespace, {"metadata": {"name": "db"}, "spec": spec}
    )


def test_an_autoscaler_is_held_and_let_go(site: Site, book: Ledger) -> None:
    site.deploy("web", 2, grace_s=0)
    autoscaled(site, 2, 6)
    block = BlockedAutoscaler(site.cluster, web(site), 1, book)
    fewer = Scaled(site.cluster, web(site), 1, book)
    played(block, fewer)
    assert bounds(site) == (1, 1)
    if site.lab:  # its metric says at once that more are wanted
        scalers = site.lab.cluster.autoscalers
        scalers.metric, scalers._period_s = (lambda uid, name: 90.0), 0.1
        looked = {status_of(site)}
        until(lambda: status_of(site) not in looked)
    assert asked(site) == 1 == len(site.ready("web"))
    block.revert()
    fewer.revert()
    assert bounds(site) == (2, 6) and not block.healed_early
    if site.lab:
        until(lambda: asked(site) == 6)


def status_of(site: Site) -> str:
    api = client.AutoscalingV2Api(site.client)
    return str(api.read_namespaced_horizontal_pod_autoscaler("web", site.namespace).status)


def test_a_reaper_gives_back_what_we_did_not(site: Site, book: Ledger) -> None:
    if site.lab is None:
        pytest.skip("wants deploy/reaper.yaml and an image with python3, as test_reaper.py does")
    site.deploy("web", 3, grace_s=0)
    autoscaled(site, 2, 6)
    site.core.create_namespace({"metadata": {"name": NAMESPACE}})
    reaper = Reaper(site.cluster, book, "example.local/python:3")
    more = (book, reaper, 4.0)  # until the second one is in its hands, too
    faults = [
        BlockedAutoscaler(site.cluster, web(site), 2, *more),
        Scaled(site.cluster, web(site), 2, *more),
    ]
    played(*faults)
    assert (asked(site), bounds(site)) == (2, (2, 2))
    until(lambda: (asked(site), bounds(site)) == (3, (2, 6)), 30)
    until(lambda: not objects.listed(site.cluster, "lease", NAMESPACE))
    for fault in faults:
        fault.revert()
        assert fault.healed_early and fault.to_dict()["clean"]
    assert (asked(site), bounds(site)) == (3, (2, 6))


def test_recover_gives_back_what_a_dead_run_took(site: Site, book: Ledger) -> None:
    site.deploy("web", 3, grace_s=0)
    autoscaled(site, 2, 6)
    played(
        BlockedAutoscaler(site.cluster, web(site), 2, book),
        Scaled(site.cluster, web(site), 2, book),
    )
    begun, *rest = book.path.read_text().splitlines()
    dead = {**json.loads(begun), "controller": {"pid": 999_999, "start": 1, "boot": "then"}}
    book.path.write_text("\n".join([json.dumps(dead), *rest]) + "\n")
    found = recover()
    assert found.healed and found.lines() == [
        "run-1: autoscaler web scales from 2 to 6 again",
        "run-1: Deployment/web has 3 replicas again, unless somebody chose otherwise",
    ]
    assert (asked(site), bounds(site)) == (3, (2, 6))


def test_what_is_refused_before(site: Site, book: Ledger) -> None:
    site.deploy("web", 4)
    few = Limits(max_owner_share=0.5)
    with pytest.raises(TooMuch, match=r"3 of the 4 replicas of Deployment/web would go.* 0\.5"):
        Scaled(site.cluster, web(site), 1, book, None, 120, few).check()
    with pytest.raises(NothingMatches, match="has 4 replicas already"):
        Scaled(site.cluster, web(site), 4, book).check()
    with pytest.raises(InvalidInput, match=f"no Deployment/api in namespace {site.namespace}"):
        Scaled(site.cluster, parsed("Deployment/api", site.namespace), 1, book).check()
    with pytest.raises(TooMuch, match="kube-system is never touched"):
        Scaled(site.cluster, parsed("Deployment/x", "kube-system"), 1, book).check()
    with pytest.raises(InvalidInput, match="no autoscaler of autoscaling/v2 scales Deployment/web"):
        BlockedAutoscaler(site.cluster, web(site), None, book).check()
    for words in ("web", "Deployment/", "DaemonSet/web", "a/b/c"):
        with pytest.raises(InvalidInput, match="Deployment/NAME or StatefulSet/NAME"):
            parsed(words, site.namespace)
    assert asked(site) == 4
