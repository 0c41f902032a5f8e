"""Who dies in the midst of something, at a moment nobody chose: no step is left."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from play import Drama, hosts_are_as_before, nobody_is_left, recovers
from sites import WAYS

from aftershock.errors import AftershockError
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.recover import recover
from tests.agent.held import drop, tbf
from tests.agent.wires import World, arrives, is_gone, wait_for, world
from tests.conftest import MARK, marked_processes

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
SOME, MANY = range(3), range(3, 20)
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
STEPS = [
    step(hook=hook)
    for hook in ("tcx", "clsact")
    for step in (drop, lambda **more: tbf(8_000_000, **more))
]
LONGEST_S = {"arm": 0.08, "fire": 0.004, "revert": 0.06}  # about what each takes


@pytest.fixture
def wires() -> Iterator[World]:
    """Two nodes of a zone and one outside."""
    with world() as made:
        yield made


@pytest.fixture
def agent(wires: World) -> Iterator[AgentChannel]:
    """On node `a`."""
    fleet = Fleet()
    yield fleet.fresh(wires["a"])
    fleet.close()


def looks(wires: World) -> str:
    words = ("qdisc", "filter show dev eth0 ingress", "filter show dev eth0 egress")
    return "".join(wires.tc("a", *line.split()) for line in words)


def hit(agent: AgentChannel, op: str, rng: random.Random) -> str:
    """Ask for something, and send a signal while it is on its way; what was sent, and when."""
    options = {"injection": "four"}
    if op == "arm":
        options |= {"steps": STEPS, "lease_s": 20.0}  # type: ignore[dict-item]
    else:
        agent.ask("arm", injection="four", steps=STEPS, lease_s=20.0)
    if op == "revert":
        agent.ask("fire", injection="four")
    after_s, number = rng.uniform(0, LONGEST_S[op]), rng.choice(SIGNALS)
    answer = agent.post(op, **options)
    time.sleep(after_s)
    os.kill(agent.pid, number)
    try:
        agent.result(answer, op, 10)
    except AftershockError:
        return f"{number.name} {after_s * 1000:.0f} ms after `{op}`, before its answer"
    return f"{number.name} {after_s * 1000:.0f} ms after `{op}`, after its answer"


@pytest.mark.parametrize(
    "seed", [*SOME, *(pytest.param(seed, marks=pytest.mark.survival) for seed in MANY)]
)
@pytest.mark.parametrize("op", LONGEST_S)
def test_an_agent_dies_in_the_midst(
    wires: World, agent: AgentChannel, tmp_path: Path, op: str, seed: int
) -> None:
    before = looks(wires)
    what = hit(agent, op, random.Random(seed))
    assert wait_for(lambda: looks(wires) == before, 5.0), f"{what}: {looks(wires)}"
    assert wait_for(lambda: is_gone(agent.pid)), what
    assert wait_for(lambda: not marked_processes(os.environ[MARK])), "a watcher stays"
    assert arrives(wires["w"], wires["a"]) and arrives(wires["a"], wires["w"]), what
    assert recover().healed
    assert not [path for path in (tmp_path / "state").rglob("*") if path.is_file()], what


@pytest.mark.survival
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("way", WAYS)
def test_a_controller_dies_in_the_midst(tmp_path: Path, way: str, seed: int) -> None:
    """From the arming to its end, which takes it about a second."""
    rng = random.Random(seed)
    after_s, number = rng.uniform(0, 1.2), rng.choice(SIGNALS)
    with WAYS[way](tmp_path) as site:
        drama = Drama(site, tmp_path, lease_s=2.0)
        try:
            drama.start("before arming")
            drama.reach("before arming")
            drama.say("go")
            time.sleep(after_s)
            drama.hurt()
            drama.kill(number)
            drama.process.wait(30)
            hosts_are_as_before(drama)
            nobody_is_left(drama)
            recovers(drama)
        except AssertionError as error:
            raise AssertionError(f"{number.name} after {after_s * 1000:.0f} ms: {error}") from error
        finally:
            drama.close()
