"""The watch over pods: it hears what happens at once, and says what it could not hear."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock.cluster import Cluster
from aftershock.cluster.watch import LATE, LOST, Count, PodWatch
from aftershock.errors import HostUnreachable
from aftershock.inventory import Inventory, Node
from aftershock.run.replicas import Replicas
from aftershock.slo.capacity import capacity
from aftershock.slo.timeline import Timeline
from aftershock.slo.verdict import RunFacts, decide

from .conftest import Lab, ready_pods, until
from .relay import Relay

SELECTOR = "app=web"


class Heard:
    """A watch through a relay, and what it told."""

    def __init__(self, kubeconfig: Path, namespace: str, selector: str = SELECTOR) -> None:
        self.cluster = Cluster(str(kubeconfig), namespace)
        self.counts: list[Count] = []
        zones = self.cluster.zone_of_nodes()
        self.watch = PodWatch(
            self.cluster,
            selector,
            zones=set(zones.values()),
            zone_of=lambda node: zones.get(node, ""),
            heard=self.counts.append,
        )

    def total(self) -> int:
        return sum(self.counts[-1].ready.values())

    def told(self) -> list[int]:
        return [sum(count.ready.values()) for count in self.counts]

    def close(self) -> None:
        self.watch.stop()
        self.cluster.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are renewed more often, so that what a renewal tells is told sooner."""
    monkeypatch.setattr("aftershock.cluster.watch.RENEW_S", 1)
    monkeypatch.setattr("aftershock.cluster.watch.SLACK_S", 0.3)
    monkeypatch.setattr("aftershock.cluster.watch.TIMEOUT_S", 0.5)


@pytest.fixture
def relay(web: Lab, tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(web.kubeconfig, tmp_path)
    yield relay
    relay.close()


@pytest.fixture
def heard(relay: Relay) -> Iterator[Heard]:
    heard = Heard(relay.kubeconfig, "shop")
    heard.watch.start()
    yield heard
    heard.close()


def kill(core: Any, name: str) -> None:
    core.delete_namespaced_pod(name, "shop", grace_period_seconds=0)


def names(core: Any) -> list[str]:
    return sorted(p.metadata.name for p in core.list_namespaced_pod("shop").items)


def independent_watch(core: Any, until_ready: int, found: list[float]) -> None:
    """A second watch, by the `kubernetes` client's own means: when so many were ready again."""
    from kubernetes import watch

    ready: dict[str, bool] = {}
    dropped = False
    for event in watch.Watch().stream(
        core.list_namespaced_pod, "shop", label_selector=SELECTOR, timeout_seconds=15
    ):
        pod, now = event["object"], time.monotonic()
        ready[pod.metadata.uid] = (
            event["type"] != "DELETED"
            and pod.metadata.deletion_timestamp is None
            and any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ())
        )
        count = sum(ready.values())
        dropped = dropped or (bool(found) and count < until_ready)
        if count == until_ready and not found:
            found.append(now)  # it knows them all
        elif dropped and count >= until_ready:
            found.append(now)
            return


def followed(kubeconfig: Path, timeline: Timeline) -> tuple[Cluster, Replicas]:
    """The replicas as a run follows them."""
    cluster = Cluster(str(kubeconfig), "shop")
    inventory = Inventory(
        target="web",
        nodes=tuple(Node(name, zone, ()) for name, zone in cluster.zone_of_nodes().items()),
        gateway_url="",
        model="",
        kubeconfig=cluster.kubeconfig,
        namespace="shop",
        selector=SELECTOR,
    )
    replicas = Replicas(cluster, inventory, timeline)
    until(lambda: sum(replicas.watch.ready_by_zone().values()) == 6)
    return cluster, replicas


def test_the_capacity_rto_is_what_a_second_watch_saw(web: Lab, core: Any) -> None:
    timeline, found = Timeline(), []
    cluster, replicas = followed(web.kubeconfig, timeline)
    second = threading.Thread(target=independent_watch, args=(core, 6, found), daemon=True)
    second.start()
    until(lambda: found)  # before
    t_effect = time.monotonic()
    kill(core, names(core)[0])
    second.join(15)  # until it saw one fewer, and then as many as before
    replicas.stop()
    cluster.close()
    measured = capacity(timeline, t_effect, None, time.monotonic())
    assert measured.rto_s == pytest.approx(found[1] - t_effect, abs=0.2)
    assert measured.gaps == ()
    (row,) = replicas.replacements(t_effect)
    stages = [row[f"{name}_s"] for name in ("deleted", "scheduled", "started", "ready")]
    assert stages == sorted(stages)
    assert row["ready_s"] == pytest.approx(found[1] - t_effect, abs=0.2)


