"""The API through the `kubernetes` client."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from .conftest import Lab, deployment, ready_pods, until


def test_replicas_are_spread_over_zones_and_nodes(web: Lab, core: Any) -> None:
    pods = ready_pods(core)
    nodes = {node.metadata.name: node for node in core.list_node().items}
    zone = "topology.kubernetes.io/zone"
    assert Counter(nodes[p.spec.node_name].metadata.labels[zone] for p in pods) == {
        "az-a": 2,
        "az-b": 2,
        "az-c": 2,
    }
    assert len({p.spec.node_name for p in pods}) == 6
    assert stat.S_IMODE(web.kubeconfig.stat().st_mode) == 0o600
    assert {p.status.pod_ip for p in pods} == set(
        _addresses(core.read_namespaced_endpoints("web", "shop"))
    )


def test_clients_write_no_certificate_into_a_file_of_their_own(core: Any) -> None:
    ours = core.api_client.configuration.ssl_ca_cert
    assert Path(ours).name == "kubeconfig-ca.pem" and "BEGIN CERTIFICATE" in Path(ours).read_text()


def _addresses(endpoints: Any) -> list[str]:
    return [a.ip for subset in endpoints.subsets or () for a in subset.addresses or ()]


def test_a_pod_killed_at_once_is_gone_and_replaced(web: Lab, core: Any) -> None:
    victim = ready_pods(core)[0]
    pid = web.runtime.processes[victim.metadata.uid].pid
    events = _watched(core, "app=web", 0.6)
    gone = core.delete_namespaced_pod(victim.metadata.name, "shop", grace_period_seconds=0)
    assert gone.metadata.deletion_grace_period_seconds == 0
    with pytest.raises(ApiException) as missing:
        core.read_namespaced_pod(victim.metadata.name, "shop")
    assert missing.value.status == 404
    seen = events()
    own = [kind for kind, name, *_ in seen if name == victim.metadata.name]
    assert own == ["MODIFIED", "DELETED"]
    fresh = [event for event in seen if event[0] == "ADDED"]
    deleted = next(event for event in seen if event[0] == "DELETED")
    assert len(fresh) == 1 and fresh[0][2] - deleted[2] < 0.2
    until(lambda: not _alive(pid))
    until(lambda: len(ready_pods(core)) == 6)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _watched(core: Any, selector: str, for_s: float) -> Any:
    """Watch pods from now on in the background; calling the result gives what was seen."""
    version = core.list_namespaced_pod("shop").metadata.resource_version
    seen: list[tuple[str, str, float, Any]] = []

    def follow() -> None:
        stream = watch.Watch().stream(
            core.list_namespaced_pod,
            "shop",
            label_selector=selector,
            resource_version=version,
            timeout_seconds=max(1, round(for_s)),
        )
        for event in stream:
            seen.append(
                (
                    event["type"],
                    event["object"].metadata.name,
                    time.monotonic(),
                    event["object"],
                )
            )

    thread = threading.Thread(target=follow)
    thread.start()

    def result() -> list[tuple[str, str, float, Any]]:
        thread.join()
        return seen

    return result


def test_a_graceful_end_is_told_step_by_step(lab: Lab, core: Any) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]
    pod = deployment()["spec"]["template"]
    pod["spec"]["containers"][0]["command"] = stubborn
    lab.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "solo", "namespace": "shop", "labels": {"app": "solo"}},
            "spec": pod["spec"],
        }
    )
    until(lambda: ready_pods(core, "app=solo"))
    time.sleep(0.2)
    events = _watched(core, "app=solo", 3)
    core.delete_namespaced_pod("solo", "shop", grace_period_seconds=30)
    assert core.read_namespaced_pod("solo", "shop").metadata.deletion_grace_period_seconds == 30
    core.delete_namespaced_pod("solo", "shop", grace_period_seconds=60)
    assert core.read_namespaced_pod("solo", "shop").metadata.deletion_grace_period_seconds == 30
    began = time.monotonic()
    core.delete_namespaced_pod("solo", "shop", grace_period_seconds=1)
    steps = events()
    assert [kind for kind, *_ in steps][-2:] == ["MODIFIED", "DELETED"]
    assert steps[-2][3].metadata.deletion_grace_period_seconds == 0
    assert 0.7 < steps[-1][2] - began < 15, "a second, and not thirty"
    assert steps[-1][3].status.phase == "Failed"
    assert steps[-1][3].status.container_statuses[0].state.terminated.exit_code == 137


def test_endpoints_drop_a_dying_pod_while_slices_keep_it(web: Lab, core: Any) -> None:
    victim = ready_pods(core)[0]
    os.kill(web.runtime.processes[victim.metadata.uid].pid, signal.SIGSTOP)
    core.delete_namespaced_pod(victim.metadata.name, "shop", grace_period_seconds=5)
    until(
        lambda: (
            victim.status.pod_ip not in _addresses(core.read_namespaced_endpoints("web", "shop"))
        )
    )
    slices = client.DiscoveryV1Api(core.api_client).list_namespaced_endpoint_slice("shop").items
    entry = next(e for e in slices[0].endpoints if e.target_ref.name == victim.metadata.name)
    assert (entry.conditions.ready, entry.conditions.serving, entry.conditions.terminating) == (
        False,
        True,
        True,
    )
    core.delete_namespaced_pod(victim.metadata.name, "shop", grace_period_seconds=0)


def test_cordon_keeps_replacements_away_and_uncordon_lets_them_in(web: Lab, core: Any) -> None:
    lost = [n.metadata.name for n in core.list_node().items if n.metadata.name[5] == "a"]
    for name in lost:
        core.patch_node(name, {"spec": {"unschedulable": True}})
    for name in [n.metadata.name for n in core.list_node().items]:
        _set_gpus(core, name, 1)
    for pod in ready_pods(core):
        if pod.spec.node_name in lost:
            core.delete_namespaced_pod(pod.metadata.name, "shop", grace_period_seconds=0)
    waiting = until(
        lambda: [
            p
            for p in core.list_namespaced_pod("shop", field_selector="status.phase=Pending").items
            if p.status.conditions and p.status.conditions[0].reason == "Unschedulable"
        ]
    )
    told = waiting[0].status.conditions[0].message
    assert told.startswith(
        "0/6 nodes are available: 2 node(s) were unschedulable, 4 Insufficient nvidia.com/gpu."
    )
    for name in lost:
        core.patch_node(name, {"spec": {"unschedulable": None}})
    until(lambda: len(ready_pods(core)) == 6)
    assert Counter(p.spec.node_name for p in ready_pods(core)) == Counter(
        n.metadata.name for n in core.list_node().items
    )


def _set_gpus(core: Any, name: str, count: int) -> None:
    core.patch_node_status(name, {"status": {"allocatable": {"nvidia.com/gpu": str(count)}}})


def test_a_crashing_pod_is_restarted_with_back_off(lab: Lab, core: Any) -> None:
    crash = deployment("crash", 1)
    crash["spec"]["template"]["spec"]["containers"][0]["command"] = ["sh", "-c", "exit 3"]
    lab.apply(crash)

    def state() -> Any:
        pods = core.list_namespaced_pod("shop", label_selector="app=crash").items
        status = pods[0].status.container_statuses if pods else None
        if status and status[0].restart_count >= 2 and status[0].state.waiting:
            return status[0]
        return None

    seen = until(state)
    assert seen.state.waiting.reason == "CrashLoopBackOff"
    assert seen.last_state.terminated.exit_code == 3


def test_a_killed_process_comes_back_in_the_same_pod(web: Lab, core: Any) -> None:
    pod = ready_pods(core)[0]
    os.kill(web.runtime.processes[pod.metadata.uid].pid, signal.SIGKILL)

    def restarted() -> Any:
        status = core.read_namespaced_pod(pod.metadata.name, "shop").status.container_statuses[0]
        return status if status.restart_count == 1 and status.ready else None

    assert until(restarted).last_state.terminated.exit_code == 137


def test_a_budget_refuses_evictions_without_retry_after(web: Lab, core: Any) -> None:
    web.apply(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"minAvailable": 5, "selector": {"matchLabels": {"app": "web"}}},
        }
    )
    policy = client.PolicyV1Api(core.api_client)
    until(
        lambda: (
            policy.read_namespaced_pod_disruption_budget("web", "shop").status.disruptions_allowed
            == 1
        )
    )
    # A replacement that became Ready would give the budget back.
    for node in core.list_node().items:
        core.patch_node(node.metadata.name, {"spec": {"unschedulable": True}})
    first, second = ready_pods(core)[:2]
    os.kill(web.runtime.processes[first.metadata.uid].pid, signal.SIGSTOP)
    _evict(core, first.metadata.name)
    with pytest.raises(ApiException) as refused:
        _evict(core, second.metadata.name)
    assert refused.value.status == 429
    assert "Retry-After" not in refused.value.headers
    core.delete_namespaced_pod(first.metadata.name, "shop", grace_period_seconds=0)


def _evict(core: Any, name: str) -> None:
    body = client.V1Eviction(metadata=client.V1ObjectMeta(name=name, namespace="shop"))
    core.create_namespaced_pod_eviction(name, "shop", body)


def test_a_noexecute_taint_drives_pods_away(web: Lab, core: Any) -> None:
    name = ready_pods(core)[0].spec.node_name
    taint = {"key": "lab/out", "effect": "NoExecute"}
    core.patch_node(name, {"spec": {"taints": [taint]}})
    until(lambda: not any(p.spec.node_name == name for p in ready_pods(core)))
    until(lambda: len(ready_pods(core)) == 6)


def test_refusals(web: Lab, core: Any, apps: Any) -> None:
    pod = core.list_namespaced_pod("shop").items[0]
    stale = pod.metadata.resource_version
    core.patch_namespaced_pod(pod.metadata.name, "shop", {"metadata": {"labels": {"x": "y"}}})
    wrong = {"metadata": {"resourceVersion": stale, "labels": {"x": "z"}}}
    for code, attempt in (
        (409, lambda: core.patch_namespaced_pod(pod.metadata.name, "shop", wrong)),
        (422, lambda: core.create_namespaced_pod("shop", {"metadata": {"name": "Bad_Name"}})),
        (404, lambda: core.create_namespaced_pod("nosuch", {"metadata": {"name": "x"}})),
        (400, lambda: core.list_namespaced_pod("shop", field_selector="spec.foo=bar")),
        (422, lambda: apps.patch_namespaced_deployment_scale("web", "shop", _replicas(-1))),
    ):
        with pytest.raises(ApiException) as refused:
            attempt()
        assert refused.value.status == code, refused.value


def _replicas(count: int) -> dict[str, Any]:
    return {"spec": {"replicas": count}}


def test_scaling_and_dry_runs(web: Lab, core: Any, apps: Any) -> None:
    apps.patch_namespaced_deployment_scale("web", "shop", _replicas(3), dry_run="All")
    assert apps.read_namespaced_deployment("web", "shop").spec.replicas == 6
    apps.patch_namespaced_deployment_scale("web", "shop", _replicas(3))
    until(lambda: len(core.list_namespaced_pod("shop", label_selector="app=web").items) == 3)
    core.delete_collection_namespaced_pod("shop", label_selector="app=web", grace_period_seconds=0)
    until(lambda: len(ready_pods(core)) == 3)
    apps.delete_namespaced_deployment("web", "shop")
    until(lambda: not core.list_namespaced_pod("shop").items)


def test_pages(web: Lab, core: Any) -> None:
    first = core.list_namespaced_pod("shop", limit=4)
    assert len(first.items) == 4 and first.metadata.remaining_item_count == 2
    rest = core.list_namespaced_pod("shop", limit=4, _continue=first.metadata._continue)
    assert len(rest.items) == 2 and rest.metadata._continue is None


def test_an_answer_at_the_last_moment_does_not_keep_a_worker_alive(web: Lab, core: Any) -> None:
    """A probe that is answered in the very turn of the loop in which everything is to stop."""

    async def stop_as_probes_answer() -> None:
        asking: list[asyncio.Future[bool]] = []
        loop = asyncio.get_running_loop()

        async def ask(uid: str) -> bool:
            asking.append(loop.create_future())
            return await asking[-1]

        web.runtime.is_ready = ask  # type: ignore[method-assign]
        while len(asking) < 6:
            await asyncio.sleep(0.01)
        await web.cluster._controllers.stop()
        for answer in asking:
            if not answer.done():
                answer.set_result(True)
        async with asyncio.timeout(5):
            await web.cluster._kubelets.stop()

    web.do(stop_as_probes_answer())
