"""CUDA calls that fail in a process, and an Xid that monitoring shows; each is half a lost GPU."""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cards import Cards, works
from wires import wait_for

from aftershock import cudashim
from aftershock.errors import InvalidFault, NotApplied
from aftershock.faults.gpuloss import ERRORS, GpuLoss
from aftershock.faults.processes import Processes
from aftershock.hosts.fleet import Fleet

LOST = ERRORS["device-lost"]


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


@pytest.fixture
def shim(tmp_path: Path) -> dict[str, str]:
    return cudashim.environment(cudashim.build(), str(tmp_path / "orders"))


@pytest.fixture
def lose(cards: Cards, make: Any) -> Any:
    """Arm and fire on the host of the cards; whatever happens, it is reverted."""
    return partial(make, node=cards.node)


def shown(cards: Cards, index: int = 0) -> int:
    """The Xid that `dcgmi` shows."""
    words = ["dcgmi", "dmon", "-e", "230", "-c", "1", "-i", str(index)]
    env = {**os.environ, **cards.env}
    told = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout
    return int(told.split()[-1])


def test_a_lost_gpu_fails_its_process_and_shows_to_monitoring_until_the_heal(
    cards: Cards, shim: dict[str, str], lose: Any
) -> None:
    with cards.user(100, more=shim) as victim, cards.user(100) as other:
        which = Processes(pid=victim.pid)
        injection = lose(GpuLoss(processes=which, newcomers=False), fire=False)
        assert (works(victim), shown(cards)) == (0, 0), "armed, yet nothing is felt"
        injection.fire()
        assert (works(victim), works(other)) == (LOST, 0)
        assert (shown(cards, 0), shown(cards, 1)) == (79, 0)
        assert injection.observe()["bit"] is True, injection.evidence
        told = injection.to_dict()
        names = {piece["name"] for piece in told["evidence"]["pieces"]}
        assert (names, told["level"]) == ({"cuda-failing", "xid-shown"}, "emulated")
        with cards.user(100, more=shim) as newcomer:
            assert works(newcomer) == 0, "in one process, not in those that come after"
        injection.revert()
        assert (works(victim), shown(cards)) == (0, 0)
        assert injection.to_dict()["clean"] is True


def test_half_a_fault_says_so_and_chooses_calls_and_error(
    cards: Cards, shim: dict[str, str], lose: Any
) -> None:
    with cards.user(100, more=shim) as victim:
        which = Processes(pid=victim.pid)
        alloc = lose(GpuLoss(processes=which, xid=0, calls=("cuMemAlloc_v2",), error="ecc"))
        assert works(victim) == 0, "another call"
        assert alloc.observe(within_s=0.5)["bit"] is False
        alloc.revert()
        chosen = lose(GpuLoss(processes=which, xid=0, calls=("cuCtxSynchronize",), error="ecc"))
        assert works(victim) == ERRORS["ecc"]
        assert chosen.observe()["bit"] is True
        (half,) = [one for one in chosen.evidence["pieces"] if one["name"] == "half"]
        assert half["ok"] is None and "monitoring is told nothing" in half["seen"]
        chosen.revert()
    telemetry = lose(GpuLoss(("1",), xid=48))
    assert telemetry.observe()["bit"] is True and shown(cards, 1) == 48
    (half,) = [one for one in telemetry.evidence["pieces"] if one["name"] == "half"]
    assert "its processes hear nothing" in half["seen"]


def test_the_agents_death_and_the_deadline_end_it(
    cards: Cards, shim: dict[str, str], lose: Any, fleet: Fleet
) -> None:
    with cards.user(100, more=shim) as victim:
        which = Processes(pid=victim.pid)
        killed = lose(GpuLoss(processes=which))
        assert works(victim) == LOST
        os.kill(fleet.fresh(cards.node).pid, signal.SIGKILL)
        assert wait_for(lambda: works(victim) == 0, 10)
        assert wait_for(lambda: shown(cards) == 0, 20), "the watcher tells DCGM of none"
        killed.revert()
        stopped = lose(GpuLoss(processes=which, xid=0), lease_s=2)
        assert works(victim) == LOST
        agent = fleet.fresh(cards.node).pid
        os.kill(agent, signal.SIGSTOP)
        began = time.monotonic()
        assert wait_for(lambda: works(victim) == 0, 20), "its time is inside the order"
        assert time.monotonic() - began < 60
        os.kill(agent, signal.SIGCONT)
        stopped.revert()


def test_a_dcgmi_that_is_under_way_ends_with_its_agent(
    cards: Cards, lose: Any, fleet: Fleet, tmp_path: Path
) -> None:
    """Else it may tell of the Xid after the watcher told of none, and nobody takes that back."""
    under_way, slow = tmp_path / "under-way", tmp_path / "bin" / "dcgmi"
    real = shutil.which("dcgmi", path=cards.env["PATH"])
    slow.parent.mkdir()
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *"-v 79") echo >> {under_way}; sleep 2;; esac\nexec {real} "$@"\n'
    )
    slow.chmod(0o755)
    env = {**cards.env, "PATH": f"{slow.parent}:{cards.env['PATH']}"}
    node = replace(cards.node, env=env)
    injection = lose(GpuLoss(("0",), xid=79), node=node)
    under_way.unlink()
    assert wait_for(under_way.exists, 10), "it is told again"
    os.kill(fleet.fresh(node).pid, signal.SIGKILL)
    time.sleep(3)
    assert shown(cards) == 0
    injection.revert()


def test_refusals(cards: Cards, lose: Any) -> None:
    for words, said in (
        ({"error": "boredom"}, "error 'boredom': one of out-of-memory"),
        ({"xid": 0}, "nothing would happen"),
        ({"xid": 1000}, "xid 1000: 1 to 999"),
        ({"calls": ("malloc",)}, "calls: 'malloc': names of the driver API"),
        ({"xid": 0, "kernel_log": True, "processes": Processes(pid=2)}, "nothing to write"),
    ):
        with pytest.raises(InvalidFault, match=said):
            GpuLoss(**words)
    with cards.user(100) as bare:
        with pytest.raises(NotApplied, match=f"process {bare.pid} .* without libaftershock_cuda"):
            lose(GpuLoss(processes=Processes(pid=bare.pid)))
        assert works(bare) == 0 and shown(cards) == 0
    with pytest.raises(NotApplied, match="no GPU 5 here"):
        lose(GpuLoss(("5",)))
