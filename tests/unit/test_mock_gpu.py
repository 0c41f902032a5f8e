"""The GPU's stand-in, through unmodified pynvml and libcuda, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aftershock.errors import Unsupported
from aftershock.lab import gpu
from aftershock.lab.gpu.ledger import utilisation_percent

GIB = 1 << 30
HOLD = """
import ctypes, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
assert cuda.cuInit(0) == 0
context = ctypes.c_void_p()
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
address = ctypes.c_uint64()
print(cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(int(sys.argv[1]))), flush=True)
for command in sys.stdin:
    if command == "free\\n":
        print(cuda.cuMemFree_v2(address), flush=True)
    if command == "work\\n":
        print(cuda.mockgpu_ran(ctypes.c_uint64(500_000_000)), flush=True)
"""
FRAGMENT = """
import ctypes, os, sys
cuda = ctypes.CDLL("libcuda.so.1")
context, held = ctypes.c_void_p(), []

def begin():
    assert cuda.cuInit(0) == 0
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert cuda.cuCtxSetCurrent(context) == 0

def allocate(mib):
    address = ctypes.c_uint64()
    result = cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(mib << 20))
    if not result:
        held.append(address.value)
    return result

def free(address):
    return cuda.cuMemFree_v2(ctypes.c_uint64(address))

begin()
block = int(sys.argv[1])
while not allocate(block):
    pass
assert not any(map(free, held[1::2]))
del held[1::2]
for line in sys.stdin:
    print(eval(line), flush=True)
"""
LOOP = """
import ctypes, time
cuda = ctypes.CDLL("libcuda.so.1")
context, address, size = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_size_t(1 << 20)
assert cuda.cuInit(0) == cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
while True:
    assert cuda.cuMemAlloc_v2(ctypes.byref(address), size) == cuda.cuMemFree_v2(address) == 0
    print(flush=True)
    time.sleep(0.001)
"""
LOCKER = """
import ctypes, sys
cuda, state = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(-1)
assert cuda.cuInit(0) == 0
pid = int(sys.argv[2])
if sys.argv[1] == "GetState":
    result = cuda.cuCheckpointProcessGetState(pid, ctypes.byref(state))
else:
    result = getattr(cuda, f"cuCheckpointProcess{sys.argv[1]}")(pid, (ctypes.c_uint64 * 8)())
print(result, state.value)
"""
INVALID, ILLEGAL_STATE = 1, 401
READ = """
import json, pynvml as n
n.nvmlInit()
card = n.nvmlDeviceGetHandleByIndex(0)
uuid = n.nvmlDeviceGetUUID(card)
n.nvmlDeviceGetHandleByUUID(uuid)
memory = n.nvmlDeviceGetMemoryInfo(card)
version_2 = n.nvmlDeviceGetMemoryInfo(card, n.nvmlMemory_v2)
assert memory.used == version_2.used + version_2.reserved
assert memory.free == version_2.free == memory.total - memory.used
print(json.dumps({
    "count": n.nvmlDeviceGetCount(), "name": n.nvmlDeviceGetName(card), "uuid": uuid,
    "total": memory.total, "used": version_2.used,
    "busy": n.nvmlDeviceGetUtilizationRates(card).gpu,
    "watts": n.nvmlDeviceGetPowerUsage(card) / 1000,
    "celsius": n.nvmlDeviceGetTemperatureV(card, n.NVML_TEMPERATURE_GPU),
    "mhz": n.nvmlDeviceGetClockInfo(card, n.NVML_CLOCK_SM),
    "holders": {p.pid: p.usedGpuMemory for p in n.nvmlDeviceGetComputeRunningProcesses(card)},
}))
n.nvmlShutdown()
"""
READ_SPLIT = """
import json, pynvml as n
n.nvmlInit()

def said(what, *told):
    try:
        return what(*told)
    except n.NVMLError as error:
        return str(error)

