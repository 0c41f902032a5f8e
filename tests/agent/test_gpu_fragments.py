"""GPU memory held in every other block: what fails then on a card that needs it in one piece."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cards import Cards
from test_host import hogs
from wires import wait_for

from aftershock.agent.errors import AgentError
from aftershock.agent.gpuroom import search
from aftershock.agent.gpusteps import in_blocks
from aftershock.errors import InvalidFault, NotApplied
from aftershock.faults.gpu import GpuMemoryPressure
from aftershock.gpufragments import judged
from aftershock.hosts.fleet import Fleet

EMPTY, FREE = 600, 80 * 1024 - 600
MIB, PAGE = 1 << 20, 2
ALLOCATE = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
assert cuda.cuInit(0) == 0
context, address = ctypes.c_void_p(), ctypes.c_uint64()
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
print(cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(int(sys.argv[1]) << 20)))
"""
OUT_OF_MEMORY = 2


@pytest.fixture
def cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path, contiguous=True)


@pytest.fixture
def paged(tmp_path: Path) -> Cards:
    return Cards(tmp_path)


@pytest.fixture
def press(cards: Cards, make: Any) -> Any:
    """Arm and fire on the host of the contiguous cards; whatever happens, it is reverted."""
    return partial(make, node=cards.node)


def allocates(cards: Cards, mib: int, index: int = 0) -> int:
    """What CUDA says to somebody who wants so much in one piece; 0 for that it is there."""
    env = {**os.environ, **cards.env, "CUDA_VISIBLE_DEVICES": str(index)}
    command = [sys.executable, "-c", ALLOCATE, str(mib)]
    return int(subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout)


def piece(injection: Any) -> Any:
    (found,) = [one for one in injection.evidence["pieces"] if one["name"] == "gpu-fragmented"]
    return found


def test_a_large_allocation_fails_although_enough_is_free_until_the_heal(
    cards: Cards, press: Any
) -> None:
    assert allocates(cards, 40_000) == 0
    injection = press(GpuMemoryPressure(("0",), take_mib=40_000, block_mib=200), fire=False)
    assert cards.used()[0] == EMPTY and allocates(cards, 40_000) == 0, "armed, yet nothing is taken"
    injection.fire()
    assert injection.observe()["bit"] is True, injection.evidence
    assert cards.used() == [EMPTY + 40_000, EMPTY], "what is held, not what was taken at first"
    assert allocates(cards, 2000) == OUT_OF_MEMORY, f"{FREE - 40_000} MiB are free"
    assert allocates(cards, 200) == 0, "that fits between two blocks"
    assert allocates(cards, 40_000, index=1) == 0
    seen = piece(injection)["seen"]
    assert "of 41320 MiB free, " in seen and "of 81320 MiB free before" in seen, seen
    injection.revert()
    assert injection.to_dict()["clean"] and injection.to_dict()["level"] == "emulated"
    assert cards.used() == [EMPTY, EMPTY] and allocates(cards, 80_000) == 0


def test_all_of_it_returns_after_the_agents_sigkill(cards: Cards, press: Any, fleet: Fleet) -> None:
    """The smallest blocks, by what is to be left, on both cards."""
    left = FREE // 2 + 20
    injection = press(GpuMemoryPressure(("all",), free_mib=left, block_mib=2))
    assert injection.observe()["bit"] is True, injection.evidence
    free = EMPTY + FREE - left
    assert cards.used() == [free, free] and allocates(cards, 100) == OUT_OF_MEMORY
    for child in hogs(fleet.fresh(cards.node).pid):
        status = Path(f"/proc/{child}/status").read_text().split()
        assert int(status[status.index("VmHWM:") + 1]) < 64 << 10, "it remembers addresses alone"
    os.kill(fleet.fresh(cards.node).pid, signal.SIGKILL)
    assert wait_for(lambda: cards.used() == [EMPTY, EMPTY], 10)
    assert allocates(cards, 80_000, index=0) == allocates(cards, 80_000, index=1) == 0
    injection.revert()


