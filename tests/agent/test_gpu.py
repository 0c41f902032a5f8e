"""GPUs pressed by the unmodified agent on the mock pair: before, during, after, and refused."""

import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cards import Cards
from test_host import hogs
from wires import is_gone, wait_for

from aftershock.errors import InvalidFault, NotApplied, Unsupported
from aftershock.faults.freeze import Freeze
from aftershock.faults.gpu import GpuComputePressure, GpuMemoryPressure
from aftershock.faults.gpuslow import GpuSlowdown
from aftershock.faults.processes import Processes
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Node

EMPTY = 600  # what the driver reserves of a card, in MiB
TOTAL = 80 * 1024


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


@pytest.fixture
def press(cards: Cards, make: Any) -> Any:
    """Arm and fire a fault on the host of the cards; whatever happens, it is reverted."""
    return partial(make, node=cards.node)


def test_memory_is_taken_on_the_chosen_gpu_alone_and_given_back(
    cards: Cards, press: Any, fleet: Fleet
) -> None:
    injection = press(GpuMemoryPressure(("1",), take_mib=50_000), fire=False)
    (child,) = hogs(fleet.fresh(cards.node).pid)
    assert cards.used() == [EMPTY, EMPTY], "armed, yet nothing is taken"
    injection.fire()
    assert injection.observe()["bit"] is True, injection.evidence
    assert cards.used() == [EMPTY, EMPTY + 50_000]
    assert cards.read()[1]["users"] == [child]
    told = injection.to_dict()
    assert told["level"] == "emulated", "what happens on a mock is called by its name"
    injection.revert()
    assert is_gone(child) and cards.used() == [EMPTY, EMPTY]
    told = injection.to_dict()
    assert told["ordered"] and told["clean"]
    (after,) = [one for one in told["evidence"]["pieces"] if one["name"] == "gpu-after"]
    assert after["ok"] and after["seen"].startswith("600, 600 MiB used"), after


def test_what_others_let_go_of_is_taken_and_all_returns_after_the_agents_sigkill(
    cards: Cards, press: Any, fleet: Fleet
) -> None:
    """Two thirds of both cards by UUID and index; in steps, and then more as others let go."""
    uuid = cards.read()[0]["uuid"]
    fault = GpuMemoryPressure((uuid, "1"), share=2 / 3, keep=True, steps=4, over_s=0.6, anyone=True)
    with cards.user(10_000) as other:
        injection = press(fault)
        assert injection.observe()["bit"] is True, injection.evidence
        full = pytest.approx(TOTAL * 2 / 3, abs=4)
        assert cards.used() == [full, full]
        other.kill()
        assert wait_for(lambda: cards.used() == [full, full], 10), "what was let go of is taken"
        assert len(cards.read()[0]["users"]) == 1
    os.kill(fleet.fresh(cards.node).pid, signal.SIGKILL)
    assert wait_for(lambda: cards.used() == [EMPTY, EMPTY], 10)
    injection.revert()
    assert injection.to_dict()["healed_early"] is True


def test_a_stopped_agent_holds_no_memory_beyond_the_deadline(
    cards: Cards, press: Any, fleet: Fleet
) -> None:
    injection = press(GpuMemoryPressure(("0",), free_mib=1000), lease_s=2)
    assert cards.used()[0] == pytest.approx(TOTAL - 1000, abs=2)
    agent = fleet.fresh(cards.node).pid
    os.kill(agent, signal.SIGSTOP)
    assert wait_for(lambda: cards.used() == [EMPTY, EMPTY], 20)
    os.kill(agent, signal.SIGCONT)
    injection.revert()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "take_mib .* free_mib .* share .* one of them only, not none"),
        ({"take_mib": 10, "free_mib": 10}, "not take_mib and free_mib"),
        ({"take_mib": -1}, "take_mib -1: MiB, more than 0"),
        ({"share": 1.5}, "share 1.5: of the card's memory"),
        ({"take_mib": 1, "over_s": 5}, "over_s 5 with one step"),
        ({"take_mib": 1, "keep": True}, "keep with take_mib"),
        ({"take_mib": 1, "gpus": ()}, "none is named"),
        ({"take_mib": 1, "gpus": ("first",)}, "'first': an index"),
    ],
)
def test_nonsense_is_refused_before_any_host_is_asked(words: Any, said: str) -> None:
    with pytest.raises(InvalidFault, match=said):
        GpuMemoryPressure(**words)


def test_what_a_gpu_cannot_give_is_refused_and_nothing_is_taken(cards: Cards, press: Any) -> None:
    for fault, said in (
        (GpuMemoryPressure(("7",), take_mib=1), r"no GPU 7 here: there is 0 \(GPU-"),
        (GpuMemoryPressure(("0",), take_mib=90_000), "81320 MiB free of 81920, not 90000"),
        (GpuMemoryPressure(("0",), free_mib=81_400), "nothing would happen"),
        (GpuMemoryPressure(("0",), take_mib=1, used_by="vllm"), "no process .* uses GPU 0: nobody"),
    ):
        with pytest.raises(NotApplied, match=said):
            press(fault)
    with cards.user(100) as somebody:
        told = f"GPU 0 is used by process {somebody.pid} .* not named as a target"
        with pytest.raises(NotApplied, match=told):
            press(GpuMemoryPressure(("0",), take_mib=1))
        with pytest.raises(NotApplied, match=r"no process that .* uses GPU 0: process"):
            press(GpuMemoryPressure(("0",), take_mib=1, used_by="vllm"))
        named = press(GpuMemoryPressure(("0",), take_mib=1000, used_by="mockgpu_ran"))
        assert cards.used()[0] == EMPTY + 1100
        named.revert()
    cards.mode(0, 3)
    with pytest.raises(NotApplied, match="exclusive-process mode, where two processes can't"):
        press(GpuMemoryPressure(("0",), take_mib=1))
    cards.mode(0, 0)
    cards.control(0, lost=1)
    with pytest.raises(NotApplied, match="GPU 0 is lost"):
        press(GpuMemoryPressure(("all",), take_mib=1))
    cards.control(0, lost=0)
    assert cards.used() == [EMPTY, EMPTY]