def of(handle):
    uuid, memory = n.nvmlDeviceGetUUID(handle), n.nvmlDeviceGetMemoryInfo(handle)
    version_2 = n.nvmlDeviceGetMemoryInfo(handle, n.nvmlMemory_v2)
    assert memory.used == version_2.used + version_2.reserved
    assert memory.free == version_2.free == memory.total - memory.used
    assert n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByUUID(uuid)) == uuid
    return {
        "uuid": uuid, "name": n.nvmlDeviceGetName(handle),
        "index": n.nvmlDeviceGetIndex(handle), "total": memory.total, "used": memory.used,
        "busy": said(lambda: n.nvmlDeviceGetUtilizationRates(handle).gpu),
        "watts": said(lambda: n.nvmlDeviceGetPowerUsage(handle) // 1000),
        "is_part": n.nvmlDeviceIsMigDeviceHandle(handle).value,
        "users": [[p.pid, p.usedGpuMemory, p.gpuInstanceId, p.computeInstanceId]
                  for p in n.nvmlDeviceGetComputeRunningProcesses(handle)],
    }

found = []
for index in range(n.nvmlDeviceGetCount()):
    card, parts = n.nvmlDeviceGetHandleByIndex(index), []
    for number in range(n.nvmlDeviceGetMaxMigDeviceCount(card)):
        part = said(n.nvmlDeviceGetMigDeviceHandleByIndex, card, number)
        if part == "Not Found":
            continue
        parent = n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)
        parts.append({
            **of(part), "parent": n.nvmlDeviceGetUUID(parent),
            "ids": [n.nvmlDeviceGetGpuInstanceId(part), n.nvmlDeviceGetComputeInstanceId(part)],
        })
    found.append({
        **of(card), "mode": said(n.nvmlDeviceGetMigMode, card), "parts": parts,
        "most": n.nvmlDeviceGetMaxMigDeviceCount(card),
        "id": said(n.nvmlDeviceGetGpuInstanceId, card),
        "first": str(said(n.nvmlDeviceGetMigDeviceHandleByIndex, card, 0)),
        "beyond": str(said(n.nvmlDeviceGetMigDeviceHandleByIndex, card, 7)),
    })
print(json.dumps(found))
"""
DEVICES = """
import ctypes, json
cuda, count, size = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_size_t()
if cuda.cuInit(0):
    print(json.dumps([0, 0, 0]))
    raise SystemExit
cuda.cuDeviceGetCount(ctypes.byref(count))
cuda.cuDeviceTotalMem_v2(ctypes.byref(size), 0)
processors = ctypes.c_int()
cuda.cuDeviceGetAttribute(ctypes.byref(processors), 16, 0)
print(json.dumps([count.value, size.value >> 30, processors.value]))
"""


class Card:
    """One node's card."""

    def __init__(
        self, ledger: Path, count: int = 1, mig: int = 0, contiguous: bool = False
    ) -> None:
        made = gpu.environment(str(gpu.build()), str(ledger), count, mig, contiguous)
        self.env = {**os.environ, **made}

    def asked(self, code: str, **more: str) -> Any:
        command, env = [sys.executable, "-c", code], {**self.env, **more}
        ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return json.loads(ran.stdout)

    def read(self) -> dict[str, Any]:
        command = [sys.executable, "-c", READ]
        ran = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True)
        return dict(json.loads(ran.stdout))

    def hold(self, size: int, code: str = HOLD, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(size)],
            env={**self.env, **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def lock(self, verb: str, pid: int) -> list[int]:
        """What a process of its own is told by cuCheckpointProcess…: the result, the state."""
        command = [sys.executable, "-c", LOCKER, verb, str(pid)]
        ran = subprocess.run(command, env=self.env, capture_output=True, text=True, check=True)
        return [int(word) for word in ran.stdout.split()]


def say(process: subprocess.Popen[str], command: str = "") -> int:
    assert process.stdin
    assert process.stdout
    if command:
        process.stdin.write(f"{command}\n")
        process.stdin.flush()
    return int(process.stdout.readline())


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Card]:
    yield Card(tmp_path / "ledger")


