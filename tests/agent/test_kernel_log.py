"""Xids in the kernel's log: NVIDIA's lines as drivers wrote them, and real lines in /dev/kmsg."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cards import Cards

from aftershock.agent import kernellog
from aftershock.errors import InvalidInput
from aftershock.faults.gpu import GpuMemoryPressure
from aftershock.faults.gpuloss import GpuLoss
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Inventory
from aftershock.run import gpulooks

SECOND = "0000:3c:00"  # where the mock has its second card
OURS = "a test of Aftershock, nothing is wrong"
writes = pytest.mark.skipif(
    not os.access(kernellog.KMSG, os.R_OK | os.W_OK),
    reason="/dev/kmsg can't be read and written here: run the tests as root",
)
RECORDS = [  # as /dev/kmsg gives them; messages in the forms of several drivers
    b"6,338,2012006,-;pci 0000:3b:00.0: [10de:2330] type 00 class 0x030200\n SUBSYSTEM=pci\n",
    b"4,901,88201455,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.90.07\n",
    b"3,1207,5120033871,-;NVRM: GPU at PCI:0000:3b:00: GPU-8f6f0a1b-1c2d-4e5f-8a9b-0c1d2e3f4a5b\n",
    b"3,1208,5120033902,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=21455, name=python3, Ch 00000008, "
    b"intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_T1_0 faulted @ 0x7f32_14000000.\n",
    b"3,1209,5120071002,-;NVRM: Xid (PCI:0000:AF:00): 79, GPU has fallen off the bus.\n",
    b"4,1210,5120071009,-;NVRM: Xid (0000:03:00): 13, Graphics Exception: ESR 0x404490\n",
    b"12,1211,5120099000,-;NVRM: Xid (PCI:0000:3b:00): 48, somebody wrote this\n",
    b"6,1212,5120099999,-;systemd[1]: read 'NVRM: Xid (PCI:0000:3b:00): 94' in a file\n",
]


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


@contextmanager
def writing(line: str) -> Iterator[None]:
    """A line that comes again and again."""
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.2):
            kernellog.write(line)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()


def test_lines_of_several_drivers_and_of_a_process() -> None:
    found = kernellog.xids_of(map(kernellog.parse, RECORDS))
    told = [(one["pci"], one["xid"], one["by_driver"]) for one in found]
    assert told == [
        ("0000:3b:00", 31, True),
        ("0000:af:00", 79, True),
        ("0000:03:00", 13, True),
        ("0000:3b:00", 48, False),
    ]
    assert found[0]["said"].startswith("pid=21455, name=python3, Ch 00000008")
    assert found[1]["said"] == "GPU has fallen off the bus."


@pytest.mark.root
@writes
def test_only_what_came_since_is_told_and_that_no_driver_wrote_it() -> None:
    kernellog.write(f"NVRM: Xid (PCI:{SECOND}): 61, {OURS}")
    began = kernellog.read()
    assert began["xids"] == [] and began["at"] > 0
    kernellog.write(f"NVRM: Xid (PCI:{SECOND}): 62, {OURS}")
    kernellog.write(f"beside: NVRM: Xid (PCI:{SECOND}): 63, {OURS}")
    told = kernellog.read(began["at"])
    ours = [one for one in told["xids"] if one["said"] == OURS]
    assert ours == [{"pci": SECOND, "xid": 62, "said": OURS, "by_driver": False}]
    assert told["at"] > began["at"] and not told["missed"]
    assert kernellog.read(-2)["missed"] is True, "records before the first there is"


@pytest.mark.root
@writes
def test_an_xid_while_a_gpu_is_pressed_is_in_the_evidence(
    cards: Cards, make: Callable[..., Any]
) -> None:
    kernellog.write(f"NVRM: Xid (PCI:{SECOND}): 64, {OURS}: before the arming")
    injection = make(GpuMemoryPressure(("1",), take_mib=100), node=cards.node)
    kernellog.write(f"NVRM: Xid (PCI:{SECOND}): 31, {OURS}")
    assert injection.observe()["bit"] is True
    injection.revert()
    told = injection.to_dict()
    (piece,) = [one for one in told["evidence"]["pieces"] if one["name"] == "kernel-log"]
    assert f"31 of {SECOND}, {OURS} (written by a process, not by the driver)" in piece["seen"]
    assert piece["ok"] is None and "before the arming" not in piece["seen"]
    assert told["bit"] is True and told["clean"] is True, "it judges nothing"


@pytest.mark.root
@writes
def test_an_injected_xid_is_seen_in_the_log_in_the_drivers_own_form(
    cards: Cards, make: Callable[..., Any]
) -> None:
    injection = make(GpuLoss(("1",), xid=95, kernel_log=True), node=cards.node)
    assert injection.observe()["bit"] is True, injection.evidence
    pieces = {one["name"]: one for one in injection.evidence["pieces"]}
    assert pieces["xid-logged"]["ok"] is True
    assert f"95 of {SECOND}, injected by Aftershock" in pieces["xid-logged"]["seen"]
    injection.revert()
    after = {one["name"]: one for one in injection.evidence["pieces"]}["kernel-log"]
    assert "95 of" in after["seen"] and "not by the driver" in after["seen"]


@pytest.mark.root
@writes
def test_the_probe_tells_both_witnesses_of_one_card(cards: Cards, fleet: Fleet) -> None:
    target = SimpleNamespace(inventory=Inventory("cards", (cards.node,), "", ""), agents=fleet)
    run: Any = SimpleNamespace(target=target)
    fleet.fresh(cards.node)
    place = {"where": "all", "gpus": "1"}
    line = f"NVRM: Xid (PCI:{SECOND}): 119, {OURS}"
    with writing(line):
        told = gpulooks.xids(run, place, 1.0, "kernel-log")
    which = {"node": "gpu-host", "index": 1}
    assert {**which, "xid": 119, "said": OURS, "by_driver": False} in told
    assert gpulooks.xids(run, place, 0.0, "nvml") == [], "NVML knows nothing of it"
    cards.control(1, lost=1)
    with writing(line):
        told = gpulooks.xids(run, place, 1.0, "kernel-log")
    assert 119 in [one["xid"] for one in told], "a lost card tells no address"
    with pytest.raises(InvalidInput, match="source 'dmesg': nvml or kernel-log"):
        gpulooks.xids(run, place, 0.0, "dmesg")
