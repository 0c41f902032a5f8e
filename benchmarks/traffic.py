"""What packets pay that a partition does not mean: 1000 prefixes in place, none of them theirs."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median
from typing import Any

from benchmarks.rows import row

ROUNDS, SEND_S = 5, 0.6
_SENDER = """
import socket, sys, time
plug = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
plug.connect((sys.argv[1], 9))
send, load, clock, count = plug.send, b"?" * 64, time.perf_counter, 0
end = clock() + float(sys.argv[2])
while clock() < end:
    for _ in range(500):
        send(load)
    count += 500
print(count / float(sys.argv[2]))
"""

Rules = Callable[[], AbstractContextManager[None]]


def rows(netns: str, address: str, ways: dict[str, Rules]) -> list[dict[str, Any]]:
    """Packets a second through each way's rules; rounds take turns, so that drift meets all."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, rules in ways.items():
            with rules():
                rates[name].append(_send(netns, address))
    middle = {name: median(held) for name, held in rates.items()}
    ours = middle.pop("ours")
    return [
        row("unaffected packets beside 1000 prefixes", ours, "/s", peer, value)
        for peer, value in middle.items()
    ]


def _send(netns: str, address: str) -> float:
    words = ["ip", "netns", "exec", netns, sys.executable, "-c", _SENDER, address, str(SEND_S)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
