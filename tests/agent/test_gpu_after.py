"""Whether a card is as it was before a fault: what is left is told, and not what others changed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cards import Cards
from wires import is_gone, wait_for

from aftershock.agent import gpusteps
from aftershock.agent.cardstate import BLIND
from aftershock.agent.clock import identity
from aftershock.faults.base import Fault
from aftershock.faults.gpu import GpuComputePressure, GpuMemoryPressure
from aftershock.faults.gpuloss import GpuLoss
from aftershock.faults.gpuslow import GpuSlowdown
from aftershock.hosts.fleet import Fleet
from aftershock.recover import recover

LOCK = """
import os, pynvml as n, time
os.nice(-20)  # it is to come between a reset and the look after it, however busy this machine is
n.nvmlInit()
card = n.nvmlDeviceGetHandleByIndex(0)
while True:
    n.nvmlDeviceSetGpuLockedClocks(card, 900, 900)
    print(flush=True)
    time.sleep(0.0001)
"""
PID_NAMESPACE_AT = 8  # in the mock's ledger: those of another one have no driver


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


@pytest.fixture
def break_(cards: Cards, make: Any) -> Any:
    """Arm and fire on the host of the cards; whatever happens, it is reverted."""
    return partial(make, node=cards.node)


@pytest.mark.parametrize(
    ("fault", "lines"),
    [
        (GpuMemoryPressure(("all",), take_mib=100), [" process ", " process "]),
        (GpuComputePressure(("1",), duty_percent=10), [" process "]),
        (
            GpuSlowdown(("1",), clock_mhz=300, power_w=250, allowed=True),
            [" clocks set by a user", " power limit 250 W"],
        ),
        (GpuLoss(("1",), xid=48), [" DCGM shows Xid 48"]),
    ],
    ids=lambda one: one.name if hasattr(one, "name") else "",
)
def test_a_fingerprint_shows_what_could_be_left_while_it_is_on_and_not_after(
    cards: Cards, break_: Any, fleet: Fleet, fault: Fault, lines: list[str]
) -> None:
    injection = break_(fault)
    agent = fleet.fresh(cards.node)
    record = agent.ask("record", injection=injection.id)
    owned = set(record["owned"]) - {BLIND}
    assert len(owned) == len(lines) and all(any(w in one for one in owned) for w in lines), owned
    look = partial(agent.ask, "fingerprint", devices=[], looks=["gpus", "xids"])
    assert wait_for(lambda: owned <= set(look()), 10), "it would be seen if it were left"
    assert owned.isdisjoint(record["before"])
    injection.revert()
    assert owned.isdisjoint(look())
    told = injection.to_dict()
    assert told["clean"] is True and told["foreign_changes"] == {}
    ends = told["per_host"]["gpu-host"]["fingerprint"]
    assert ends["before"] == ends["after"] and ends["before_lines"] == ends["after_lines"] > 4


def test_what_others_change_on_a_card_meanwhile_is_told_and_is_no_fault_of_ours(
    cards: Cards, break_: Any
) -> None:
    injection = break_(GpuMemoryPressure(("0",), take_mib=100))
    second = break_(GpuMemoryPressure(("1",), take_mib=100))
    cards.mode(1, 2)
    cards.persist(0)
    with cards.user(100):
        injection.revert()
    told = injection.to_dict()
    assert told["clean"] is True
    first, other = (card["uuid"] for card in cards.read())
    assert sorted(told["foreign_changes"]["gpu-host"]) == sorted(
        [
            f"- gpu {other} compute mode default",
            f"+ gpu {other} compute mode prohibited",
            f"- gpu {first} persistence off",
            f"+ gpu {first} persistence on",
        ]
    ), "neither who came, nor what our other fault has"
    second.revert()
    assert second.to_dict()["clean"] is True


@contextmanager
def locking(cards: Cards) -> Iterator[None]:
    """Somebody locks the first card's clocks again and again."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCK], env={**os.environ, **cards.env}, stdout=subprocess.DEVNULL
    ) as one:
        try:
            yield
        finally:
            one.kill()


def test_clocks_that_are_still_set_are_left_and_the_host_is_not_clean(
    cards: Cards, break_: Any
) -> None:
    """Whose they are can't be told: so nobody may say that all is as before."""
    injection = break_(GpuSlowdown(("0",), clock_mhz=300, allowed=True))
    with locking(cards):
        assert wait_for(lambda: cards.read()[0]["mhz"] != 300, 20), "they are set by another by now"
        injection.revert()
    told = injection.to_dict()
    assert (told["reverted"], told["clean"]) == (True, False)
    (left,) = told["per_host"]["gpu-host"]["left"]
    assert left.endswith("clocks set by a user")


