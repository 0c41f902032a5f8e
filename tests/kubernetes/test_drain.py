"""Nodes drained: what goes, what stays, what budgets hold, and what is told of it meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.capacity import Choice, Cordon, Drain, NothingMatches, PodKill, Tainted, TooMuch
from aftershock.capacity.drain import Step
from aftershock.cluster import taints
from aftershock.errors import InvalidFault
from aftershock.inventory import Limits, Node, NodePod
from aftershock.ledger import Ledger
from aftershock.run import draining
from aftershock.run.draining import TO_DRAIN
from aftershock.run.settings import Settings
from aftershock.run.target import Target
from tests.bare import bare_run

from .conftest import until
from .sites import PATIENCE_S, Site


def limits(site: Site) -> Limits:
    """Others' pods on a genuine cluster's nodes are none of ours to end."""
    others = {item.metadata.name for item in site.core.list_namespace().items} - {site.namespace}
    return Limits(never=tuple(sorted(others)), max_owner_share=1.0)


def busiest(site: Site) -> Node:
    """The node with most of the site's pods."""
    nodes = [pod.node for pod in site.pods() if pod.runs]
    name = max(sorted(set(nodes)), key=nodes.count)
    return next(node for node in site.nodes() if node.name == name)


def on(site: Site, node: Node) -> set[str]:
    return {pod.uid for pod in site.pods() if pod.node == node.name and pod.runs}


def test_a_node_is_emptied_and_opened_again(site: Site, book: Ledger) -> None:
    site.deploy("web", 6)
    node, names = busiest(site), {node.name for node in site.nodes()}
    there = on(site, node)
    cordon = Cordon(site.cluster, [node], book)
    drain = Drain(site.cluster, [node], deadline_s=30, limits=limits(site))
    for fault in (cordon, drain):
        fault.check()
        fault.arm()
    assert on(site, node) == there, "armed, yet nothing is felt"
    for fault in (cordon, drain):
        fault.fire()
        fault.observe()
    told = drain.to_dict()
    assert told["bit"] and told["clean"] and cordon.bit, told
    assert set(told["parameters"]["pods"].values()) == there
    assert not on(site, node) and not there & {pod.uid for pod in site.pods()}
    steps = told["parameters"]["steps"]
    assert {(one["pod"], one["what"]) for one in steps} == {
        (pod, what) for pod in told["parameters"]["pods"] for what in ("evicted", "gone")
    }
    until(lambda: len(site.ready("web")) == 6 or len(names) == 1, PATIENCE_S)
    assert not on(site, node), "closed until it is opened"
    cordon.revert()
    assert not site.core.read_node(node.name).spec.unschedulable


def test_a_budget_holds_a_drain_until_it_lets_go(site: Site) -> None:
    site.deploy("web", 2)
    site.budget("web", 2)
    node = busiest(site)
    heard: list[Step] = []
    there = on(site, node)
    drain = Drain(site.cluster, [node], deadline_s=60, limits=limits(site), heard=heard.append)
    drain.check()
    drain.arm()
    site.core.patch_node(node.name, {"spec": {"unschedulable": True}})
    try:
        drain.fire()
        assert drain.refusals and on(site, node) == there
        threading.Timer(0.7, site.scale, ("web", 2 + len(there))).start()
        assert drain.observe()["bit"]
    finally:
        site.core.patch_node(node.name, {"spec": {"unschedulable": None}})
    assert not on(site, node)
    whats = [one.what for one in heard]
    assert whats[0] == "held" and whats.count("gone") == len(there) and heard[-1].left == 0
    assert drain.refusals > 1, "it was asked again"


def test_what_a_budget_never_lets_go_is_no_effect(site: Site) -> None:
    site.deploy("web", 2)
    site.budget("web", 2)
    node = busiest(site)
    there = on(site, node)
    held = Drain(site.cluster, [node], deadline_s=0.6, limits=limits(site))
    held.check()
    held.arm()
    held.fire()
    told = held.observe()
    assert not told["bit"] and "disruption budget" in str(told), told
    assert on(site, node) == there
    by_force = Drain(site.cluster, [node], override=True, deadline_s=30, limits=limits(site))
    by_force.check()
    by_force.fire()
    assert by_force.observe()["bit"] and not there & {pod.uid for pod in site.pods()}


def test_what_is_left_and_what_is_refused(site: Site) -> None:
    if site.lab is None:
        pytest.skip("makes pods of kinds that only a kubelet or a DaemonSet makes elsewhere")
    site.deploy("web", 6)
    node = busiest(site)
    mark = site.core.create_namespaced_config_map(site.namespace, {"metadata": {"name": "x"}})
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "controller": True}
    alone(site, node, "agent-1", ownerReferences=[{**owner, "uid": mark.metadata.uid}])
    alone(site, node, "static-1", annotations={"kubernetes.io/config.mirror": "x"})
    drain = Drain(site.cluster, [node], limits=Limits(max_owner_share=1))
    drain.check()
    lines = drain.touches()
    assert any(f"leave pod {site.namespace}/agent-1: of DaemonSet/agent" in one for one in lines)
    assert any(f"leave pod {site.namespace}/static-1: static" in one for one in lines)
    assert sum(one.startswith("evict pod") for one in lines) == len(drain.pods) >= 1
    drain.fire()
    assert drain.observe()["bit"]
    left = {pod.name for pod in site.pods() if pod.node == node.name and pod.name[-2:] == "-1"}
    assert left == {"agent-1", "static-1"}
    alone(site, node, "alone-1")
    with pytest.raises(InvalidFault, match=r"nobody would bring .*alone-1 back: say force"):
        Drain(site.cluster, [node], limits=limits(site)).check()
    with pytest.raises(TooMuch, match=r"pods of Deployment/web would go, and max_owner_share 0\.1"):
        few = Limits(max_owner_share=0.1)
        Drain(site.cluster, site.nodes()[:4], force=True, limits=few).check()
    empty = Limits(never=(site.namespace,))
    with pytest.raises(NothingMatches, match=rf"namespace {site.namespace} is never touched"):
        Drain(site.cluster, [node], limits=empty).check()
    by_force = Drain(site.cluster, [node], force=True, limits=limits(site))
    by_force.check()
    by_force.fire()
    assert by_force.observe()["bit"] and "alone-1" not in {pod.name for pod in site.pods()}


