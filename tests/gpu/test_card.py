"""On a real card: what we take, NVML sees; what we let go, is free; what we run, others feel."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from aftershock import cudashim
from aftershock.agent import gpu
from aftershock.faults.cudalock import CudaLock
from aftershock.faults.gpu import GpuComputePressure, GpuMemoryPressure
from aftershock.faults.gpuloss import GpuLoss
from aftershock.faults.processes import Processes

from .conftest import HERE

pytestmark = [pytest.mark.gpu, pytest.mark.root, pytest.mark.timeout(300)]

SERVER = Path(__file__).with_name("serving.py")
LOOP = """
import ctypes, time
cuda = ctypes.CDLL("libcuda.so.1")
device, context = ctypes.c_int(), ctypes.c_void_p()
address, size = ctypes.c_uint64(), ctypes.c_size_t(2 << 20)
assert cuda.cuInit(0) == cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
assert cuda.cuCtxSetCurrent(context) == 0
while True:
    assert cuda.cuMemAlloc_v2(ctypes.byref(address), size) == cuda.cuMemFree_v2(address) == 0
    print(flush=True)
    time.sleep(0.01)
"""
PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
CONTEXT_MIB = 1024  # of our child: what the driver itself takes, at most


def used_mib() -> float:
    return float(gpu.gpus()[0]["memory_used_mib"])


@contextmanager
def serving(hidden: int, more: dict[str, str] | None = None) -> Iterator[Any]:
    """A server of a small model; call it with a batch size for its answer."""
    pytest.importorskip("torch", reason="PyTorch is not installed: its server is not tested")
    command = [sys.executable, str(SERVER), str(hidden)]
    with subprocess.Popen(command, env={**os.environ, **(more or {})}, **PIPES) as process:
        assert process.stdin and process.stdout
        assert json.loads(process.stdout.readline()) == {"ready": True}

        def ask(batch: int) -> dict[str, Any]:
            assert process.stdin and process.stdout
            process.stdin.write(f"{batch}\n")
            process.stdin.flush()
            return dict(json.loads(process.stdout.readline()))

        ask.pid = process.pid  # type: ignore[attr-defined]
        try:
            yield ask
        finally:
            process.kill()


def test_most_of_the_card_is_taken_seen_by_nvml_and_freed_after_sigkill(
    card: dict[str, Any], figures: dict[str, Any], inject: Any, fleet: Any
) -> None:
    wanted = int(0.8 * card["memory_free_mib"])
    before = used_mib()
    injection = inject(GpuMemoryPressure(("0",), take_mib=wanted), fire=False)
    figures["context_mib"] = round(used_mib() - before)
    assert used_mib() - before < CONTEXT_MIB, "armed, yet no more than a context is taken"
    armed, began = used_mib(), time.monotonic()
    injection.fire()
    while used_mib() - armed < 0.98 * wanted and time.monotonic() < began + 30:
        time.sleep(0.01)
    figures["taken_mib"], figures["taken_s"] = wanted, round(time.monotonic() - began, 3)
    assert used_mib() - armed == pytest.approx(wanted, rel=0.02)
    assert injection.observe()["bit"] is True, injection.evidence
    os.kill(fleet.fresh(HERE).pid, signal.SIGKILL)
    killed = time.monotonic()
    while used_mib() > before + 64 and time.monotonic() < killed + 30:
        time.sleep(0.01)
    figures["freed_s"] = round(time.monotonic() - killed, 3)
    assert used_mib() <= before + 64
    injection.revert()


def test_memory_of_a_mig_instance_is_taken_freed_after_sigkill_and_its_neighbours_is_not(
    instances: list[dict[str, Any]], figures: dict[str, Any], inject: Any, fleet: Any
) -> None:
    def used() -> list[float]:
        return [one["memory_used_mib"] for one in gpu.looked_at()[0]["instances"]]

    wanted, (was, *others) = int(0.8 * instances[0]["memory_free_mib"]), used()
    injection = inject(GpuMemoryPressure((instances[0]["uuid"],), take_mib=wanted))
    assert injection.observe()["bit"] is True, injection.evidence
    pressed, *beside = used()
    figures["taken_mib_of_an_instance"] = round(pressed - was)
    assert 0.98 * wanted <= pressed - was < wanted + CONTEXT_MIB
    assert beside == pytest.approx(others, abs=64)
    os.kill(fleet.fresh(HERE).pid, signal.SIGKILL)
    killed = time.monotonic()
    while used()[0] > was + 64 and time.monotonic() < killed + 30:
        time.sleep(0.01)
    assert used() == pytest.approx([was, *others], abs=64)
    injection.revert()


def test_memory_in_every_other_block_is_held_and_tried_whatever_a_card_makes_of_it(
    card: dict[str, Any], figures: dict[str, Any], inject: Any, fleet: Any
) -> None:
    """Whether a large allocation fails then is what nobody knows: it is written down."""
    wanted = int(0.42 * card["memory_free_mib"])
    injection = inject(GpuMemoryPressure(("0",), take_mib=wanted, block_mib=2), fire=False)
    armed = used_mib()
    injection.fire()
    bit = injection.observe()["bit"]
    agent = fleet.fresh(HERE)
    ((step,),) = (one["cards"] for one in agent.ask("observe", injection=injection.id))
    assert used_mib() - armed == pytest.approx(wanted, rel=0.02)
    before, during = step["before"], agent.ask("gpu_room", 15.0, uuid=card["uuid"])
    figures["in_blocks_s"] = round(step["took_s"], 3)
    figures["largest_allocation"] = {"before": before, "during": during}
    was, share = (one["largest_mib"] / one["free_mib"] for one in (before, during))
    assert bit is (was >= 0.9 and share < 0.5), injection.evidence
    injection.revert()
    after = agent.ask("gpu_room", 15.0, uuid=card["uuid"])
    figures["largest_allocation"]["after"] = after
    assert after["largest_mib"] >= 0.9 * before["largest_mib"]


def test_reading_nvml_ten_times_a_second_costs_little(figures: dict[str, Any]) -> None:
    began = time.process_time()
    (first, *_) = gpu.looked_at(5.0)
    share = (time.process_time() - began) / 5.0
    figures["nvml_10_hz_core_percent"] = round(100 * share, 2)
    assert first["window"]["power_w"]["count"] > 40


def test_compute_pressure_shows_and_is_felt(figures: dict[str, Any], inject: Any) -> None:
    injection = inject(GpuComputePressure(("0",), duty_percent=60))
    assert injection.observe()["bit"] is True, injection.evidence
    (first, *_) = gpu.looked_at(3.0)
    figures["busy_at_60_percent"] = round(first["window"]["utilisation_percent"]["mean"])
    injection.revert()
    with serving(4096) as ask:
        alone = median(ask(64)["took_s"] for _ in range(50))
        full = inject(GpuComputePressure(("0",), duty_percent=100, anyone=True))
        pressed = median(ask(64)["took_s"] for _ in range(50))
        full.revert()
        figures["torch_ms_alone"], figures["torch_ms_pressed"] = (
            round(1000 * one, 2) for one in (alone, pressed)
        )
        assert pressed > 1.2 * alone


def test_a_server_runs_out_of_memory_under_pressure_and_recovers(inject: Any) -> None:
    with serving(8192) as ask:
        assert "took_s" in ask(4096)
        short = inject(GpuMemoryPressure(("0",), free_mib=128, anyone=True))
        said = ask(65536)
        assert said.get("kind") == "OutOfMemoryError", said
        short.revert()
        assert "took_s" in ask(65536)


def test_a_locked_process_stands_and_goes_on_though_agent_and_locker_are_gone(
    card: dict[str, Any], figures: dict[str, Any], inject: Any, fleet: Any
) -> None:
    with subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE) as looping:
        try:
            assert looping.stdout and looping.stdout.readline()
            os.set_blocking(looping.stdout.fileno(), False)
            injection, began = inject(CudaLock(Processes(pid=looping.pid)), fire=False), time.time()
            injection.fire()
            figures["cuda_lock_s"] = round(time.time() - began, 3)
            time.sleep(0.5)
            looping.stdout.read()
            assert injection.observe()["bit"] is True, injection.evidence
            assert not looping.stdout.read(), "it stands in its next call"
            os.kill(fleet.fresh(HERE).pid, signal.SIGKILL)
            killed = time.monotonic()
            while not looping.stdout.read() and time.monotonic() < killed + 20:
                time.sleep(0.01)
            figures["cuda_unlocked_s"] = round(time.monotonic() - killed, 3)
            assert time.monotonic() < killed + 20, "the watcher unlocks"
            injection.revert()
            assert injection.to_dict()["clean"]
        finally:
            looping.kill()


@pytest.mark.parametrize(
    ("error", "said"), [("out-of-memory", "out of memory"), ("illegal-address", "illegal memory")]
)
def test_calls_of_a_server_fail_as_chosen(
    inject: Any, tmp_path: Path, error: str, said: str
) -> None:
    more = cudashim.environment(cudashim.build(), str(tmp_path / "orders"))
    with serving(1024, more) as ask:
        assert "took_s" in ask(64)
        lost = inject(GpuLoss(processes=Processes(pid=ask.pid), error=error, xid=0))
        assert said in ask(64)["failed"].lower()
        assert lost.observe()["bit"] is True, lost.evidence
        lost.revert()
        if error == "out-of-memory":  # after the other, a real process has to start anew
            assert "took_s" in ask(64)
