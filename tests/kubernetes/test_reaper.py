"""The reaper as a real process in a pod: it heals when we are silent, and goes when we are done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock import ledger
from aftershock.capacity import Cordon, Tainted
from aftershock.capacity.reaper import NAMESPACE, Reaper
from aftershock.cluster import Cluster, objects, taints
from aftershock.cluster.places import nodes_of
from aftershock.errors import NotApplied
from aftershock.inventory import FromApi, Node
from aftershock.recover import recover

from .conftest import Lab, until

NODES = [Node(name, "az-a", ()) for name in ("node-a-1", "node-a-2")]
NAMES = [node.name for node in NODES]
pytestmark = pytest.mark.usefixtures("state")
TAINT = taints.checked("NoSchedule", "run-1")


@pytest.fixture
def cluster(lab: Lab) -> Iterator[Cluster]:
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster = Cluster(str(lab.kubeconfig), "shop")
    yield cluster
    cluster.close()


def fired(cluster: Cluster, book: ledger.Ledger, reaper: Reaper, lease_s: float = 60) -> list[Any]:
    faults = [
        Cordon(cluster, NODES, book, reaper, lease_s),
        Tainted(cluster, NODES, TAINT, book, reaper, lease_s),
    ]
    for fault in faults:
        fault.arm()
    for fault in faults:
        fault.fire()
        assert fault.observe()["bit"] is True
    return faults


def is_clean(cluster: Cluster) -> bool:
    return not any(cluster.is_cordoned(name) or taints.taints_of(cluster, name) for name in NAMES)


def left(cluster: Cluster) -> list[str]:
    kinds = ("lease", "config_map", "job", "pod")
    found = [(kind, one) for kind in kinds for one in objects.listed(cluster, kind, NAMESPACE)]
    return [f"{kind} {one['metadata']['name']}" for kind, one in found]


def test_it_watches_from_elsewhere_and_goes_with_the_last_change(
    lab: Lab, cluster: Cluster, book: ledger.Ledger
) -> None:
    reaper = Reaper(cluster, book, "example.local/python:3")
    cordon, taint = fired(cluster, book, reaper)
    (pod,) = objects.listed(cluster, "pod", NAMESPACE)
    assert pod["spec"]["nodeName"] not in NAMES and pod["status"]["phase"] == "Running"
    cordon.revert()
    assert left(cluster), "a taint is there yet"
    taint.revert()
    assert is_clean(cluster) and left(cluster) == []
    assert not cordon.healed_early and not taint.healed_early


def test_each_zone_may_be_broken_in_turn(
    lab: Lab, cluster: Cluster, book: ledger.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a zone that is whole again nothing must be avoided, or none is left in the end."""
    monkeypatch.setattr("aftershock.capacity.reaper.READY_S", 15.0)
    reaper = Reaper(cluster, book, "example.local/python:3")
    everything = nodes_of(cluster, FromApi())
    for zone in sorted({node.zone for node in everything}):
        nodes = [node for node in everything if node.zone == zone]
        cordon = Cordon(cluster, nodes, book, reaper)
        cordon.arm()
        cordon.fire()
        (pod,) = objects.listed(cluster, "pod", NAMESPACE)
        assert pod["spec"]["nodeName"] not in [node.name for node in nodes]
        cordon.revert()
        assert left(cluster) == []


