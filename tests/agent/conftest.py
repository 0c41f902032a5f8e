"""Namespaces to break, agents on them, and injections that end with the test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from held import HERE
from wires import Inject, World, cut_off, world

from aftershock.faults.base import Fault
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger


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
def inject(wires: World, fleet: Fleet, ledger: Ledger) -> Iterator[Inject]:
    """Arm and fire a partition of `nodes`; whatever happens, it is reverted."""
    made: list[Injection] = []

    def make(nodes: str = "a", fire: bool = True, **options: Any) -> Injection:
        fault = {key: options.pop(key) for key in ("hook", "direction", "peers") if key in options}
        injection = Injection(
            cut_off(wires, nodes, options.pop("spare", "ab"), **fault),
            [wires[name] for name in nodes],
            lease_s=options.pop("lease_s", 30),
            ledger=ledger,
            fleet=fleet,
            **options,
        )
        made.append(injection)
        injection.arm()
        if fire:
            injection.fire()
        return injection

    yield make
    for injection in made:
        injection.revert()


@pytest.fixture
def make(fleet: Fleet, ledger: Ledger) -> Iterator[Any]:
    """Arm and fire a fault of a host itself, this one by default; it is reverted, come what may."""
    made: list[Injection] = []

    def one(fault: Fault, fire: bool = True, node: Node = HERE, lease_s: float = 60) -> Injection:
        injection = Injection(fault, [node], lease_s=lease_s, ledger=ledger, fleet=fleet)
        injection.arm()
        made.append(injection)
        if fire:
            injection.fire()
        return injection

    yield one
    for injection in made:
        injection.revert()


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One agent for all tests of a module that don't kill it."""
    made = Fleet()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AFTERSHOCK_STATE", str(tmp_path_factory.mktemp("agents")))
        made.fresh(HERE)
    yield made
    made.close()


@pytest.fixture
def agent(agents: Fleet) -> AgentChannel:
    """The agent of the module."""
    return agents.fresh(HERE)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where this test's agents keep their records."""
    return tmp_path / "state"
