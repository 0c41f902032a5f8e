"""A node without power, seen by its lease long before its Ready condition tells."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aftershock.cluster import Cluster
from aftershock.cluster.places import nodes_of
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import FromApi, Inventory, Limits
from aftershock.lab.kubernetes import Timing
from aftershock.ledger import Ledger
from aftershock.run import power, processes
from aftershock.run.settings import Settings
from tests.bare import bare_run

from .conftest import Lab, SleepRuntime, until


class Powered(SleepRuntime):
    """Nodes that are off while a file has their name."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.api_is_deaf = False

    def listens(self, node: str) -> bool:
        return not self.api_is_deaf and not (self.folder / f"off-{node}").exists()


class Grid(Lab):
    """Leases are renewed thrice a second, and a node that is silent is Ready for a minute."""

    timing = Timing(lease_renewal_s=0.3, node_grace_s=60)


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Grid]:
    made = Grid(tmp_path, Powered(tmp_path))
    yield made
    made.down()


@pytest.fixture
def run(grid: Grid, book: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(processes, "_LATE_S", 2.0)
    cluster, fleet = Cluster(str(grid.kubeconfig), "default"), Fleet()
    nodes = nodes_of(cluster, FromApi())  # agentless: nobody can look from beside them
    there = Inventory("t", nodes, "http://x", "m", limits=Limits())
    target = SimpleNamespace(inventory=there, agents=fleet, cluster=cluster)
    made = bare_run(target, book, Settings(zone="all"), tmp_path)
    yield made
    made.breaking.heal_everything()
    made.timeline.close()
    fleet.close()
    cluster.close()


def off(run: Any, where: str, folder: Path) -> dict[str, Any]:
    words = {"off": f"touch {folder}/off-{{node}}", "on": f"rm -f {folder}/off-{{node}}"}
    told = power.power_off_nodes(run, where, **words, check="", timeout_s=20, lease_s=60)
    return dict(told["injections"][0])


def test_the_lease_tells_before_the_node_s_condition(
    grid: Grid, run: Any, core: Any, tmp_path: Path
) -> None:
    until(lambda: run.target.cluster.renewed("node-a-1"))
    told = off(run, "node-a-1", tmp_path)
    assert told["bit"], told["evidence"]
    (silent,) = [one for one in told["evidence"]["pieces"] if one["name"] == "silent"]
    assert silent["host"] == "node-a-1" and "its lease was not renewed for" in silent["seen"]
    ready = {c.type: c.status for c in core.read_node("node-a-1").status.conditions}
    assert ready["Ready"] == "True", "the condition is not what told"
    run.breaking.heal("node-a-1", kinds=(power.KIND,))
    seen = run.target.cluster.renewed("node-a-1")
    until(lambda: run.target.cluster.renewed("node-a-1") != seen)


def test_an_api_that_hears_nobody_proves_nothing(
    grid: Grid, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power, "_SILENT_S", 3.0)
    until(lambda: run.target.cluster.renewed("node-a-1"))
    grid.runtime.api_is_deaf = True
    told = off(run, "node-a-1", tmp_path)
    assert not told["bit"] and "and nobody else's" in str(told["evidence"])


@pytest.fixture
def lab(grid: Grid) -> Grid:
    """Whose API `core` asks."""
    return grid