def test_a_host_without_a_driver_says_so(press: Any) -> None:
    bare = Node("bare", "none", ("127.0.0.1",), devices=())
    with pytest.raises((Unsupported, NotApplied), match=r"no NVML on this host .* install NVIDIA"):
        press(GpuMemoryPressure(("0",), take_mib=1), node=bare)


def test_a_gpu_is_busy_for_the_share_of_the_time_that_was_asked_for(
    cards: Cards, press: Any, fleet: Fleet
) -> None:
    duty = 40
    injection = press(GpuComputePressure(("1",), duty_percent=duty, bound="bandwidth"), fire=False)
    assert [card["busy"] for card in cards.read()] == [0, 0], "armed, yet nothing runs"
    injection.fire()
    assert injection.observe()["bit"] is True, injection.evidence

    def as_asked() -> bool:  # over a second in which the child got its turns
        busy = [card["busy"] for card in cards.read()]
        assert busy[0] == 0 and busy[1] < duty + 25
        return bool(busy[1] > 0.6 * duty)

    assert wait_for(as_asked)
    os.kill(fleet.fresh(cards.node).pid, signal.SIGKILL)
    assert wait_for(lambda: [card["busy"] for card in cards.read()] == [0, 0], 15)
    injection.revert()


def test_an_engine_that_uses_no_gpu_is_not_hung_where_nvml_tells_who_does(
    cards: Cards, press: Any
) -> None:
    with subprocess.Popen(["sleep", "60"]) as idle:
        whole = Freeze(processes=(Processes(pid=idle.pid),), on_gpu=True)
        with cards.user(100) as user:
            with pytest.raises(NotApplied, match=f"{idle.pid} uses no GPU.*process {user.pid} .*d"):
                press(whole)
            assert thread_state(idle.pid) == "S", "untouched"
            hung = press(Freeze(processes=(Processes(pid=user.pid),), on_gpu=True))
            assert thread_state(user.pid) == "t"
            hung.revert()
        blind = press(whole)  # as in most pods: NVML shows nobody
        assert thread_state(idle.pid) == "t"
        blind.revert()
        idle.kill()


def thread_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_compute_pressure_refuses_nonsense() -> None:
    for words, said in (
        ({"duty_percent": 0}, "duty_percent 0: 1 to 100"),
        ({"duty_percent": 101}, "duty_percent 101: 1 to 100"),
        ({"bound": "memory"}, "bound 'memory': compute or bandwidth"),
    ):
        with pytest.raises(InvalidFault, match=said):
            GpuComputePressure(**words)


def speeds(cards: Cards) -> list[tuple[int, float]]:
    """Clock and power limit of each card, as NVML tells; idle cards run at 345 MHz."""
    return [(card["mhz"], card["watts"]) for card in cards.read()]


def test_clocks_and_power_are_put_back_by_the_agent_and_after_its_death(
    cards: Cards, press: Any, fleet: Fleet
) -> None:
    usual = [(345, 700.0)] * 2
    fault = GpuSlowdown(("1",), clock_mhz=300, power_w=250, allowed=True)
    injection = press(fault, fire=False)
    assert speeds(cards) == usual, "armed, yet nothing is slow"
    injection.fire()
    assert injection.observe()["bit"] is True, injection.evidence
    assert speeds(cards) == [usual[0], (300, 250.0)]
    with pytest.raises(NotApplied, match="somebody has set the clocks of GPU 1"):
        press(fault)
    injection.revert()
    assert speeds(cards) == usual and injection.to_dict()["clean"] is True
    killed = press(fault)
    assert speeds(cards) != usual
    os.kill(fleet.fresh(cards.node).pid, signal.SIGKILL)
    assert wait_for(lambda: speeds(cards) == usual, 20), "the watcher puts them back"
    killed.revert()


def test_a_slowdown_is_refused_unless_it_is_allowed(press: Any) -> None:
    for words, said in (
        ({"clock_mhz": 900}, "outlive whoever set them, .* say allowed=true"),
        ({"allowed": True}, "neither clock_mhz nor power_w"),
        ({"clock_mhz": -1, "allowed": True}, "clock_mhz -1"),
    ):
        with pytest.raises(InvalidFault, match=said):
            GpuSlowdown(**words)
    for words, said in (
        ({"clock_mhz": 1980}, "GPU 0 runs at 1980 MHz at most"),
        ({"power_w": 100}, "power_w 100 on GPU 0: 200 at least"),
        ({"power_w": 700}, "below its limit now, 700"),
    ):
        with pytest.raises(NotApplied, match=said):
            press(GpuSlowdown(**words, allowed=True))


def test_a_second_slowdown_of_a_card_is_refused_while_one_of_ours_is_on(
    cards: Cards, press: Any
) -> None:
    """It would put back what the first had set, once that is gone."""
    first = press(GpuSlowdown(("1",), power_w=400, allowed=True))
    for words in ({"power_w": 250}, {"clock_mhz": 300}):
        with pytest.raises(NotApplied, match="a slowdown of ours is on GPU 1: revert it first"):
            press(GpuSlowdown(("1",), **words, allowed=True))
    first.revert()
    again = press(GpuSlowdown(("1",), power_w=250, allowed=True))
    again.revert()
    assert speeds(cards)[1] == (345, 700.0)