@pytest.mark.parametrize("forgotten", [True, False])
def test_what_came_back_in_a_gap_is_no_pass(
    web: Lab, relay: Relay, core: Any, forgotten: bool
) -> None:
    timeline = Timeline()
    cluster, replicas = followed(relay.kubeconfig, timeline)
    t_effect = time.monotonic()
    before = names(core)
    kill(core, before[0])
    until(lambda: any(row["deleted_s"] for row in replicas.replacements(t_effect)))
    time.sleep(0.1)
    relay.cut()
    kill(core, before[1])
    until(lambda: len(ready_pods(core)) == 6)
    objective = time.monotonic() - t_effect
    if forgotten:
        web.do(forget(web))
    time.sleep(0.3)
    relay.mend()
    until(lambda: sum(replicas.watch.ready_by_zone().values()) == 6 and not replicas.watch.problem)
    replicas.stop()
    cluster.close()
    found = capacity(timeline, t_effect, None, time.monotonic())
    told = decide(RunFacts(15, 1000, capacity=found, capacity_objective_s=objective))
    codes = {reason.code for reason in told.reasons if "capacity" in reason.code}
    if forgotten:  # nobody knows whether there was anything to come back
        assert "capacity_gap" in codes
    else:
        assert codes == {"capacity_straddles"} and found.error_s and found.error_s > 0.1
        late = [row["late"] for row in replicas.replacements(t_effect) if row["late"]]
        assert late and "ready" in late[0]


def test_a_broken_stream_goes_on_where_it_was(heard: Heard, relay: Relay, core: Any) -> None:
    before = names(core)
    relay.cut()
    cut_at = time.monotonic()
    kill(core, before[0])
    until(lambda: len(set(names(core)) - set(before)) == 1)
    time.sleep(0.5)
    assert heard.total() == 6, "nothing can be heard"
    (open_gap,) = heard.watch.gaps()
    assert open_gap.kind == LOST, "for all that is known it may stay so"
    mended_at = time.monotonic()
    relay.mend()
    until(lambda: 5 in heard.told())  # the death is heard, late
    until(lambda: heard.total() == 6 and not heard.watch.problem)
    (gap,) = heard.watch.gaps()
    assert gap.kind == LATE
    assert gap.start <= cut_at < mended_at < gap.end
    assert {life.name for life in heard.watch.lives()} >= {*before, *names(core)}
    kill(core, names(core)[0])
    until(lambda: heard.told().count(5) == 2)
    assert len(heard.watch.gaps()) == 1


def test_a_history_that_is_gone_leaves_a_gap(
    heard: Heard, relay: Relay, web: Lab, core: Any
) -> None:
    before = names(core)
    relay.cut()
    cut_at = time.monotonic()
    kill(core, before[0])
    until(lambda: len(set(names(core)) - set(before)) == 1)
    web.do(forget(web))
    mended_at = time.monotonic()
    relay.mend()
    until(lambda: [g for g in heard.watch.gaps() if g.end > mended_at and not heard.watch.problem])
    (gap,) = heard.watch.gaps()
    assert gap.kind == LOST and "410" in gap.why
    assert gap.start <= cut_at < mended_at < gap.end
    assert {life.name for life in heard.watch.lives() if not life.gone} == set(names(core))
    until(lambda: heard.total() == 6)


async def forget(web: Lab) -> None:
    web.cluster.store.compact()


def test_a_stream_that_went_silent_is_noticed(heard: Heard, relay: Relay, core: Any) -> None:
    relay.silence()
    silent_at = time.monotonic()
    kill(core, names(core)[0])
    until(lambda: heard.watch.problem)
    relay.mend()
    until(lambda: heard.watch.gaps()[-1].kind == LATE and not heard.watch.problem)
    gap = heard.watch.gaps()[-1]
    assert gap.start <= silent_at + 0.1 < gap.end
    assert 5 in heard.told()