def test_where_memory_is_mapped_in_pages_no_effect_is_seen_and_the_evidence_says_so(
    paged: Cards, make: Any
) -> None:
    injection = make(GpuMemoryPressure(("0",), share=0.4, block_mib=2), node=paged.node)
    began = time.monotonic()
    assert injection.observe()["bit"] is False
    assert time.monotonic() - began < 25, "one trial decides: the rest of the patience is not used"
    pressed = [one["ok"] for one in injection.evidence["pieces"] if one["name"] == "gpu-pressed"]
    assert pressed == [True], "as much as was asked for is held all the same"
    assert allocates(paged, 40_000) == 0
    found = piece(injection)
    assert found["ok"] is False and found["seen"].endswith(
        ": no effect, since this GPU maps memory in pages"
    )
    injection.revert()
    assert paged.used() == [EMPTY, EMPTY] and injection.to_dict()["clean"] is True


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"block_mib": 1}, "block_mib 1: 0 for no blocks, or a multiple of 2 MiB"),
        ({"block_mib": 3}, "block_mib 3: 0 for no blocks, or a multiple of 2 MiB"),
        ({"block_mib": -2}, "block_mib -2: 0 for"),
        ({"block_mib": 2, "steps": 4}, "block_mib with 4 steps: each would fill"),
        ({"block_mib": 2, "take_mib": 0, "free_mib": 9, "keep": True}, "block_mib with keep: that"),
    ],
)
def test_nonsense_is_refused_before_any_host_is_asked(words: Any, said: str) -> None:
    with pytest.raises(InvalidFault, match=said):
        GpuMemoryPressure(**{"take_mib": 100, **words})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            {"take_mib": 50_000, "block_mib": 2},
            "has 81320 MiB free, and holding 50000 in every other block takes twice as much at "
            "first: hold 40660 at most",
        ),
        (
            {"take_mib": 1000, "block_mib": 2},
            "with 1000 held in every other block 79320 would stay in one piece, too large to fail: "
            "hold more than a third of it, 27106, and 40660 at most",
        ),
        ({"take_mib": 100, "block_mib": 200}, "blocks of 200 MiB on GPU 0, and only 100 MiB are"),
    ],
)
def test_what_cannot_be_held_so_is_refused_and_nothing_is_taken(
    cards: Cards, press: Any, words: Any, said: str
) -> None:
    with pytest.raises(NotApplied, match=said):
        press(GpuMemoryPressure(("0",), **words))
    assert cards.used() == [EMPTY, EMPTY] and cards.read()[0]["users"] == []


def test_too_many_blocks_are_refused_with_the_smallest_that_works() -> None:
    """A card of 256 GiB, of which half is to be held: as large as no mock is."""
    free = 256 << 30
    assert in_blocks("GPU 0", free // 2, free, 4 * MIB) == free // 2
    with pytest.raises(AgentError, match=r"131072 blocks of 2 MiB .* 65536 at most: .* 4 or more"):
        in_blocks("GPU 0", free // 2, free, 2 * MIB)
    more = free + 512 * MIB
    with pytest.raises(AgentError, match="say block_mib 6 or more"):
        in_blocks("GPU 0", more // 2, more, 4 * MIB)
    assert in_blocks("GPU 0", more // 2, more, 6 * MIB) <= more // 2


def test_a_trial_finds_the_largest_of_several_holes_and_frees_each_try_before_the_next(
    cards: Cards, fleet: Fleet
) -> None:
    """Of 61320 MiB free 30000 lie before somebody's, and 31320 behind."""
    uuid = cards.read()[0]["uuid"]
    with cards.user(30_000) as first, cards.user(20_000):
        first.kill()
        first.wait()
        found = fleet.fresh(cards.node).ask("gpu_room", 15.0, uuid=uuid)
        assert 0.95 * 31_320 < found["largest_mib"] <= 31_320 and found["free_mib"] == 61_320
        assert cards.used() == [EMPTY + 20_000, EMPTY], "nothing stays"
        assert len(cards.read()[0]["users"]) == 1


@pytest.mark.parametrize("room", [0, 1, 2, 3, 100, 20_000, 39_000, 40_000])
def test_the_largest_allocation_is_found_in_few_tries(room: int) -> None:
    free, tries = 40_000, []

    def fits(pages: int) -> bool:
        tries.append(pages)
        return pages <= room

    found = search(fits, free)
    assert 0.9 * room <= found <= room and len(tries) <= 10
    assert max(tries) < free and min(tries) >= 1, "never all that is free, never nothing"
    assert room < 0.98 * free or len(tries) == 1, "on a card with pages it is one try"


@pytest.mark.parametrize(
    ("was", "now", "ok", "end"),
    [
        ((98, 100), (2, 100), True, "98 of 100 MiB free before"),
        ((98, 100), (98, 100), False, "maps memory in pages"),
        ((98, 100), (60, 100), False, "too large for an effect"),
        ((60, 100), (2, 100), None, "it was fragmented before"),
        ((98, 100), (0, 0), None, "nothing is free"),
    ],
)
def test_an_effect_is_a_fall_from_nearly_all_to_less_than_half(
    was: Any, now: Any, ok: Any, end: str
) -> None:
    told = [dict(zip(("largest_mib", "free_mib"), one, strict=True)) for one in (was, now)]
    found = judged("host", 0, *told)
    assert found.ok is ok and found.seen.endswith(end), found.seen