def test_an_idle_card(card: Card) -> None:
    seen = card.read()
    assert (seen["count"], seen["total"], seen["used"], seen["busy"]) == (1, 80 * GIB, 0, 0)
    assert (seen["watts"], seen["celsius"], seen["holders"]) == (70, 34, {})
    assert seen["uuid"] == card.read()["uuid"]


def test_memory_is_its_holders_and_returns_with_free_and_with_sigkill(card: Card) -> None:
    with card.hold(10 * GIB) as first, card.hold(20 * GIB) as second:
        assert say(first) == say(second) == 0
        assert card.read()["holders"] == {str(first.pid): 10 * GIB, str(second.pid): 20 * GIB}
        assert card.read()["used"] == 30 * GIB
        assert say(first, "free") == 0
        assert card.read()["used"] == 20 * GIB
        second.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, second.pid, os.WEXITED | os.WNOWAIT)
        assert card.read()["used"] == 0, "a zombie holds nothing"


def test_a_full_card_says_so(card: Card) -> None:
    with card.hold(79 * GIB) as first:
        assert say(first) == 0
        with card.hold(2 * GIB) as second:
            assert say(second) == 2


def test_a_split_card_tells_of_its_instances_as_nvml_does(tmp_path: Path) -> None:
    cards = Card(tmp_path / "ledger", count=2, mig=2).asked(READ_SPLIT)
    for index, card in enumerate(cards):
        assert (card["mode"], card["most"], card["beyond"]) == ([1, 1], 7, "Invalid Argument")
        assert (card["index"], card["total"], card["used"] >> 20) == (index, 80 * GIB, 600)
        assert (card["busy"], card["watts"]) == ("Not Supported", 70)
        assert (card["is_part"], card["id"]) == (0, "Invalid Argument")
        for number, part in enumerate(card["parts"]):
            assert part["uuid"].startswith("MIG-") and part["name"].endswith("MIG 3g.40gb")
            assert (part["is_part"], part["parent"]) == (1, card["uuid"])
            assert (part["index"], part["ids"]) == (number, [number + 1, 0])
            assert (part["total"], part["used"] >> 20, part["users"]) == (40 * GIB, 300, [])
            assert (part["busy"], part["watts"]) == ("Not Supported", "Not Supported")
    uuids = {part["uuid"] for card in cards for part in card["parts"]}
    assert [len(card["parts"]) for card in cards] == [2, 2] and len(uuids) == 4
    assert {len(uuid) for uuid in uuids} == {40}


def test_a_card_that_is_not_split_knows_of_no_instance(card: Card) -> None:
    (whole,) = card.asked(READ_SPLIT)
    assert (whole["mode"], whole["most"], whole["parts"]) == ("Not Supported", 0, [])
    assert whole["first"] == whole["beyond"] == "Not Supported"
    assert (whole["busy"], whole["is_part"]) == (0, 0)
    with card.hold(GIB) as holder:
        assert say(holder) == 0
        ((_, _, *ids),) = card.asked(READ_SPLIT)[0]["users"]
        assert ids == [2**32 - 1] * 2, "no instance's"
    assert card.asked(DEVICES) == [1, 80, 132]
    assert card.asked(DEVICES, CUDA_VISIBLE_DEVICES="MIG-1") == [0, 0, 0]


