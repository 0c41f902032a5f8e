"""A node that joins a lost zone is cut off, too, under the same lease."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aftershock import ledger as ledgers
from aftershock.cluster import Cluster
from aftershock.cluster.places import nodes_of
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import FromApi, Inventory, Node
from aftershock.lab.world import Lab
from aftershock.ledger import Ledger
from aftershock.run.settings import Settings
from tests.bare import bare_run
from tests.kubernetes.conftest import until

from .looks import IMAGE, leftovers, reaches, way

pytestmark = pytest.mark.root
LATE = "node-a-2"


@pytest.fixture
def join(core: Any) -> Iterator[Callable[[], None]]:
    """A node of the lab that its API does not know before it joins."""
    found = core.read_node(LATE)
    core.delete_node(LATE)
    body = core.api_client.sanitize_for_serialization(found)
    body["metadata"] = {key: body["metadata"][key] for key in ("name", "labels", "annotations")}
    body["spec"] = {}
    joined: list[Any] = []
    yield lambda: joined.append(core.create_node(body))
    if not joined:
        core.create_node(body)


@pytest.fixture
def victim(core: Any) -> str:
    """A pod in the zone, which dies with it; how it is chosen."""
    container = {"name": "main", "image": IMAGE, "command": ["sleep", "1000"]}
    spec = {"nodeName": "node-a-1", "containers": [container], "terminationGracePeriodSeconds": 0}
    meta = {"name": "victim", "labels": {"app": "victim"}}
    core.create_namespaced_pod("inference", {"metadata": meta, "spec": spec})
    until(lambda: core.read_namespaced_pod("victim", "inference").status.phase == "Running")
    return "app=victim"


@pytest.fixture
def run(
    lab: Lab, cluster: Cluster, fleet: Fleet, ledger: Ledger, tmp_path: Path
) -> Iterator[Callable[[Inventory], Any]]:
    made: list[Any] = []

    def begin(inventory: Inventory) -> Any:
        target = SimpleNamespace(inventory=inventory, agents=fleet, cluster=cluster)
        made.append(bare_run(target, ledger, Settings(zone="az-a"), tmp_path))
        return made[0]

    yield begin
    for one in made:
        one.breaking.heal_everything()
        one.timeline.close()


def known_by_its_api(lab: Lab, cluster: Cluster, env: dict[str, str]) -> Inventory:
    nodes = nodes_of(cluster, FromApi(agent=way(lab)))
    return replace(lab.inventory, nodes=tuple(replace(node, env=env) for node in nodes))


def told(run: Any) -> dict[str, dict[str, Any]]:
    return {one.to_dict()["fault"]: one.to_dict() for one in run.breaking.made}


def test_it_is_cut_off_and_closed_until_the_heal(
    lab: Lab,
    core: Any,
    cluster: Cluster,
    fleet: Fleet,
    run: Callable[[Inventory], Any],
    join: Callable[[], None],
    victim: str,
    far_env: dict[str, str],
) -> None:
    inventory = known_by_its_api(lab, cluster, far_env)
    assert [node.name for node in inventory.in_zone("az-a")] == ["node-a-1"]
    late = next(node for node in lab.inventory.nodes if node.name == LATE)
    beside = next(node for node in lab.inventory.nodes if node.name == "node-b-2")
    losing = run(inventory)
    losing.breaking.fail_zone("az-a", 60, victim, "")
    assert reaches(lab, late), "it is no part of the zone yet"
    join()
    until(lambda: not reaches(lab, late), 30)
    assert reaches(lab, beside)
    until(lambda: LATE in told(losing)["taint"]["hosts"], 30)
    part = told(losing)["partition"]
    assert part["hosts"] == ["node-a-1", LATE] and part["escaped"] == {}
    assert part["joined"][LATE] > 0
    silent = {one["host"]: one for one in part["evidence"]["pieces"] if one["name"] == "silent"}
    assert silent[LATE]["ok"] and silent[LATE]["seen"] == "EDGE gets no answer"
    node = core.read_node(LATE)
    assert node.spec.unschedulable and any("aftershock" in one.key for one in node.spec.taints)
    # `recover` would find it, and its agent has what was left of the lease.
    (open_run,) = ledgers.runs()
    (arming,) = open_run.injections.values()
    assert [one["name"] for one in arming["nodes"]] == ["node-a-1", LATE]
    first, last = (
        fleet.fresh(node).ask("record", injection=arming["injection"])["deadline"]
        for node in losing.breaking.made[0].nodes
    )
    assert last < first + part["joined"][LATE] / 2, "its lease is no new one"
    losing.breaking.heal_zone("az-a")
    assert reaches(lab, late)
    part = told(losing)["partition"]
    assert part["ordered"] and part["clean"] and not part["healed_early"]
    assert part["per_host"][LATE]["ended_by"] == "order"
    node = core.read_node(LATE)
    assert not node.spec.unschedulable and not node.spec.taints
    fleet.close()
    assert leftovers(core) == []


def test_one_that_nothing_gets_to_is_told(
    lab: Lab, run: Callable[[Inventory], Any], join: Callable[[], None], victim: str
) -> None:
    def there(node: Node) -> bool:
        return node.name != LATE

    losing = run(replace(lab.inventory, nodes=tuple(filter(there, lab.inventory.nodes))))
    losing.breaking.fail_zone("az-a", 60, victim, "")
    join()
    why = "give the inventory an `agent` or `ssh` block"  # once that was tried
    until(lambda: why in told(losing)["partition"]["escaped"].get(LATE, ""), 30)
    losing.breaking.heal_zone("az-a")
    part = told(losing)["partition"]
    assert part["hosts"] == ["node-a-1"] and part["clean"]