def test_a_card_that_nobody_can_look_at_any_more_is_not_called_clean(
    cards: Cards, break_: Any
) -> None:
    injection = break_(GpuMemoryPressure(("0",), take_mib=100))
    with cards.ledger.open("r+b") as ledger:
        ledger.seek(PID_NAMESPACE_AT)
        ledger.write(bytes(8))
    injection.revert()
    told = injection.to_dict()
    assert told["clean"] is False and told["per_host"]["gpu-host"]["left"] == [BLIND]


def test_a_child_that_outlived_its_agent_is_ended_by_who_heals_in_its_place() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        who = identity(child.pid)
        gpusteps.undo({"children": [{**who, "started": who["started"] - 1}]})
        assert child.poll() is None, "another process that was given its number"
        gpusteps.undo({"children": [who]})
        assert child.wait() == -signal.SIGTERM
    assert gpusteps.undo({}) == [], "of a record that an earlier version wrote"


def kill_both(cards: Cards, fleet: Fleet, injection: Any) -> None:
    """SIGKILL of the watcher, where there is one, and of the agent: nobody is left to undo."""
    agent = fleet.fresh(cards.node)
    watcher = agent.ask("record", injection=injection.id).get("watcher")
    for number in ([watcher["pid"]] if watcher else []) + [agent.pid]:
        os.kill(number, signal.SIGKILL)
    assert wait_for(lambda: is_gone(agent.pid), 10)


def test_recover_puts_clocks_and_power_back_when_agent_and_watcher_are_dead(
    cards: Cards, break_: Any, fleet: Fleet
) -> None:
    injection = break_(GpuSlowdown(("0", "1"), clock_mhz=300, power_w=250, allowed=True))
    kill_both(cards, fleet, injection)
    cards.limit_w(1, 500)
    slow = [(card["mhz"], card["watts"]) for card in cards.read()]
    assert slow == [(300, 250.0), (300, 500.0)], "both outlive whoever set them"
    found = recover(force=True)
    assert found.healed and "healed now (the agent's death)" in found.lines()[0], found.lines()
    back = [(card["mhz"], card["watts"]) for card in cards.read()]
    assert back == [(345, 700.0), (345, 500.0)], "but for the limit that somebody set since"
    assert recover(force=True).healed, "twice is fine"


def test_recover_takes_the_xid_back_that_monitoring_still_shows(
    cards: Cards, break_: Any, fleet: Fleet
) -> None:
    injection = break_(GpuLoss(("all",), xid=48))
    kill_both(cards, fleet, injection)
    fleet.let_go(cards.node)  # its end may not have been noticed yet
    agent = fleet.fresh(cards.node)

    def shown() -> list[str]:
        lines = agent.ask("fingerprint", devices=[], looks=["xids"])
        return [line for line in lines if "Xid 48" in line]

    assert len(shown()) == 2, "it outlives whoever told it"
    assert recover(force=True).healed
    assert shown() == []


def test_recover_says_what_it_could_not_put_back_and_does_so_once_it_can(
    cards: Cards, break_: Any, fleet: Fleet
) -> None:
    injection = break_(GpuSlowdown(("0",), power_w=250, allowed=True))
    kill_both(cards, fleet, injection)
    cards.control(0, lost=1)
    found = recover(force=True)
    assert not found.healed
    assert "GPU 0: GPU is lost: nvidia-smi" in found.lines()[0], found.lines()
    cards.control(0, lost=0)
    assert recover(force=True).healed and cards.read()[0]["watts"] == 700


def test_recover_ends_the_child_of_an_agent_that_hangs(
    cards: Cards, break_: Any, fleet: Fleet
) -> None:
    injection = break_(GpuMemoryPressure(("0",), take_mib=1000))
    agent = fleet.fresh(cards.node).pid
    os.kill(agent, signal.SIGSTOP)
    assert recover(force=True).healed
    assert cards.read()[0]["users"] == [] and is_gone(agent)
    injection.revert()
    assert injection.to_dict()["clean"] is True


def test_nvml_stays_open_from_the_arming_on(cards: Cards) -> None:
    """Once, however many faults come; what only looks closes it again."""
    code = """
import pynvml
from aftershock.agent import gpu
for look in (gpu.gpus, gpu.looked_at, lambda: gpu.find(["all"]), lambda: gpu.find(["0"])):
    look()
    print(pynvml._nvmlLib_refcount)
"""
    env = {**os.environ, **cards.env}
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert told.stdout.split() == [b"0", b"0", b"1", b"1"]
