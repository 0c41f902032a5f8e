"""A mock card that maps memory in pages, and one that needs it in one piece."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from mock_cards import GIB, Card, say

from aftershock.lab.gpu.ledger import utilisation_percent

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
