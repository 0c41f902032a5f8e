"""MIG instances: pressed one by one on the mock, seen by NVML, freed, looked at, and refused."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cards import Cards
from test_gpu_probes import ALL, HOW
from test_host import hogs
from wires import is_gone, wait_for

from aftershock.agent import mig
from aftershock.agent.cardstate import BLIND
from aftershock.agent.errors import Invalid
from aftershock.errors import InvalidFault, InvalidInput, NotApplied, Unsupported
from aftershock.faults.gpu import GpuComputePressure, GpuMemoryPressure
from aftershock.faults.gpuloss import GpuLoss
from aftershock.faults.gpuslow import GpuSlowdown
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Inventory
from aftershock.recover import recover
from aftershock.run import gpulooks
from aftershock.slo.levels import load_levels

EMPTY = 300  # what the driver reserves of an instance, in MiB
TOTAL = 40 * 1024
READ = """
import json, pynvml as n
n.nvmlInit()
found = {}
for index in range(n.nvmlDeviceGetCount()):
    card = n.nvmlDeviceGetHandleByIndex(index)
    for number in range(2):
        part = n.nvmlDeviceGetMigDeviceHandleByIndex(card, number)
        memory = n.nvmlDeviceGetMemoryInfo(part)
        assert memory.free == memory.total - memory.used
        users = [p.pid for p in n.nvmlDeviceGetComputeRunningProcesses(part)]
        found[n.nvmlDeviceGetUUID(part)] = [memory.used >> 20, users]
print(json.dumps(found))
"""


class SplitCards(Cards):
    """Two GPUs of one host, each split by MIG into two instances."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, mig=2)
        self.uuids = list(self.parts())

    def parts(self) -> dict[str, tuple[int, list[int]]]:
        """Used memory of each instance, in MiB, and who uses it: as NVML tells an onlooker."""
        command, env = [sys.executable, "-c", READ], {**os.environ, **self.env}
        ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        return {uuid: (used, users) for uuid, (used, users) in json.loads(ran.stdout).items()}

    def used(self) -> list[int]:
        """Used memory of each instance, in MiB."""
        return [used for used, _ in self.parts().values()]


@pytest.fixture
def cards(tmp_path: Path) -> SplitCards:
    return SplitCards(tmp_path)


@pytest.fixture
def press(cards: SplitCards, make: Any) -> Any:
    """Arm and fire a fault on the host of the cards; whatever happens, it is reverted."""
    return partial(make, node=cards.node)


@pytest.fixture
def run(cards: SplitCards, fleet: Fleet) -> Any:
    target = SimpleNamespace(inventory=Inventory("cards", (cards.node,), "", ""), agents=fleet)
    return SimpleNamespace(target=target, levels=load_levels("owner"))


def test_memory_is_taken_on_one_instance_and_none_of_its_neighbours(
    cards: SplitCards, press: Any, fleet: Fleet
) -> None:
    _, other, *_ = cards.uuids
    injection = press(GpuMemoryPressure((other,), take_mib=30_000), fire=False)
    (child,) = hogs(fleet.fresh(cards.node).pid)
    assert cards.used() == [EMPTY] * 4, "armed, yet nothing is taken"
    injection.fire()
    assert injection.observe()["bit"] is True, injection.evidence
    assert cards.used() == [EMPTY, EMPTY + 30_000, EMPTY, EMPTY]
    assert cards.parts()[other] == (EMPTY + 30_000, [child])
    injection.revert()
    assert is_gone(child) and cards.used() == [EMPTY] * 4
    told = injection.to_dict()
    assert (told["level"], told["ordered"], told["clean"]) == ("emulated", True, True)
    seen = {one["name"]: one["seen"] for one in told["evidence"]["pieces"]}
    assert seen["gpu-pressed"].startswith(
        "GPU 0 MIG 1: 30300 of 40960 MiB used, 300 before; 30000 were to be taken"
    )
    assert seen["gpu-holder"] == f"our child {child} holds 30000 MiB"
    assert seen["gpu-after"] == "300, 300, 300, 300 MiB used; our children are gone"


