"""A node whose kubelet is frozen: the way to its agent leads through it, so its lease heals it."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from aftershock.cluster import Cluster
from aftershock.faults.freeze import Freeze
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.lab.world import Lab
from aftershock.ledger import Ledger
from aftershock.run import processes
from aftershock.run.processes import Leases
from aftershock.stillness import Stillness
from tests.kubernetes.conftest import until

pytestmark = pytest.mark.root


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A lease counts as late at once: to wait for it takes a quarter of a minute."""
    with monkeypatch.context() as patched:
        patched.setattr(processes, "_LATE_S", 0.0)
        yield


def test_a_silent_node_is_seen_and_heals_by_its_lease(
    lab: Lab,
    node: Node,
    cluster: Cluster,
    core: Any,
    fleet: Fleet,
    ledger: Ledger,
    quick: None,
) -> None:
    leases = Leases(cluster, [node])
    fault = Freeze(named=("kubelet",), takes_channel=True)
    injection = Injection(
        fault,
        [node],
        lease_s=10.0,  # what follows takes four, on a quiet machine
        grace_s=1.0,
        deadline_only=True,
        ledger=ledger,
        fleet=fleet,
        onlooker=lambda nodes: Stillness(fault, nodes, leases.pieces),
    )
    injection.arm()
    pods = core.list_namespaced_pod("inference").items
    mine = next(one.metadata.name for one in pods if one.spec.node_name == "node-a-1")
    injection.fire()
    assert injection.observe()["bit"] is True
    assert "can't be" not in str(injection.evidence)
    time.sleep(2.5)
    core.delete_namespaced_pod(mine, "inference", grace_period_seconds=1)
    time.sleep(1.3)
    assert core.read_namespaced_pod(mine, "inference").metadata.deletion_timestamp, "nobody ends it"
    injection.revert()
    told = injection.to_dict()
    assert told["clean"] is True and told["per_host"]["node-a-1"]["ended_by"] == "deadline"
    assert told["healed_early"] is False, "the order came before, though nobody there heard it"
    until(
        lambda: mine not in {x.metadata.name for x in core.list_namespaced_pod("inference").items}
    )
