"""A process whose CUDA is locked on the mock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from mock_cards import GIB, Card, say

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
INVALID, ILLEGAL_STATE = 1, 401


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
