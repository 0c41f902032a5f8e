"""A pod's container is killed for memory, by the agent in another pod on its node."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from aftershock.faults.exhaustion import OutOfMemory
from aftershock.faults.processes import Processes
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.lab.settings import LabSettings
from aftershock.lab.world import Lab
from aftershock.ledger import Ledger
from tests.agent.cgroups import require
from tests.kubernetes.conftest import until
from tests.lab.labs import free_port

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One node, with real cgroups."""
    require()
    where = tmp_path_factory.mktemp("state")
    small = {"zones": 1, "nodes_per_zone": 1, "replicas": 1, "server_startup_s": 0.1}
    settings = LabSettings(gateway_port=free_port(), state_dir=where, node_cgroups=True, **small)
    with Lab.up(settings) as up:
        yield up


def test_a_container_is_killed_for_memory_and_restarted(
    node: Node, core: Any, fleet: Fleet, ledger: Ledger
) -> None:
    def status() -> Any:
        (pod,) = core.list_namespaced_pod("inference", label_selector="app=model").items
        return pod.status.container_statuses[0]

    container = until(lambda: status().ready and status().container_id).rpartition("//")[2]
    # As on a node whose agent sees an image's files: the host's are where its PID 1 is.
    there = replace(node, devices=(), env={**node.env, "AFTERSHOCK_HOST_ROOT": "/proc/1/root"})
    fault = OutOfMemory(Processes(container=container))
    injection = Injection(fault, [there], lease_s=60, ledger=ledger, fleet=fleet)
    injection.arm()
    assert status().restart_count == 0, "armed, yet nothing is felt"
    injection.fire()
    assert injection.observe()["bit"] is True, injection.evidence
    until(lambda: status().restart_count == 1 and status().ready)
    last = status().last_state.terminated
    assert (last.reason, last.exit_code) == ("OOMKilled", 137)
    injection.revert()
    assert injection.to_dict()["clean"] and injection.to_dict()["ordered"]
