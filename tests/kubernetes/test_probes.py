"""What the probes say of a cluster, before something happens to it, while it does, and after."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aftershock.probes import kubernetes as probes

from aftershock import run as runs
from aftershock.cluster import Cluster, readings
from aftershock.cluster.places import look_up
from aftershock.cluster.pods import images
from aftershock.cluster.rest import Rest
from aftershock.errors import HostUnreachable, InvalidInput
from aftershock.inventory import Inventory, Node
from aftershock.run.console import Console
from aftershock.run.replicas import Replicas
from aftershock.run.workload import NotScaled, Workload
from aftershock.slo.objectives import NoMeasurement
from aftershock.slo.timeline import Timeline

from .conftest import Lab, deployment, needs_kubectl, ready_pods, until

ZONES = {"az-a": 2, "az-b": 2, "az-c": 2}


@pytest.fixture
def on(web: Lab) -> Iterator[SimpleNamespace]:
    """The probes at work on the cluster, as within a run."""
    cluster = Cluster(str(web.kubeconfig), "shop")
    nodes = tuple(Node(name, zone, ()) for name, zone in cluster.zone_of_nodes().items())
    inventory = Inventory("web", nodes, "", "", cluster.kubeconfig, "shop", "app=web")
    timeline, wrote = Timeline(), {}
    replicas = Replicas(cluster, inventory, timeline)
    run = SimpleNamespace(
        timeline=timeline,
        target=SimpleNamespace(inventory=inventory),
        breaking=SimpleNamespace(injections=SimpleNamespace(cluster=cluster)),
        watcher=SimpleNamespace(replicas=replicas),
    )
    run.noting = contextlib.nullcontext
    run.folder = SimpleNamespace(write_json=lambda name, told: wrote.update({name: told}))
    run.console, run.wrote = Console(io.StringIO()), wrote
    run.workload = Workload(run)  # type: ignore[arg-type]
    runs.enter(run)  # type: ignore[arg-type]
    until(lambda: replicas.watch.since and sum(replicas.watch.ready_by_zone().values()) == 6)
    yield run
    runs.leave()
    replicas.stop()
    run.workload.close()
    cluster.close()


def cordon(core: Any, zone: str, yes: bool = True) -> None:
    for node in core.list_node(label_selector=f"topology.kubernetes.io/zone={zone}").items:
        core.patch_node(node.metadata.name, {"spec": {"unschedulable": yes or None}})


def kill_zone(core: Any, zone: str) -> int:
    nodes = core.list_node(label_selector=f"topology.kubernetes.io/zone={zone}").items
    names = {node.metadata.name for node in nodes}
    pods = [pod for pod in ready_pods(core) if pod.spec.node_name in names]
    for pod in pods:
        core.delete_namespaced_pod(pod.metadata.name, "shop", grace_period_seconds=0)
    return len(pods)


def test_replicas_while_a_zone_is_blocked(on: Any, core: Any, web: Lab) -> None:
    assert probes.ready_replicas_by_zone() == ZONES and probes.ready_replicas() == 6
    assert probes.pending_pods() == [] and probes.pending_pod_count() == 0
    with pytest.raises(NoMeasurement, match="no fault was fired"):
        probes.replacements()
    for zone in ("az-b", "az-c"):  # the zone's pods have nowhere else to go
        cordon(core, zone)
    cordon(core, "az-a")
    on.timeline.mark("t_effect", time.monotonic())
    with pytest.raises(NoMeasurement, match="no replica was lost"):
        probes.slowest_replacement_s()
    assert kill_zone(core, "az-a") == 2
    until(lambda: probes.ready_replicas("az-a") == 0)
    until(lambda: probes.pending_pod_count() == 2)
    waiting = probes.pending_pods()
    assert {one["why"] for one in waiting} == {"Unschedulable"}
    assert "nodes are available" in waiting[0]["message"]
    with pytest.raises(NoMeasurement, match=r"2 of 2 are not scheduled: .*nodes are available"):
        until(lambda: len(probes.replacements()) == 2)
        probes.slowest_replacement_s("scheduled")
    for zone in ZONES:
        cordon(core, zone, False)
    until(lambda: probes.ready_replicas() == 6)
    assert probes.pending_pods() == []
    until(lambda: all(row["ready_s"] for row in probes.replacements()))
    times = [probes.slowest_replacement_s(stage) for stage in ("deleted", "scheduled", "ready")]
    assert 0 < times[0] < times[1] <= times[2]
    with pytest.raises(InvalidInput, match="there are deleted, scheduled, started, ready"):
        probes.slowest_replacement_s("born")
    with pytest.raises(InvalidInput, match="az-x"):
        probes.ready_replicas("az-x")


def test_restarts_and_the_oom_killer(on: Any, core: Any, web: Lab) -> None:
    with pytest.raises(NoMeasurement, match="watched for"):
        on.watcher.replicas.watch.since, was = time.monotonic(), on.watcher.replicas.watch.since
        probes.restarts_per_minute()
    on.watcher.replicas.watch.since = was - 60
    assert probes.restarts_per_minute() == 0 and probes.oom_kills() == 0
    victim = ready_pods(core)[0]
    on.timeline.mark("t_effect", time.monotonic())
    web.do(end(web, victim.metadata.uid))
    until(lambda: probes.restarts_per_minute() > 0)
    assert 0.9 < probes.restarts_per_minute(window_s=60) <= 1
    zones = {node.name: node.zone for node in on.target.inventory.nodes}
    zone = zones[victim.spec.node_name]
    other = next(name for name in ZONES if name != zone)
    assert probes.restarts_per_minute(zone) > 0 == probes.restarts_per_minute(other)
    (row,) = until(lambda: [one for one in probes.replacements() if one["ready_s"]])
    assert row["pod"] == row["replaces"] == victim.metadata.name and row["scheduled_s"] is None
    assert 0 < row["deleted_s"] <= row["started_s"] <= row["ready_s"]
    killed(core, victim.metadata.name, "2026-11-25T00:00:01Z")
    until(lambda: probes.oom_kills() == 1)
    killed(core, victim.metadata.name, "2026-11-25T00:00:09Z")
    until(lambda: probes.oom_kills(zone) == 2)
    assert probes.oom_kills(other) == 0
    with pytest.raises(InvalidInput, match="more than 0"):
        probes.restarts_per_minute(window_s=0)
    with pytest.raises(InvalidInput, match="window_s is 'soon': give a number"):
        probes.restarts_per_minute(window_s="soon")  # type: ignore[arg-type]


async def end(web: Lab, uid: str) -> None:
    web.runtime.processes[uid].kill()


def killed(core: Any, name: str, at: str) -> None:
    """As a kubelet reports it: the lab's does not know of cgroups, so it is told so."""
    pod = core.read_namespaced_pod(name, "shop")
    status = core.api_client.sanitize_for_serialization(pod.status.container_statuses)
    end = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": at, "startedAt": at}
    status[0]["lastState"] = {"terminated": end}
    core.patch_namespaced_pod_status(name, "shop", {"status": {"containerStatuses": status}})