def test_a_stall_that_tcp_survives_is_noticed(
    relay: Relay, core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aftershock.cluster.watch.RENEW_S", 20)
    heard = Heard(relay.kubeconfig, "shop")
    heard.watch.start()
    relay.hold_back()
    held_at = time.monotonic()
    kill(core, names(core)[0])
    time.sleep(2.0)
    assert heard.watch.gaps() == [], "the stream stands"
    released_at = time.monotonic()
    relay.release()
    until(lambda: 5 in heard.told() and heard.total() == 6)
    until(lambda: [gap for gap in heard.watch.gaps() if gap.kind == LATE])
    heard.close()
    (gap,) = heard.watch.gaps()
    assert gap.kind == LATE and gap.start <= held_at < released_at < gap.end
    late = next(count.at for count in heard.counts if sum(count.ready.values()) == 5)
    assert gap.start < late <= gap.end, "what was told late lies in it"


def test_an_end_while_the_api_is_cut_leaves_the_gap_open(heard: Heard, relay: Relay) -> None:
    relay.cut()
    until(lambda: heard.watch.problem)
    heard.watch.stop()
    (gap,) = heard.watch.gaps()
    assert gap.kind == LOST


def test_a_quiet_end_has_no_gap(heard: Heard) -> None:
    heard.watch.stop()
    assert heard.watch.gaps() == []
    assert not any(thread.name.startswith("watch-") for thread in threading.enumerate())


def test_no_api_is_a_sentence(relay: Relay) -> None:
    heard = Heard(relay.kubeconfig, "shop")
    relay.cut()
    with pytest.raises(HostUnreachable, match=r"does not answer list_namespaced_pod"):
        heard.watch.start(within_s=0.5)
    heard.close()


def test_five_thousand_pods_fit_in_little_memory(lab: Lab, tmp_path: Path) -> None:
    """Beside what the client itself takes: it lists them, and hears hundreds of changes."""
    lab.do(crowd(lab, 5000))
    script = textwrap.dedent(
        """
        import json, sys, time
        from pathlib import Path
        from aftershock.cluster import Cluster
        from aftershock.cluster.rest import Rest
        from aftershock.cluster.watch import PodWatch

        def peak():
            (line,) = [x for x in Path("/proc/self/status").open() if x.startswith("VmHWM")]
            return int(line.split()[1]) / 1024

        cluster = Cluster(sys.argv[1], "crowd")
        rest = Rest(cluster)
        list(rest.items(rest.core.list_namespaced_pod, "shop"))
        rest.close()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before, began = peak(), time.monotonic()
        watch = PodWatch(cluster, "app=crowd", zones=["az-a"])
        watch.start(60)
        listed = time.monotonic() - began
        print(json.dumps({"listed": len(watch.lives())}), flush=True)
        end = time.monotonic() + 30
        while sum(life.serves for life in watch.lives()) < 300 and time.monotonic() < end:
            time.sleep(0.05)
        serve = sum(life.serves for life in watch.lives())
        watch.stop()
        print(json.dumps({"serve": serve, "mib": peak() - before, "listed_s": listed}))
        """
    )
    command = [sys.executable, "-c", script, str(lab.kubeconfig)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["listed"] == 5000
        lab.do(make_ready(lab, 300))
        told = json.loads(process.stdout.readline())
    print(told)
    assert told["serve"] == 300
    assert told["mib"] < 40, f"the objects themselves take {5000 * 7 / 1024:.0f} MiB as JSON"


async def crowd(lab: Lab, number: int) -> None:
    """Pods the size of real ones, straight into the store: nobody is to run them."""
    from aftershock.lab.kubernetes.resources import PODS

    await lab.cluster._controllers.stop()
    lab.cluster.store._listeners.clear()
    filler = {"example.com/filler": "x" * 6000}
    for n in range(number):
        meta = {"name": f"crowd-{n}", "namespace": "crowd", "labels": {"app": "crowd"}}
        pod = {
            "metadata": meta | {"annotations": filler},
            "spec": {"nodeName": "node-a-1", "containers": [{"name": "c", "image": "x"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]},
        }
        pod["metadata"]["labels"]["topology.kubernetes.io/zone"] = "az-a"
        lab.cluster.store.create(PODS, pod)


async def make_ready(lab: Lab, number: int) -> None:
    from aftershock.lab.kubernetes.resources import PODS

    for n in range(number):
        pod = lab.cluster.store.get(PODS, "crowd", f"crowd-{n}")
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        lab.cluster.store.update(PODS, {**pod, "status": status})