def test_why_it_waits_is_told(
    lab: Lab, cluster: Cluster, book: ledger.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aftershock.capacity.reaper.READY_S", 2.0)
    everything = list(nodes_of(cluster, FromApi()))
    reaper = Reaper(cluster, book, "example.local/python:3")
    with pytest.raises(NotApplied, match=r"its pod is Pending: 0/.* nodes are available"):
        Cordon(cluster, everything, book, reaper).arm()
    assert left(cluster) == []


def test_a_lease_that_is_over_is_healed_though_we_live(
    lab: Lab, cluster: Cluster, book: ledger.Ledger
) -> None:
    reaper = Reaper(cluster, book, "example.local/python:3")
    faults = fired(cluster, book, reaper, lease_s=2)
    assert not is_clean(cluster)
    until(lambda: is_clean(cluster))
    until(lambda: not left(cluster))
    for fault in faults:
        fault.revert()
        assert fault.healed_early and fault.to_dict()["healed_early"] is True


DIES = """
import os, sys
sys.path.insert(0, {here!r})
from tests.kubernetes.test_reaper import *
cluster = Cluster({kubeconfig!r}, "shop")
book = ledger.Ledger.open("run-1")
fired(cluster, book, Reaper(cluster, book, "example.local/python:3", grace_s=2))
os.kill(os.getpid(), 9)
"""


def test_a_controller_that_is_killed(lab: Lab, cluster: Cluster) -> None:
    here = str(Path(__file__).parents[2])
    words = DIES.format(here=here, kubeconfig=str(lab.kubeconfig))
    died = subprocess.run([sys.executable, "-c", words], check=False, capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    assert not is_clean(cluster)
    until(lambda: is_clean(cluster))
    until(lambda: not left(cluster))
    found = recover()
    assert found.healed and len(found.lines()) == 3, found.lines()
    told = [line for line in found.lines() if "had been taken off" in line]
    assert len(told) == 2 and all("node-a-1, node-a-2 already" in line for line in told)


def test_recover_is_as_good_when_it_comes_first(
    lab: Lab, cluster: Cluster, book: ledger.Ledger
) -> None:
    reaper = Reaper(cluster, book, "example.local/python:3", grace_s=60)
    fired(cluster, book, reaper)
    begun, *rest = book.path.read_text().splitlines()
    dead = {**json.loads(begun), "controller": {"pid": 999_999, "start": 1, "boot": "then"}}
    book.path.write_text("\n".join([json.dumps(dead), *rest]) + "\n")
    assert recover().healed and is_clean(cluster) and left(cluster) == []


def test_others_taints_and_cordons_are_left_by_the_reaper(
    lab: Lab, cluster: Cluster, book: ledger.Ledger
) -> None:
    lab.kubectl("cordon", NAMES[0])
    lab.kubectl("taint", "node", NAMES[0], "team/disk=:NoSchedule")
    reaper = Reaper(cluster, book, "example.local/python:3")
    faults = fired(cluster, book, reaper, lease_s=2)
    ours = lambda name: TAINT in taints.taints_of(cluster, name)  # noqa: E731
    until(lambda: not any(map(ours, NAMES)) and not left(cluster))
    assert cluster.is_cordoned(NAMES[0]) and not cluster.is_cordoned(NAMES[1])
    assert any(one.key == "team/disk" for one in taints.taints_of(cluster, NAMES[0]))
    for fault in faults:
        fault.revert()
    assert cluster.is_cordoned(NAMES[0])


def test_an_image_without_python_is_told_and_nothing_is_done(
    lab: Lab, cluster: Cluster, book: ledger.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_python(pod: Any) -> Any:
        raise FileNotFoundError("no python3 in it")

    monkeypatch.setattr("aftershock.capacity.reaper.READY_S", 1.0)
    monkeypatch.setattr(lab.runtime, "start", no_python)
    fault = Cordon(cluster, NODES, book, Reaper(cluster, book, "example.local/nothing"))
    with pytest.raises(NotApplied, match=r"reaper-run-1 was not ready .*no python3 in it"):
        fault.arm()
    assert is_clean(cluster) and left(cluster) == []
    fault.revert()


def test_it_moves_when_its_own_node_is_to_be_broken(
    lab: Lab, cluster: Cluster, book: ledger.Ledger
) -> None:
    reaper = Reaper(cluster, book, "example.local/python:3")
    faults = fired(cluster, book, reaper)
    (pod,) = objects.listed(cluster, "pod", NAMESPACE)
    its_own = Cordon(cluster, [Node(pod["spec"]["nodeName"], "az-b", ())], book, reaper)
    its_own.arm()
    (moved,) = objects.listed(cluster, "pod", NAMESPACE)
    assert moved["spec"]["nodeName"] not in [*NAMES, pod["spec"]["nodeName"]]
    for fault in [*faults, its_own]:
        fault.revert()
    assert left(cluster) == []
