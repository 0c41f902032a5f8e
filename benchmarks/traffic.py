"""What packets pay that a partition does not mean: 1000 prefixes in place, none of them theirs."""

import ctypes
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rows import row

ROUNDS, SEND_S = 5, 0.6
_NOBODY = "10.99.0.2"  # a neighbour that is set by hand
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
    return [row("unaffected_pps_1000", ours, "/s", peer, value) for peer, value in middle.items()]


@contextmanager
def echo(netns: str) -> Iterator[Callable[[], bool]]:
    """Whether a packet that is sent over the wire now gets to its other end, `as-b1`.

    It is caught there before anything of the network stack is asked.
    """
    with ExitStack() as open_until_the_end:
        catch, throw = (open_until_the_end.enter_context(made) for made in inside(netns, _ends))

        def passes() -> bool:
            with suppress(BlockingIOError):
                while catch.recv(64):
                    pass
            throw.sendto(b"?", (_NOBODY, 9))
            return bool(select.select([catch], [], [], 0.002)[0])

        yield passes


def _ends() -> tuple[socket.socket, socket.socket]:
    ipv4 = 0x0800
    catch = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ipv4))
    catch.bind(("as-b1", ipv4))
    catch.setblocking(False)
    return catch, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def inside(netns: str, make: Callable[[], tuple[socket.socket, socket.socket]]) -> Any:
    """Make sockets in a network namespace; they stay there."""
    made: list[Any] = []

    def work() -> None:
        with Path("/run/netns", netns).open(encoding="utf-8") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000):
                raise OSError(ctypes.get_errno(), f"setns {netns}")
        made.append(make())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return made[0]


def _send(netns: str, address: str) -> float:
    words = ["ip", "netns", "exec", netns, sys.executable, "-c", _SENDER, address, str(SEND_S)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
