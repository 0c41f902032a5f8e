"""Whoever dies, netem's queues and the devices that lead to them are gone within the lease."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from aftershock.faults.base import Fault
from aftershock.faults.partition import Partition, networks
from aftershock.faults.shaping import Delay
from aftershock.hosts.fleet import Fleet
from tests.agent.wires import arrives, is_gone, lost, wait_for

from .worlds import Rig, flow, look, pings, to

pytestmark = pytest.mark.root
CONTROLLER = Path(__file__).parent.parent / "agent" / "controller.py"


@pytest.fixture
def own(rig: Rig) -> Iterator[Rig]:
    """The same nodes with agents of the test's own, to be killed."""
    made = Rig(rig.wires, Fleet())
    yield made
    made.fleet.close()


@pytest.fixture
def untouched(rig: Rig) -> Iterator[list[str]]:
    """The node as iproute2 sees it, and is to see it again."""
    before = look(rig.a)
    yield before
    assert look(rig.a) == before


def faults(rig: Rig) -> dict[str, Fault]:
    return {
        "delay": Delay(80, traffic=to(rig.w)),
        "partition": Partition(networks(rig.w.addresses)),
    }


@pytest.mark.parametrize("kind", ["delay", "partition"])
def test_after_sigkill_of_the_agent_nothing_stays(
    rig: Rig, own: Rig, untouched: list[str], kind: str
) -> None:
    with own.inject(faults(rig)[kind], witness=None) as injection:
        agent = own.fleet.fresh(rig.a)
        assert not arrives(rig.a, rig.w, within_s=0.05), "cut, or late"
        os.kill(agent.pid, signal.SIGKILL)
        assert wait_for(lambda: look(rig.a) == untouched, 90), "long before the lease's end"
        assert min(pings(rig.w, rig.a, 3)) < 80
        injection.revert()
    part = injection.to_dict()["per_host"]["node-a"]
    assert part["ordered"] is False
    assert part["ended_by"] in ("watcher", "the agent's death")


def test_after_sigstop_of_the_agent_the_kernel_ends_it_and_the_watcher_tidies_up(
    rig: Rig, own: Rig, untouched: list[str]
) -> None:
    with own.inject(Delay(80, traffic=to(rig.w)), lease_s=6, witness=None) as injection:
        agent = own.fleet.fresh(rig.a)
        until = agent.ask("record", injection=injection.id)["deadline"]
        assert min(flow(rig.a, rig.w, 5).delays) >= 79.9
        os.kill(agent.pid, signal.SIGSTOP)
        try:
            assert min(flow(rig.a, rig.w, 5).delays) >= 79.9
            time.sleep(max(0.0, until - time.clock_gettime(time.CLOCK_BOOTTIME)))
            assert flow(rig.a, rig.w, 5).median < 80, "the gate holds the lease's end"
            assert wait_for(lambda: look(rig.a) == untouched, 60)
        finally:
            os.kill(agent.pid, signal.SIGCONT)
        injection.revert()
    assert injection.to_dict()["per_host"]["node-a"]["ended_by"] == "deadline"


@pytest.mark.one_kernel
def test_after_sigkill_of_the_agent_and_its_controller_nothing_stays(
    rig: Rig, untouched: list[str]
) -> None:
    node = {**asdict(rig.a), "env": {}}
    words = [json.dumps([node]), "auto", json.dumps({"lease_s": 30})]
    with subprocess.Popen(
        [sys.executable, str(CONTROLLER), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as controller:
        assert controller.stdout
        agents = json.loads(controller.stdout.readline())["agents"]
        assert lost(rig.w, rig.a)
        for pid in (controller.pid, *agents):
            os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: look(rig.a) == untouched, 20)
    assert arrives(rig.w, rig.a) and all(is_gone(pid) for pid in agents)