def test_endpoints_while_pods_die(on: Any, core: Any, web: Lab) -> None:
    count = {"ready": 2, "serving": 2, "terminating": 0, "not_ready": 0}
    until(lambda: probes.endpoints_by_zone("web") == dict.fromkeys(ZONES, count))
    assert probes.ready_endpoints() == 6 and probes.ready_endpoints("web", "az-b") == 2
    for pod in ready_pods(core):
        web.runtime.unready.add(pod.metadata.uid)
        break
    until(lambda: probes.ready_endpoints() == 5)
    assert sum(zone["not_ready"] for zone in probes.endpoints_by_zone().values()) == 1
    web.runtime.unready.clear()
    until(lambda: probes.ready_endpoints() == 6)
    with pytest.raises(InvalidInput, match="no service 'wap' has endpoints in shop: there is web"):
        probes.endpoints_by_zone("wap")


def test_nodes_and_budgets(on: Any, core: Any, web: Lab) -> None:
    assert probes.nodes_ready() == 6
    found = probes.node_conditions("az-a")
    assert {node["zone"] for node in found.values()} == {"az-a"} and len(found) == 2
    assert all(
        node["ready"] and node["conditions"]["DiskPressure"] is False for node in found.values()
    )
    name = next(iter(found))
    core.patch_node(
        name, {"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}
    )
    cordon(core, "az-a")
    told = probes.node_conditions("az-a")[name]
    assert "k=v:NoSchedule" in told["taints"] and told["unschedulable"] and told["ready"]
    assert probes.nodes_ready() == 4 and probes.nodes_ready("az-a") == 0
    core.patch_node(name, {"spec": {"taints": None}})
    cordon(core, "az-a", False)
    assert probes.nodes_ready("az-a") == 2
    with pytest.raises(InvalidInput, match="there is az-a, az-b, az-c"):
        probes.node_conditions("az-x")
    with pytest.raises(InvalidInput, match="PodDisruptionBudget in shop: there is none"):
        probes.disruption_headroom()
    web.apply(budget(4))
    until(lambda: probes.disruption_headroom() == 2)
    web.runtime.unready.update(pod.metadata.uid for pod in ready_pods(core)[:1])
    until(lambda: probes.disruption_headroom("web") == 1)
    web.runtime.unready.clear()
    until(lambda: probes.disruption_budgets()["web"]["allowed"] == 2)
    assert probes.disruption_budgets()["web"]["desired"] == 4


def budget(least: int) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "web"}}},
    }


