"""Hosts behind a real sshd: network namespaces of this machine, entered on its far side."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Node
from aftershock.ledger import Ledger
from tests.agent.wires import World, world

from .sshds import MARK, Sshd, sshd

Far = Callable[..., Node]


@pytest.fixture
def wires() -> Iterator[World]:
    """Two nodes of a zone and one outside."""
    with world() as made:
        yield made


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Agents, ended after the test."""
    made = Fleet()
    yield made
    made.close()


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A run's book."""
    made = Ledger.open("run-under-test")
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    """One on loopback."""
    with sshd(tmp_path / "sshd") as made:
        yield made


@pytest.fixture
def far_env(tmp_path: Path, nothing_stays: None) -> dict[str, str]:
    """Where agents on the far side keep what is theirs."""
    folder = tmp_path / "far"
    return {
        "AFTERSHOCK_STATE": str(folder / "state"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        MARK: os.environ[MARK],  # sudo drops what sshd sets
    }


@pytest.fixture
def far(server: Sshd, far_env: dict[str, str]) -> Far:
    """A host behind the server; keywords of `Node` and, as `ssh`, of the way in."""

    def make(name: str = "far", **more: object) -> Node:
        ways: dict[str, object] = dict(more.pop("ssh", {}))  # type: ignore[call-overload]
        given: dict[str, object] = {"zone": "in", "addresses": ("127.0.0.1",), "env": far_env}
        return Node(name, **{**given, **more}, ssh=server.way(**ways))  # type: ignore[arg-type]

    return make


@pytest.fixture
def hosts(wires: World, server: Sshd, far_env: dict[str, str]) -> World:
    """The wires' nodes, each reached by SSH."""
    nodes = {
        name: replace(node, env=far_env, ssh=server.way()) for name, node in wires.nodes.items()
    }
    return World(wires.prefix, nodes)
