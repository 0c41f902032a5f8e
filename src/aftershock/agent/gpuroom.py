"""How large a single allocation on a GPU can be, tried by a process that holds nothing of it."""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
from typing import Callable, Dict

from .cuda import LEAST_BYTES, Card
from .errors import AgentError
from .trying import ask_another

_MIB = 1 << 20
_DEATHSIG = 1
_LATEST_S = 10  # a driver that hangs
_NEARLY_ALL = 0.98
_MOST_TRIES = 10


def largest(uuid: str) -> Dict[str, float]:
    """`largest_mib`: the largest single allocation that succeeds; `free_mib`: what is free then.

    By another process than this one, which takes nearly all that is free for a moment and ends.
    """
    told = ask_another("allocate", [uuid], _LATEST_S)
    if "failed" in told:
        raise AgentError(f"a large allocation could not be tried: {told['failed']}")
    return told


def search(fits: Callable[[int], bool], free: int) -> int:
    """The largest of so many pages that fits, within a few percent; nearly all is enough.

    By the geometric mean: as exact for a few pages as for tens of thousands.
    """
    known, unknown, tries = 0, max(1, int(_NEARLY_ALL * free)), 1
    if fits(unknown):
        return unknown
    while unknown - known > 1 and tries < _MOST_TRIES:
        between = min(unknown - 1, max(known + 1, round(math.sqrt(max(1, known) * unknown))))
        tries += 1
        if fits(between):
            known = between
        else:
            unknown = between
    return known


def main(told: str) -> None:
    """Try, free each at once, and end: with the agent, or when it takes too long."""
    (os.environ["CUDA_VISIBLE_DEVICES"],) = json.loads(told)
    ctypes.CDLL(None).prctl(_DEATHSIG, signal.SIGKILL)
    signal.alarm(_LATEST_S + 1)
    try:
        card = Card()
        free = card.free_bytes()
        pages = search(lambda pages: card.fits(pages * LEAST_BYTES), free // LEAST_BYTES)
    except AgentError as error:
        print(json.dumps({"failed": str(error)}))
        return
    print(json.dumps({"largest_mib": pages * LEAST_BYTES / _MIB, "free_mib": free / _MIB}))