def test_cuda_sees_one_instance_with_its_own_memory(tmp_path: Path) -> None:
    card = Card(tmp_path / "ledger", mig=2)
    (was,) = card.asked(READ_SPLIT)
    first, second = (part["uuid"] for part in was["parts"])
    for told in ({}, {"CUDA_VISIBLE_DEVICES": f"{second},{first}"}):
        assert card.asked(DEVICES, **told) == [1, 40, 66], "one, with its share of the processors"
    with (
        card.hold(30 * GIB, CUDA_VISIBLE_DEVICES=second) as there,
        card.hold(GIB, CUDA_VISIBLE_DEVICES=was["uuid"]) as here,
    ):
        assert say(there) == say(here) == 0
        with card.hold(10 * GIB, CUDA_VISIBLE_DEVICES=second) as late:
            assert say(late) == 2, "its instance is full, the card is not"
        (now,) = card.asked(READ_SPLIT)
        assert [part["users"] for part in now["parts"]] == [
            [[here.pid, GIB, 1, 0]],
            [[there.pid, 30 * GIB, 2, 0]],
        ]
        assert sorted(now["users"]) == sorted(now["parts"][0]["users"] + now["parts"][1]["users"])
        risen = [
            new["used"] - old["used"] for new, old in zip(now["parts"], was["parts"], strict=True)
        ]
        assert (risen, now["used"] - was["used"]) == ([GIB, 30 * GIB], 31 * GIB)
        there.kill()
        there.wait()
        (after,) = card.asked(READ_SPLIT)
        assert [part["used"] >> 20 for part in after["parts"]] == [300 + 1024, 300]


def allocates(process: subprocess.Popen[str], mib: int) -> bool:
    """Whether a process in blocks of its own gets so much in one piece."""
    return say(process, f"allocate({mib})") == 0


@pytest.fixture
def contiguous(tmp_path: Path) -> Card:
    return Card(tmp_path / "ledger", contiguous=True)


def test_a_paged_card_gives_what_is_free_in_bits_and_pieces(card: Card) -> None:
    with card.hold(100, FRAGMENT) as process:
        assert allocates(process, 40_000) and card.read()["used"] > 78 * GIB


def test_a_contiguous_card_gives_no_more_than_its_largest_hole(
    contiguous: Card, tmp_path: Path
) -> None:
    with contiguous.hold(100, FRAGMENT) as process:
        assert say(process, "0") == 0, "it is in blocks by now"
        with contiguous.hold(200 << 20) as other:
            assert say(other) == 2, "to another process as well"
        used = contiguous.read()["used"]
        assert used == pytest.approx(40_700 << 20, rel=0.01)
        assert not allocates(process, 101)
        assert allocates(process, 60) and allocates(process, 40), "two in the first hole"
        assert contiguous.read()["used"] == used + (100 << 20)
        assert say(process, "free(held[1]) or free(held[2])") == 0
        assert allocates(process, 300), "of the first three blocks"
        assert utilisation_percent(tmp_path / "ledger") == 0, "the ledger's reader knows its size"
    assert contiguous.read()["used"] == 0


def test_holes_close_with_the_release_of_a_context_and_a_death_and_not_with_a_forks_end(
    contiguous: Card,
) -> None:
    with contiguous.hold(100, FRAGMENT) as process:
        fork = "os.waitpid(os.fork() or os._exit(free(held[0]) != 1), 0)[1]"
        assert say(process, fork) == 0, "a fork holds none of its parent's"
        assert not allocates(process, 200), "and frees none of it"
        assert say(process, "held.clear() or cuda.cuDevicePrimaryCtxRelease_v2(0)") == 0
        assert say(process, "begin() or 0") == 0
        assert allocates(process, 80_000)
        process.kill()
    with contiguous.hold(80_000 << 20) as after:
        assert say(after) == 0


