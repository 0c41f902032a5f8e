"""A small lab whose nodes are reached through agents' pods, and what is looked at there."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aftershock.cluster import Cluster
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Node
from aftershock.lab.settings import LabSettings
from aftershock.lab.world import Lab
from aftershock.ledger import Ledger
from tests.lab.labs import free_port

from .looks import leftovers, way


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of two zones that these tests share."""
    where = tmp_path_factory.mktemp("state")
    small = {"zones": 2, "nodes_per_zone": 2, "replicas": 2, "server_startup_s": 0.1}
    with Lab.up(LabSettings(gateway_port=free_port(), state_dir=where, **small)) as up:
        yield up


@pytest.fixture
def core(lab: Lab) -> Iterator[Any]:
    from kubernetes import client, config

    settings = client.Configuration()
    config.load_kube_config(lab.kubeconfig, client_configuration=settings)
    with client.ApiClient(settings) as api:
        yield client.CoreV1Api(api)
        api.rest_client.pool_manager.clear()


@pytest.fixture
def far_env(tmp_path: Path, nothing_stays: None) -> dict[str, str]:
    """Where agents in pods keep what is theirs; the test's mark, to be seen if they stay."""
    mark = {"AFTERSHOCK_TEST_MARK": os.environ["AFTERSHOCK_TEST_MARK"]}
    return {"AFTERSHOCK_STATE": str(tmp_path / "far"), "XDG_CACHE_HOME": "/var/cache", **mark}


@pytest.fixture
def node(lab: Lab, far_env: dict[str, str]) -> Node:
    """A node of the lab, reached through a pod in the place of directly."""
    direct = lab.inventory.nodes[0]
    return replace(direct, netns=None, enter_pid=None, env=far_env, agent=way(lab))


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger.open("run-under-test")
    yield made
    made.close()


@pytest.fixture
def fleet(core: Any, ledger: Ledger) -> Iterator[Fleet]:
    made = Fleet(ledger=ledger)
    yield made
    made.close()
    assert leftovers(core) == []


@pytest.fixture
def cluster(lab: Lab) -> Iterator[Cluster]:
    assert lab.kubeconfig
    made = Cluster(lab.kubeconfig, "inference", emulated=True)
    yield made
    made.close()