def test_whether_the_other_zones_have_room(on: Any, core: Any, web: Lab) -> None:
    """Six nodes with two GPUs each; each pod takes one."""
    told = probes.room_without_zone("az-a")
    assert told["fits"] and told["pods"] == 2 and len(told["placed"]) == 2
    assert sum(zone["nvidia.com/gpu"] for zone in told["free"].values()) == 2
    web.apply(deployment("other", replicas=6))
    until(lambda: len(ready_pods(core, "app=other")) == 6)
    until(lambda: not probes.room_without_zone("az-a")["fits"])  # somebody else's GPUs
    left = probes.room_without_zone("az-a")["left"]
    assert "Insufficient nvidia.com/gpu" in next(iter(left.values()))
    web.apply(deployment("other", replicas=0))
    until(lambda: probes.zone_can_be_lost("az-a"))
    cordon(core, "az-b")
    assert probes.zone_can_be_lost("az-a")  # az-c has two left
    nodes = core.list_node(label_selector="topology.kubernetes.io/zone=az-c").items
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    core.patch_node(nodes[0].metadata.name, {"spec": {"taints": [taint]}})
    told = probes.room_without_zone("az-a")
    assert not told["fits"] and len(told["placed"]) == 1
    why = next(iter(told["left"].values()))
    assert "2 node(s) were unschedulable" in why and "untolerated taint(s) {nvidia.com/gpu}" in why
    cordon(core, "az-b", False)
    assert probes.zone_can_be_lost("az-a")
    with pytest.raises(InvalidInput, match="there is az-a, az-b, az-c"):
        probes.room_without_zone("az-x")


def autoscaler(least: int = 6, most: int = 9) -> dict[str, Any]:
    metric = {"metric": {"name": "load"}, "target": {"type": "AverageValue", "averageValue": "50"}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [{"type": "Pods", "pods": metric}],
        },
    }


@needs_kubectl
def test_an_autoscaler_before_while_and_after_it_scales(on: Any, web: Lab) -> None:
    with pytest.raises(InvalidInput, match="say which autoscaler: shop has none"):
        probes.autoscaler()
    load: dict[str, float | None] = {"load": None}
    web.cluster.autoscalers.metric = lambda uid, name: load[name]
    web.cluster.autoscalers._period_s = 0.1
    web.kubectl("apply", "-f", "-", stdin=json.dumps(autoscaler()))
    until(lambda: probes.autoscaler()["conditions"].get("ScalingActive"))
    told = probes.autoscaler("web")
    assert told["conditions"]["ScalingActive"][:2] == ["False", "FailedGetPodsMetric"]
    assert told["metrics"] == [{"name": "load", "value": None, "target": 50.0}]
    load["load"] = 45.0
    until(lambda: probes.autoscaler()["metrics"][0]["value"] == 45)
    told = probes.autoscaler()
    assert (told["current"], told["desired"], told["least"], told["most"]) == (6, 6, 6, 9)
    assert probes.autoscaler_scaled(within_s=0.3)["scaled"] is False
    with pytest.raises(NotScaled, match=r"not scaled within 0.3 s .*load 45.0 of 50"):
        probes.autoscaler_scaled(within_s=0.3, required=True)
    load["load"] = 70.0
    found = probes.autoscaler_scaled("web", to_at_least=8, within_s=10)
    assert (found["scaled"], found["from"], found["to"]) == (True, 6, 9), found
    assert 0 <= found["decided_s"] <= found["ready_s"] < 10 and found["decided_error_s"] < 0.5
    assert probes.ready_replicas() == 9 and on.wrote["scaling.json"] == found
    until(lambda: probes.autoscaler()["current"] == 9)  # as of its next look
    table = web.kubectl("get", "hpa", "-n", "shop").split()
    assert table[:7] == ["NAME", "REFERENCE", "TARGETS", "MINPODS", "MAXPODS", "REPLICAS", "AGE"]
    assert table[7:13] == ["web", "Deployment/web", "70/50", "6", "9", "9"]
    described = web.kubectl("describe", "hpa", "web", "-n", "shop")
    assert "New size: 9; reason: pods metric load above target" in described
    assert "TooManyReplicas" in described
    load["load"] = 10.0
    until(lambda: probes.autoscaler()["conditions"]["AbleToScale"][1] == "ScaleDownStabilized")
    assert probes.ready_replicas() == 9, "down only after five minutes"
    with pytest.raises(InvalidInput, match="scales to 9 at most, 12 are waited for"):
        probes.autoscaler_scaled(to_at_least=12)
    with pytest.raises(InvalidInput, match="no autoscaler 'wap' in shop: there is web"):
        probes.autoscaler("wap")
    wrong = web.kubectl("apply", "-f", "-", stdin=json.dumps(autoscaler(9, 6)), code=1)
    assert "must be greater than or equal to `minReplicas`" in wrong


