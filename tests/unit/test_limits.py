"""A target of hosts alone: what `where` may choose is known before anything is touched."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.capacity.choosing import TooMuch
from aftershock.errors import Unsupported
from aftershock.run.foresight import Foresight, is_ours
from aftershock.run.session import Run
from aftershock.run.settings import Settings
from aftershock.run.target import Target

ROOT = Path(__file__).parents[2]
HALF = "h1,h2,h3"
SHARE = "3 of 4 nodes would be touched, and max_node_share 0.5 allows less"


@pytest.fixture
def inventory(tmp_path: Path) -> str:
    path = tmp_path / "hosts.yaml"
    hosts = [
        {"name": f"h{n}", "zone": f"z{n % 2}", "addresses": [f"192.0.2.{n}"]} for n in (1, 2, 3, 4)
    ]
    told = {"target": "t", "gateway_url": "http://127.0.0.1:9", "model": "m", "hosts": hosts}
    path.write_text(yaml.safe_dump(told))
    return str(path)


def action(name: str, **arguments: Any) -> dict[str, Any]:
    module, _, func = name.partition(".")
    told = {"type": "python", "module": f"aftershock.actions.{module}", "func": func}
    return {"type": "action", "name": func, "provider": {**told, "arguments": arguments}}


@pytest.mark.parametrize(
    "told",
    [
        action("network.degrade_network", where=HALF, delay_ms=10),
        action("network.partition_network", where=HALF, peers="h4"),
        action("command.run_command", where=HALF, apply="true", undo="true"),
        action("host.stress_cpu", where=HALF),
        action("host.press_memory", where=HALF, take_mb=10),
        action("host.kill_processes", where=HALF, pattern="x"),
        action("host.freeze_processes", where=HALF, pattern="x"),
        action("storage.fill_disk", where=HALF, path="/x", free_mib=10),
        action("storage.throttle_io", where=HALF, path="/x", cgroup="x", read_mib_s=1),
        action("kubernetes.power_off_nodes", where=HALF, off="true", on="true"),
    ],
    ids=lambda told: told["name"],
)
def test_a_run_that_would_touch_too_much_does_not_begin(
    inventory: str, tmp_path: Path, told: dict[str, Any]
) -> None:
    with pytest.raises(TooMuch, match=SHARE):
        Run.prepare({"target": inventory, "zone": "all"}, "too much", [told])
    assert not (tmp_path / "journal").exists(), "nothing was begun"
    fewer = {**told["provider"]["arguments"], "where": "h1"}
    within = {**told, "provider": {**told["provider"], "arguments": fewer}}
    ahead = Foresight(Settings(target=inventory, zone="all"), looked_up(inventory))
    ahead.refuse([within], {})
    (line,) = ahead.touches(within, {})
    assert line.endswith(" on h1 (z1)")


def test_the_last_zone_and_what_a_target_has_not(inventory: str) -> None:
    ahead = Foresight(Settings(target=inventory, zone="all"), looked_up(inventory))
    with pytest.raises(TooMuch, match="the last zone is never broken"):
        ahead.refuse([action("kubernetes.power_off_nodes", where="all", off="x", on="x")], {})
    with pytest.raises(Unsupported, match="has no Kubernetes API"):
        ahead.refuse([action("kubernetes.kill_pods", selector="app=x")], {})
    ahead.refuse([action("zone.fail_zone", zone="z1")], {})


def test_what_earlier_actions_hold_counts_until_it_is_healed(inventory: str) -> None:
    delay = action("network.degrade_network", where="h1", delay_ms=10)
    loss = action("network.degrade_network", where="h2,h3", loss_share=0.1)
    stress = action("host.stress_cpu", where="h2,h3")
    heal = action("network.heal_network", where="all")

    def refuse(*method: dict[str, Any]) -> None:
        Foresight(Settings(target=inventory, zone="all"), looked_up(inventory)).refuse(method, {})

    refuse(delay, action("host.stress_cpu", where="h1,h2"))
    refuse(delay, heal, stress)
    told = f"t: {SHARE}; delay is on h1 already: heal it first"
    for second in (loss, stress):
        with pytest.raises(TooMuch, match=told):
            refuse(delay, second)
    with pytest.raises(TooMuch, match=told):
        refuse(delay, action("network.heal_network", where="h2"), stress)
    with pytest.raises(TooMuch, match="delay, loss is on h1 already"):
        refuse(delay, action("network.degrade_network", where="h1", loss_share=0.1), stress)


def test_a_dry_run_counts_what_it_named_before(inventory: str) -> None:
    ahead = Foresight(Settings(target=inventory, zone="all"), looked_up(inventory))
    ahead.expect(action("host.stress_cpu", where="h1"), {})
    for look in (ahead.touches, ahead.expect):
        with pytest.raises(TooMuch, match="cpu-stress is on h1 already"):
            look(action("host.stress_cpu", where="h2,h3"), {})
    assert ahead.expect(action("host.stress_cpu", where="h2"), {})


def test_every_experiment_can_be_looked_through(inventory: str) -> None:
    """Whatever an action of ours needs of a run, looking ahead has, or says in one sentence."""
    from aftershock.errors import AftershockError

    ahead = Foresight(Settings(target=inventory, zone="all"), looked_up(inventory))
    seen = 0
    for path in sorted((ROOT / "experiments").glob("*.json")):
        experiment = json.loads(path.read_text())
        values = {
            name: one.get("default", "") if isinstance(one, dict) else one
            for name, one in experiment["configuration"].items()
        }
        for one in filter(is_ours, experiment["method"]):
            if one["type"] == "action":
                seen += 1
                try:
                    ahead.touches(one, values)
                except AftershockError as error:
                    assert str(error)
    assert seen > 10


def looked_up(inventory: str) -> Target:
    target = Target(Settings(target=inventory, zone="all"))
    target.check()
    return target