def test_utilisation_is_the_share_of_the_last_second(card: Card, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    assert utilisation_percent(ledger) is None
    with card.hold(GIB) as working:
        assert say(working) == 0
        assert utilisation_percent(ledger) == 0
        noted, seen = _looked_at_once(working, card, ledger)
        assert noted == pytest.approx(seen["busy"], abs=11), "as NVML says, a bucket later"
        assert 35 <= seen["busy"] <= 50
        assert seen["watts"] > 200
        assert seen["mhz"] == 1980


def _looked_at_once(working: Any, card: Card, ledger: Path) -> tuple[float | None, Any]:
    """What is noted and what NVML says before the second of the work has moved on."""
    for _ in range(20):
        assert say(working, "work") == 0
        began = time.monotonic()
        noted, seen = utilisation_percent(ledger), card.read()
        if time.monotonic() - began < 0.35:
            break
        time.sleep(1.1)  # a busy machine: idle again, and once more
    return noted, seen


def test_many_at_once_lose_no_byte(card: Card) -> None:
    crowd = [card.hold(GIB) for _ in range(8)]
    assert [say(process) for process in crowd] == [0] * 8
    assert card.read()["used"] == 8 * GIB
    for process in crowd:
        process.communicate()
    assert card.read()["used"] == 0


def test_a_reused_pid_does_not_inherit(card: Card) -> None:
    """The same PID with another start time: what a slot looks like after the PID came round."""
    ledger = Path(card.env["MOCKGPU_LEDGER"])
    with card.hold(10 * GIB) as holder:
        assert say(holder) == 0
        raw = bytearray(ledger.read_bytes())
        at = raw.index(holder.pid.to_bytes(4, "little"), 64)
        raw[at + 8 : at + 16] = (1).to_bytes(8, "little")
        ledger.write_bytes(raw)
        assert card.read()["used"] == 0


def rounds(process: subprocess.Popen[bytes], over_s: float) -> int:
    """How often a process that loops says so within a while, from now on."""
    assert process.stdout
    os.set_blocking(process.stdout.fileno(), False)
    process.stdout.read()
    time.sleep(over_s)
    return len(process.stdout.read() or b"")


def test_a_locked_process_stands_in_its_next_call_and_goes_on_when_it_is_unlocked(
    card: Card,
) -> None:
    command = [sys.executable, "-c", LOOP]
    with subprocess.Popen(command, env=card.env, stdout=subprocess.PIPE) as looping:
        try:
            assert looping.stdout and looping.stdout.readline()
            assert card.lock("GetState", looping.pid) == [0, 0] and rounds(looping, 0.5) > 0
            assert card.lock("Lock", looping.pid) == [0, -1], "by a process that ends then"
            assert card.lock("GetState", looping.pid) == [0, 1]
            time.sleep(0.1)  # the call that was under way
            used = _processor_s(looping.pid)
            assert rounds(looping, 0.5) == 0
            assert _processor_s(looping.pid) - used < 0.1, "it waits, and burns no processor"
            assert card.lock("Lock", looping.pid)[0] == ILLEGAL_STATE
            with card.hold(GIB) as other:
                assert say(other) == 0, "it alone"
                assert say(other, "work") == say(other, "free") == 0
                assert card.lock("Unlock", other.pid)[0] == ILLEGAL_STATE
            assert card.lock("Unlock", looping.pid) == [0, -1]
            assert card.lock("GetState", looping.pid) == [0, 0] and rounds(looping, 0.5) > 0
            assert card.lock("Lock", looping.pid) == [0, -1]
        finally:
            looping.kill()
    assert card.read()["holders"] == {}, "locked or not, its memory returns with SIGKILL"
    for verb in ("GetState", "Lock", "Unlock"):
        assert card.lock(verb, looping.pid)[0] == INVALID == card.lock(verb, os.getpid())[0]


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_stranger_to_the_pid_namespace_is_turned_away(card: Card) -> None:
    """It would take every holder for dead."""
    if os.geteuid() != 0:
        pytest.skip("a PID namespace needs root")
    with card.hold(10 * GIB) as holder:
        assert say(holder) == 0
        code = "import pynvml; pynvml.nvmlInit()"
        ran = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code],
            env=card.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Driver Not Loaded" in ran.stderr
        assert card.read()["used"] == 10 * GIB


def test_without_a_compiler_the_sentence_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="no `cc`: install gcc"):
        gpu.build()


def test_it_is_built_once_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = gpu.build()
    stamps = [(built / name).stat().st_mtime_ns for name in gpu.LIBRARIES.values()]
    assert built.is_relative_to(tmp_path / "aftershock")
    assert gpu.build() == built
    assert stamps == [(built / name).stat().st_mtime_ns for name in gpu.LIBRARIES.values()]
    assert [path.name for path in built.parent.iterdir()] == [built.name]