def test_a_watch_that_is_deaf_for_a_moment_is_waited_for(on: Any, web: Lab) -> None:
    """As when the machine stood still: the stream is opened anew while replicas come up."""
    load: dict[str, float | None] = {"load": 45.0}
    web.cluster.autoscalers.metric = lambda uid, name: load[name]
    web.cluster.autoscalers._period_s = 0.1
    web.kubectl("apply", "-f", "-", stdin=json.dumps(autoscaler()))
    until(lambda: probes.autoscaler()["metrics"][0]["value"] == 45)
    watch, deaf = on.watcher.replicas.watch, []

    def stall() -> None:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            watch._stalled(time.monotonic())
            deaf.append(watch.problem is not None)
            time.sleep(0.01)

    load["load"] = 70.0
    stalls = threading.Thread(target=stall)
    stalls.start()
    found = probes.autoscaler_scaled("web", to_at_least=8, within_s=30)
    stalls.join()
    assert any(deaf) and (found["scaled"], found["to"]) == (True, 9), found


def test_every_answer_is_json_without_nothings(on: Any) -> None:
    for name in ("ready_replicas", "ready_replicas_by_zone", "pending_pods", "pending_pod_count",
                 "endpoints_by_zone", "ready_endpoints", "node_conditions", "nodes_ready",
                 "oom_kills"):  # fmt: skip
        answer = getattr(probes, name)()
        assert answer is not None and json.loads(json.dumps(answer, allow_nan=False)) == answer


def test_an_api_that_is_gone_is_said(on: Any, web: Lab) -> None:
    web.do(web.server.stop())
    for probe in (probes.pending_pods, probes.node_conditions, probes.endpoints_by_zone):
        with pytest.raises(HostUnreachable, match="does not answer"):
            probe()
    with pytest.raises(NoMeasurement, match="the watch over pods hears nothing"):
        until(lambda: math.isnan(probes.ready_replicas()))


def test_another_label_may_say_which_zone_a_node_is_in(web: Lab, core: Any) -> None:
    """Racks in the place of zones; a node without the label is in none, whatever its zone."""
    names = [item.metadata.name for item in core.list_node().items]
    for number, name in enumerate(names[:-1]):
        core.patch_node(name, {"metadata": {"labels": {"rack": f"r{number % 2}"}}})
    listed = tuple(Node(name, f"r{number % 2}", ()) for number, name in enumerate(names[:-1]))
    way = {"kubeconfig": str(web.kubeconfig), "namespace": "shop", "selector": "app=web"}
    inventory, cluster = look_up(Inventory("web", listed, "", "", zone_label="rack", **way))
    assert cluster and cluster.zone_label == "rack"
    rest, timeline = Rest(cluster), Timeline()
    replicas = Replicas(cluster, inventory, timeline)
    try:
        count = {"r0": 3, "r1": 2}
        until(lambda: sum(replicas.watch.ready_by_zone().values()) == 6)
        ready = replicas.watch.ready_by_zone()
        assert {zone: ready[zone] for zone in count} == count and ready["no zone"] == 1
        assert {life.zone for life in replicas.watch.lives()} == {"r0", "r1", "no zone"}
        by_rack = readings.endpoints_by_zone(rest, "web")
        assert {zone: one["ready"] for zone, one in by_rack.items()} == {**count, "no zone": 1}
        assert set(readings.node_conditions(rest, "r1")) == set(names[1:5:2])
        with pytest.raises(InvalidInput, match=r"zone 'az-a': there is r0, r1"):
            readings.node_conditions(rest, "az-a")
    finally:
        replicas.stop()
        rest.close()
        cluster.close()


def test_images_are_told_by_what_they_are(web: Lab, core: Any) -> None:
    """While a new one is rolled out there are two; a pod of its own stays as long as we look."""
    cluster = Cluster(str(web.kubeconfig), "shop")
    try:
        old = re.escape("example.local/web:1") + r" \([0-9a-f]{12}\)"
        assert re.fullmatch(old, images(cluster, "app=web")["web"])
        spec = {"containers": [{"name": "web", "image": "other:2"}]}
        meta = {"name": "canary", "labels": {"app": "web"}}
        core.create_namespaced_pod("shop", {"metadata": meta, "spec": spec})
        both = rf"{old}, other:2 \([0-9a-f]{{12}}\)"
        until(lambda: re.fullmatch(both, images(cluster, "app=web")["web"]))
        core.delete_namespaced_pod("canary", "shop", grace_period_seconds=0)
        until(lambda: re.fullmatch(old, images(cluster, "app=web")["web"]))
        assert images(cluster, "app=nobody") == {}
    finally:
        cluster.close()