def test_pressure_that_an_instance_does_not_show_is_not_called_seen(
    cards: SplitCards, press: Any, fleet: Fleet
) -> None:
    """Its card is used as much as was asked for, and another instance of it, too."""
    first, other, *_ = cards.uuids
    injection = press(GpuMemoryPressure((other,), take_mib=5000), fire=False)
    (child,) = hogs(fleet.fresh(cards.node).pid)
    injection.fire()
    assert wait_for(lambda: cards.parts()[other][0] == EMPTY + 5000, 10)
    os.kill(child, signal.SIGKILL)
    with cards.user(5000, more={"CUDA_VISIBLE_DEVICES": first}):
        assert cards.used()[:2] == [EMPTY + 5000, EMPTY]
        assert injection.observe()["bit"] is not True, injection.evidence


def test_what_others_let_go_of_is_taken_and_all_returns_after_the_agents_sigkill(
    cards: SplitCards, press: Any, fleet: Fleet
) -> None:
    """Half of an instance's own memory, not of its card's; on two at once."""
    first, _, third, _ = cards.uuids
    fault = GpuMemoryPressure((first, third), share=0.5, keep=True, anyone=True)
    full = pytest.approx(TOTAL / 2, abs=4)
    with cards.user(10_000, more={"CUDA_VISIBLE_DEVICES": third}) as other:
        injection = press(fault)
        assert injection.observe()["bit"] is True, injection.evidence
        assert cards.used() == [full, EMPTY, full, EMPTY]
        other.kill()
        other.wait()
        assert wait_for(lambda: cards.used() == [full, EMPTY, full, EMPTY], 10)
        assert [len(users) for _, users in cards.parts().values()] == [1, 0, 1, 0]
    os.kill(fleet.fresh(cards.node).pid, signal.SIGKILL)
    assert wait_for(lambda: cards.used() == [EMPTY] * 4, 10)
    injection.revert()
    assert injection.to_dict()["healed_early"] is True


def test_a_child_on_an_instance_is_a_line_of_the_fingerprint_while_it_is_there(
    cards: SplitCards, press: Any, fleet: Fleet
) -> None:
    _, other, *_ = cards.uuids
    injection = press(GpuMemoryPressure((other,), take_mib=100))
    agent = fleet.fresh(cards.node)
    record = agent.ask("record", injection=injection.id)
    (line,) = set(record["owned"]) - {BLIND}
    assert line.startswith(f"gpu {other} process ")

    def ours() -> list[str]:
        lines = agent.ask("fingerprint", devices=[], looks=["gpus"])
        return [one for one in lines if " process " in one]

    assert ours() == [line], "once, though its card lists it as well"
    injection.revert()
    assert ours() == []
    told = injection.to_dict()
    assert told["clean"] is True and told["foreign_changes"] == {}


def test_recover_ends_the_child_that_a_hanging_agent_has_on_an_instance(
    cards: SplitCards, press: Any, fleet: Fleet
) -> None:
    injection = press(GpuMemoryPressure((cards.uuids[3],), take_mib=1000))
    assert cards.used() == [EMPTY, EMPTY, EMPTY, EMPTY + 1000]
    os.kill(fleet.fresh(cards.node).pid, signal.SIGSTOP)
    assert recover(force=True).healed
    assert cards.used() == [EMPTY] * 4
    injection.revert()
    assert injection.to_dict()["clean"] is True


def test_what_cannot_be_pressed_is_refused_and_nothing_is_taken(
    cards: SplitCards, press: Any, run: Any
) -> None:
    first, second, third, last = cards.uuids
    whole = gpulooks.look(run, "all", "0", 0.0)[0]["uuid"]
    mend = rf"split by MIG: name an instance: {first} \(0 MIG 0\), {second} \(0 MIG 1\);"
    there = rf"no MIG instance MIG-7 here: there is {first} \(0 MIG 0\), .*{last} \(1 MIG 1\)"
    for gpus in (("0",), (whole,), ("all",), (second, "0")):
        with pytest.raises(NotApplied, match=rf"gpu-memory: GPU 0 is {mend}"):
            press(GpuMemoryPressure(gpus, take_mib=1))
    for fault, said in (
        (GpuMemoryPressure(("MIG-7",), take_mib=1), there),
        (GpuMemoryPressure((third,), take_mib=41_000), "GPU 1 MIG 0 has 40660 MiB free of 40960"),
        (GpuMemoryPressure((third,), take_mib=1, used_by="vllm"), "uses GPU 1 MIG 0: nobody does"),
        (GpuComputePressure(("1",)), "GPU 1 is split by MIG, and NVML tells nobody how busy"),
    ):
        with pytest.raises(NotApplied, match=said):
            press(fault)
    with cards.user(100, more={"CUDA_VISIBLE_DEVICES": second}) as somebody:
        told = f"GPU 0 MIG 1 is used by process {somebody.pid} .* not named as a target"
        with pytest.raises(NotApplied, match=told):
            press(GpuMemoryPressure((second,), take_mib=1))
        press(GpuMemoryPressure((first,), take_mib=1)).revert()  # somebody is next door
    cards.mode(1, 3)
    with pytest.raises(NotApplied, match=r"GPU 1 MIG 0 is in exclusive.* -i 1 -c 0"):
        press(GpuMemoryPressure((third,), take_mib=1))
    cards.control(1, lost=1)
    cards.control(0, lost=1)
    with pytest.raises(NotApplied, match=f"no MIG instance {third} here: GPU 0 is lost"):
        press(GpuMemoryPressure((third,), take_mib=1))
    cards.control(0, lost=0)
    cards.control(1, lost=0)
    assert cards.used() == [EMPTY] * 4


