"""Nodes powered off by commands that run here: a port of the bridge stands for the power."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from boots import recover_after_restart
from wires import World, arrives, lost

from aftershock.errors import InvalidFault, NotApplied
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Inventory, Limits, node_from_dict
from aftershock.ledger import Ledger, state_dir
from aftershock.recover import recover
from aftershock.run import power
from aftershock.run.settings import Settings
from tests.bare import bare_run

pytestmark = pytest.mark.root


def commands(prefix: str) -> dict[str, str]:
    """`{node}` is node-a, and its port at the bridge pa."""
    port = f"n={{node}}; ip -n {prefix} link set p${{n#node-}}"
    seen = f"n={{node}}; ip -n {prefix} link show p${{n#node-}} | grep -q state.DOWN"
    return {"off": f"sh -c '{port} down'", "on": f"sh -c '{port} up'", "check": f"sh -c '{seen}'"}


def target(nodes: Any, fleet: Fleet, limits: Limits) -> Any:
    """What a run breaks: hosts and nothing else."""
    there = Inventory("t", tuple(nodes), "http://x", "m", limits=limits)
    return SimpleNamespace(inventory=there, agents=fleet, cluster=None)


@pytest.fixture
def run(wires: World, fleet: Fleet, ledger: Ledger, tmp_path: Path) -> Iterator[Any]:
    there = target(wires.nodes.values(), fleet, Limits((), 1, 1))
    made = bare_run(there, ledger, Settings(zone="all"), tmp_path)
    yield made
    made.breaking.heal_everything()
    made.timeline.close()


def off(run: Any, where: str, words: dict[str, str], lease_s: float = 60) -> dict[str, Any]:
    told = power.power_off_nodes(run, where, **words, timeout_s=20, lease_s=lease_s)
    return dict(told["injections"][0])


def test_before_during_after(run: Any, wires: World) -> None:
    words = commands(wires.prefix)
    assert arrives(wires["w"], wires["a"])
    told = off(run, "node-a", words)
    assert lost(wires["w"], wires["a"]) and arrives(wires["w"], wires["b"])
    assert (told["fault"], told["hosts"], told["bit"]) == ("power-off", ["node-a"], True), told
    pieces = {piece["name"]: piece for piece in told["evidence"]["pieces"]}
    assert pieces["check"]["ok"] and pieces["silent"]["ok"]
    assert pieces["silent"]["seen"] == "node-b gets no answer"
    assert set(run.breaking.injections.broken) == {"node-a"}
    run.breaking.heal("node-a", kinds=(power.KIND,))
    assert arrives(wires["w"], wires["a"])
    (told,) = [one.to_dict() for one in run.breaking.made]
    assert told["clean"] and told["ordered"] and not told["healed_early"]
    assert not run.breaking.injections.broken


def test_commands_may_take_their_time(
    run: Any, wires: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent is waited for as long as its command may take, however short it is usually asked."""
    monkeypatch.setattr("aftershock.injection.ANSWER_S", 0.3)
    monkeypatch.setattr("aftershock.aftermath._REVERT_S", 0.3)
    words = commands(wires.prefix)
    slow = {key: words[key].replace("'n=", "'sleep 0.8; n=") for key in ("off", "on")}
    told = off(run, "node-a", {**words, **slow})
    assert told["bit"] and lost(wires["w"], wires["a"])
    run.breaking.heal("node-a", kinds=(power.KIND,))
    (told,) = [one.to_dict() for one in run.breaking.made]
    assert told["clean"] and arrives(wires["w"], wires["a"])
    assert told["per_host"]["node-a"]["ended_by"] == "order", "and not by a second agent's heal"


def test_a_node_that_goes_on_to_answer_is_no_effect(run: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(power, "_LOOKS_S", 0.5)
    told = off(run, "node-a", {"off": "true", "on": "true", "check": ""})
    assert not told["bit"] and "answers node-b at 10.99.0.1" in str(told["evidence"])


def test_what_fails_somewhere_is_on_again_everywhere(run: Any, wires: World) -> None:
    words = commands(wires.prefix)
    words["off"] = words["off"].replace("'n=", "'test {node} = node-a || exit 3; n=")
    with pytest.raises(NotApplied, match="ended 3"):
        off(run, "node-a,node-b", words)
    assert arrives(wires["w"], wires["a"]) and arrives(wires["w"], wires["b"])


def test_what_is_refused_before(run: Any, wires: World) -> None:
    words = commands(wires.prefix)
    with pytest.raises(InvalidFault, match="the last zone is never broken"):
        off(run, "all", words)
    with pytest.raises(InvalidFault, match="no undo"):
        off(run, "node-a", {**words, "on": ""})
    with pytest.raises(InvalidFault, match="No closing quotation: close the quotes"):
        off(run, "node-a", {**words, "off": "sh -c 'x"})
    assert run.breaking.made == [] and arrives(wires["w"], wires["a"])


def test_a_controller_that_is_killed(wires: World, tmp_path: Path) -> None:
    assert killed(wires, tmp_path) == b"was off\n"
    assert arrives(wires["w"], wires["a"], within_s=20), "its agent here gave the power back"
    found = recover()
    said = "\n".join(found.lines())
    # Where the power is back, and its agent has not written that down yet, it is waited for.
    assert found.healed and ("it had healed already" in said or "(channel lost)" in said), said


def test_recover_powers_on_what_lost_its_controller_agent_and_watcher(
    wires: World, tmp_path: Path, state: Path
) -> None:
    """As after this machine's own loss of power: all that is left is what is on disk."""
    assert killed(wires, tmp_path, "with all of its own") == b"was off\n"
    assert lost(wires["w"], wires["a"]), "there is nobody who could give the power back"
    found = recover()
    assert found.healed and "power-of-node-a: healed now" in "\n".join(found.lines())
    assert arrives(wires["w"], wires["a"]) and recover().findings == ()


def test_recover_powers_on_after_a_restart_of_this_machine(
    wires: World, tmp_path: Path, state: Path
) -> None:
    killed(wires, tmp_path, "with all of its own")
    said = recover_after_restart(tmp_path)
    assert "the machine was restarted since; healed now" in said
    assert arrives(wires["w"], wires["a"]) and recover().findings == ()


def killed(wires: World, folder: Path, *how: str) -> bytes:
    """What a controller said that powered node-a off and was killed."""
    nodes = [node.to_dict() for node in wires.nodes.values()]
    words = json.dumps([nodes, commands(wires.prefix), str(folder), how])
    here = [sys.executable, __file__, words]
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"}
    died = subprocess.run(here, check=False, capture_output=True, env=env)
    assert died.returncode == -9, died.stderr.decode()
    return died.stdout


def end_all_of(injection: str) -> None:
    """The watcher first, which would heal, and then the agent, which would, too."""
    (path,) = (state_dir() / "records").glob(f"{injection}@*")
    record = json.loads(path.read_text())
    for one in ("watcher", "agent"):
        os.kill(record[one]["pid"], 9)


if __name__ == "__main__":
    plain, told, place, how = json.loads(sys.argv[1])
    book = Ledger.open("run-to-be-killed")
    dying = bare_run(
        target(map(node_from_dict, plain), Fleet(), Limits((), 1, 1)),
        book,
        Settings(zone="all"),
        Path(place),
    )
    broken = off(dying, "node-a", told)
    assert broken["bit"]
    print("was off", flush=True)
    if how:
        end_all_of(broken["id"])
    os.kill(os.getpid(), 9)