def alone(site: Site, node: Node, name: str, **meta: Any) -> None:
    container = {"name": "sleep", "image": "x", "command": ["sleep", "1000"]}
    spec = {"nodeName": node.name, "containers": [container], "terminationGracePeriodSeconds": 0}
    site.core.create_namespaced_pod(
        site.namespace, {"metadata": {"name": name, **meta}, "spec": spec}
    )
    until(lambda: any(pod.name == name and pod.node for pod in site.pods()), PATIENCE_S)


@pytest.fixture
def run(site: Site, book: Ledger, tmp_path: Path) -> Iterator[Any]:
    """A run without load, on the site's cluster."""
    told = {"kubeconfig": str(site.kubeconfig), "namespace": site.namespace}
    plain = {
        "gateway_url": "http://127.0.0.1:1",
        "model": "m",
        "kubernetes": {**told, "selector": "app=web", "reaper_image": "none"},
        "limits": {"max_owner_share": 1.0, "never": list(limits(site).never)},
    }
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(plain))
    settings = Settings(target=str(tmp_path / "cluster.yaml"), zone="all", lease_s=90)
    target = Target(settings)
    target.check()
    target.foreseen()
    run = bare_run(target, book, settings, tmp_path)
    yield run
    run.breaking.heal_everything()
    run.timeline.close()
    target.down()


def test_a_run_tells_of_each_pod_and_opens_what_it_closed(
    run: Any, site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.deploy("web", 4)
    node = busiest(site)
    count = len(on(site, node))
    with pytest.raises(InvalidFault, match="deadline_s is 90, and lease_s 90: the nodes would be"):
        draining.drain_nodes(run, node.name, 90, -1, "honour", False)
    caplog.set_level("INFO", logger="chaostoolkit")
    told = draining.drain_nodes(run, node.name, "30", "-1", "honour", "false")
    assert [one["fault"] for one in told["injections"]] == ["cordon", "drain"]
    assert all(one["bit"] for one in told["injections"])
    lines = [json.loads(line) for line in (tmp_path / "timeline.jsonl").read_text().splitlines()]
    gauged = [line["value"] for line in lines if line.get("gauge") == TO_DRAIN]
    assert gauged == sorted(gauged, reverse=True)
    assert gauged[0] == count and gauged[-1] == 0
    said = [one.message for one in caplog.records if one.message.startswith("drain ")]
    assert sum("evicted" in one for one in said) == sum(" gone, " in one for one in said) == count
    assert f"{node.name}: {count} of {count} pods gone, drained" in run.said()
    assert site.core.read_node(node.name).spec.unschedulable
    run.breaking.heal(node.name, kinds=("cordon",))
    assert not site.core.read_node(node.name).spec.unschedulable


def test_a_host_may_have_another_name_than_its_node(site: Site, book: Ledger) -> None:
    """As with `node:` in an inventory's hosts: the cluster is asked by its own name for it."""
    site.deploy("web", 4, grace_s=0)
    there = busiest(site)
    way = NodePod(str(site.kubeconfig), there.name, "i")
    host = replace(there, name="gpu-1", agentless=False, agent=way)
    gone = on(site, there)
    faults = [
        Cordon(site.cluster, [host], book),
        Tainted(site.cluster, [host], taints.checked("NoSchedule", "run-1"), book),
        Drain(site.cluster, [host], deadline_s=30, limits=limits(site)),
    ]
    for fault in faults:
        fault.check()
        fault.arm()
    for fault in faults:
        fault.fire()
        fault.observe()
        told = fault.to_dict()
        assert told["bit"] and told["hosts"] == ["gpu-1"], told
        assert {piece["host"] for piece in told["evidence"]["pieces"]} == {"gpu-1"}
    assert not gone & {pod.uid for pod in site.pods()} and not on(site, there)
    for fault in faults:
        fault.revert()
    node = site.core.read_node(there.name)
    assert not node.spec.unschedulable and not node.spec.taints
    until(lambda: len(site.ready("web")) == 4, PATIENCE_S)
    site.scale("web", 4 * len(site.nodes()))
    until(lambda: on(site, there), PATIENCE_S)
    kill = PodKill(site.cluster, [host], Choice("app=web"))
    kill.check()
    kill.fire()
    assert kill.observe()["bit"] and kill.to_dict()["hosts"] == ["gpu-1"]