def test_an_instance_of_a_card_that_is_not_split_is_none(tmp_path: Path, make: Any) -> None:
    cards = Cards(tmp_path)
    with pytest.raises(NotApplied, match=r"no MIG instance MIG-1 here: no GPU .* is split by MIG"):
        make(GpuMemoryPressure(("MIG-1",), take_mib=1), node=cards.node)
    assert cards.used() == [600, 600]


def test_a_card_that_is_split_and_has_no_instance_yet_says_how_to_get_one() -> None:
    card = {"index": 0, "mig": True, "lost": False, "instances": []}
    with pytest.raises(
        Invalid, match=r"GPU 0 is split by MIG: create an instance \(nvidia-smi mig"
    ):
        mig.check_not_whole(card, "gpu-memory")
    with pytest.raises(Invalid, match="but has none yet: create one"):
        mig.check_there("MIG-1", [card])


@pytest.mark.parametrize(
    ("make_fault", "said"),
    [
        (GpuComputePressure, "NVML tells nobody how busy one is"),
        (GpuLoss, "an Xid is its whole card's"),
        (partial(GpuSlowdown, power_w=300, allowed=True), "clocks and power limits are"),
    ],
)
def test_what_is_the_whole_cards_is_refused_before_any_host_is_asked(
    make_fault: Any, said: str
) -> None:
    with pytest.raises(InvalidFault, match=f"MIG-1 is a MIG instance, and {said}"):
        make_fault(("0", "MIG-1"))
    make_fault(("0",))


def test_what_probes_read_of_an_instance(cards: SplitCards, run: Any) -> None:
    _, other, *_ = cards.uuids
    place = {**ALL, "gpus": other}
    with cards.user(20_180, more={"CUDA_VISIBLE_DEVICES": other}) as user:
        (part,) = gpulooks.look(run, "all", other, 0.3)
        ask = partial(gpulooks.figure, run)
        assert ask("memory_used_mib", place, HOW) == EMPTY + 20_180
        assert ask("memory_used_percent", place, HOW) == 50
        assert ask("memory_used_mib", {**ALL, "gpus": cards.uuids[0]}, HOW) == EMPTY
        assert ask("memory_used_mib", {**ALL, "gpus": "0"}, HOW) == 2 * EMPTY + 20_180
    assert (part["index"], part["parent"], part["gpu_instance"]) == ("0 MIG 1", 0, 2)
    assert part["window"]["memory_free_mib"]["min"] == TOTAL - EMPTY - 20_180
    assert part["window"]["memory_used_mib"]["count"] >= 2
    (process,) = part["processes"]
    assert (process["pid"], process["used_mib"]) == (user.pid, 20_180)
    assert (part["power_w"], part["utilisation_percent"]) == (None, None)
    for what in ("utilisation_percent", "power_w", "last_xid", "ecc_uncorrected"):
        with pytest.raises(Unsupported, match=f"GPU 0 MIG 1 .*its memory .*, not its {what}"):
            ask(what, place, HOW)
    with pytest.raises(Unsupported, match="GPU 0 of gpu-host doesn't tell its utilisation"):
        ask("utilisation_percent", ALL, HOW)
    with pytest.raises(Unsupported, match="Xids are the whole card's: name GPU 0"):
        gpulooks.xids(run, place, 0.0, "nvml")
    with pytest.raises(InvalidInput, match=rf"'MIG-7': there is 0, 0 MIG 0 \({cards.uuids[0]}\)"):
        gpulooks.look(run, "all", "MIG-7", 0.0)
    assert [card["index"] for card in gpulooks.look(run, "all", "all", 0.0)] == [0, 1]
