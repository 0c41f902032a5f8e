"""A mock card that is split by MIG, as unmodified pynvml and CUDA see it."""

from __future__ import annotations

from pathlib import Path

from mock_cards import GIB, Card, say

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
