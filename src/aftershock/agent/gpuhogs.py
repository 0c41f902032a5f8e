"""What a child does that presses a GPU: it holds memory, or keeps the processors busy."""

from __future__ import annotations

import ctypes
import signal
import time
from typing import Any, Callable, Dict, Mapping

from .burn import BLOCKS_EACH, BUFFER_BYTES, KERNELS, THREADS
from .clock import boottime
from .cuda import Card

Say = Callable[..., None]
_LATE_S = 2  # a driver that hangs keeps no child alive
_POLL_S = 0.05
_PERIOD_S, _LAUNCH_S = 0.1, 0.005
_FIRST_ROUNDS, _MOST_ROUNDS = 1000, 1 << 30


def settle(words: Mapping[str, Any]) -> Card:
    """A context on the GPU: some memory of it (hundreds of MB on a real one) is taken by now."""
    return Card()


def hold_memory(card: Card, words: Mapping[str, Any], until: float, say: Say) -> None:
    """Take what is wanted, in `steps` equal parts over a while, and hold it.

    `keep`: what others let go of is taken, too, as long as more than `leave` is free. `block`: in
    blocks of so many bytes with as much free between them.
    """
    _end_at(until)
    wanted = words["bytes"] if words["bytes"] else max(0, card.free_bytes() - words["leave"])
    began = time.monotonic()
    if words["block"]:
        taken = card.take_every_other(wanted // words["block"], words["block"])
    else:
        taken = _take(card, words, wanted, began, until)
    say(taken=taken, wanted=wanted, took_s=time.monotonic() - began)
    while boottime() < until:
        time.sleep(min(_POLL_S, max(0.0, until - boottime())))
        if words["keep"]:
            card.take(max(0, card.free_bytes() - words["leave"]))


def _take(card: Card, words: Mapping[str, Any], wanted: int, began: float, until: float) -> int:
    """In steps; how much it became."""
    taken, failed = 0, False
    for step in range(1, words["steps"] + 1):
        due = began + words["over_s"] * (step - 1) / max(1, words["steps"] - 1)
        while time.monotonic() < due and boottime() < until:
            time.sleep(min(_POLL_S, max(0.0, due - time.monotonic())))
        share = wanted * step // words["steps"] - taken
        got = card.take(share) if not failed else 0
        failed = failed or got < 0.99 * share
        taken += got
    return taken


def _end_at(until: float) -> None:
    signal.alarm(max(1, int(until - boottime()) + _LATE_S))


def keep_busy(card: Card, words: Mapping[str, Any], until: float, say: Say) -> None:
    """Run kernels for a share of the time: in each period so long, then none.

    How many rounds fill a launch is measured first, and goes on being measured: clocks change.
    """
    _end_at(until)
    kernel = card.kernel(KERNELS[words["bound"]].encode(), words["bound"].encode())
    size = BUFFER_BYTES[words["bound"]]
    buffer, last = card.room(size), ctypes.c_uint(size // 4 - 1)
    blocks = card.multiprocessors() * BLOCKS_EACH
    rounds = _FIRST_ROUNDS
    say(multiprocessors=card.multiprocessors())
    while boottime() < until:
        began, busy_s = time.monotonic(), 0.0
        while busy_s < words["duty"] * _PERIOD_S and boottime() < until:
            at = time.monotonic()
            card.run(kernel, blocks, THREADS, [buffer, ctypes.c_uint(rounds), last])
            took_s = max(time.monotonic() - at, 1e-6)
            busy_s += took_s
            rounds = max(1, min(_MOST_ROUNDS, int(rounds * min(2.0, _LAUNCH_S / took_s))))
        time.sleep(max(0.0, busy_s / words["duty"] - (time.monotonic() - began)))


KINDS: Dict[str, Callable[[Card, Mapping[str, Any], float, Say], None]] = {
    "gpu-memory": hold_memory,
    "gpu-compute": keep_busy,
}
