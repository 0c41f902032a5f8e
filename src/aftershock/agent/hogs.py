"""Children of an agent that use something up: processor time, or memory, or a GPU's.

Each ends with the agent, by the kernel's hand (PR_SET_PDEATHSIG), and at a deadline by its own, so
that an agent that hangs keeps none alive. It stands ready and uses nothing until it is told to go.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

from . import cgroups
from .clock import boottime
from .errors import AgentError

_PERIOD_S = 0.02
_CHUNK = 8 << 20
_READY_S = 15.0
_DEATHSIG = 1


class Hog:
    """The agent's handle on one of them."""

    def __init__(self, words: Mapping[str, Any], more: Optional[Mapping[str, str]] = None) -> None:
        """`more`: what its environment has beside ours."""
        command = [sys.executable, "-I", "-S", sys.argv[0], "hog", str(os.getpid())]
        self._process = subprocess.Popen(
            [*command, json.dumps(dict(words))],
            env={**os.environ, **(more or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._ended = self._killed = False

    def stand_ready(self) -> Dict[str, Any]:
        """Wait until it is there, and as what; what kept it from that is said."""
        told = self.hear(_READY_S)
        if told is None or "ready" not in told:
            self.end()
            why = (told or {}).get("failed", "it did not start: is the host out of memory?")
            raise AgentError(f"a child to use things up: {why}")
        return told

    def go(self, until: float) -> None:
        """Begin, until a time on CLOCK_BOOTTIME."""
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{until}\n".encode())
            self._process.stdin.flush()

    def hear(self, within_s: float) -> Optional[Dict[str, Any]]:
        """The next that it says; nothing when it says nothing in time, or has ended."""
        assert self._process.stdout
        if self._process.stdout.closed:
            return None
        if not select.select([self._process.stdout], [], [], within_s)[0]:
            return None
        line = self._process.stdout.readline()
        told: Optional[Dict[str, Any]] = json.loads(line) if line else None
        return told

    def is_there(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def was_killed(self, within_s: float) -> bool:
        """Whether it has been killed by another than us, or is in so many seconds."""
        if not self._ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._killed = self._process.wait(within_s) == -signal.SIGKILL
        return self._killed

    def end(self) -> None:
        """End it; twice is fine."""
        self.was_killed(0.0)
        self._ended = True
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()


def main(parent: str, told: str) -> None:
    """The child's life."""
    words: Dict[str, Any] = json.loads(told)
    ctypes.CDLL(None).prctl(_DEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return
    try:
        _settle(words)
        use_up = _use(words)
    except (OSError, AgentError) as error:
        _say(failed=str(error))
        return
    _say(ready=os.getpid())
    line = sys.stdin.readline()
    if line:
        use_up(float(line))


def _use(words: Mapping[str, Any]) -> Callable[[float], None]:
    """What is called, with its deadline, when it is told to go; a GPU is begun with by now."""
    if words["kind"].startswith("gpu-"):
        from . import gpuhogs

        card = gpuhogs.settle(words)
        return lambda until: gpuhogs.KINDS[words["kind"]](card, words, until, _say)
    of_host = {"cpu": _burn, "memory": _press, "oom": _overfill}[words["kind"]]
    return lambda until: of_host(words, until)


def _settle(words: Mapping[str, Any]) -> None:
    """Where and how it is to run."""
    if words.get("cpus"):
        os.sched_setaffinity(0, set(words["cpus"]))
    if words.get("nice"):
        os.setpriority(os.PRIO_PROCESS, 0, words["nice"])
    cgroups.join(words.get("cgroups") or [])


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _burn(words: Mapping[str, Any], until: float) -> None:
    """Use a share of one processor: what was missed while others ran is made up for."""
    share = words["share"]
    began, used_before = time.monotonic(), time.process_time()
    while boottime() < until:
        owed = share * (time.monotonic() - began) - (time.process_time() - used_before)
        stop = time.process_time() + min(max(owed, 0.0), 1.0)
        while time.process_time() < stop:
            pass
        if share < 1:
            time.sleep(_PERIOD_S * (1 - share))


def _press(words: Mapping[str, Any], until: float) -> None:
    """Take memory up to a size, and hold it; what would touch the host's reserve is not taken."""
    held: List[Any] = []
    taken, reserve = 0, words["reserve"]
    libc = ctypes.CDLL(None, use_errno=True)
    while taken < words["bytes"] and boottime() < until:
        size = min(_CHUNK, words["bytes"] - taken)
        if _available() - size < reserve:
            break
        held.append(_chunk(libc, words, size))
        taken += size
    _say(taken=taken, short=taken < words["bytes"])
    while boottime() < until:
        if _available() < reserve / 2 and held:  # others want it: the host must not run out
            held.pop().close()
            continue
        time.sleep(min(0.1, max(0.0, until - boottime())))


def _chunk(libc: Any, words: Mapping[str, Any], size: int) -> Any:
    """Some memory that is really there: touched, or a locked part of the page cache."""
    if words["of"] == "page-cache":
        return _cached(libc, words["folder"], size)
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, mmap.PAGESIZE):
        area[at] = 1
    place = ctypes.c_char.from_buffer(area)
    libc.mlock(ctypes.byref(place), ctypes.c_size_t(size))
    del place
    return area


def _cached(libc: Any, folder: str, size: int) -> int:
    """The pages of a hole in a file without a name: read only, so that no disk writes them."""
    number = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.ftruncate(number, size)
        libc.mmap.restype = ctypes.c_void_p
        place, length = ctypes.c_void_p(None), ctypes.c_size_t(size)
        shared = (mmap.PROT_READ, mmap.MAP_SHARED, number, ctypes.c_long(0))
        where: int = libc.mmap(place, length, *shared)
    finally:
        os.close(number)
    failed = ctypes.c_void_p(-1).value
    if where == failed or libc.mlock(ctypes.c_void_p(where), length):
        code = ctypes.get_errno()
        raise OSError(code, f"keeping page cache in memory: {os.strerror(code)}")
    return where


def _overfill(words: Mapping[str, Any], until: float) -> None:
    """Take memory within a cgroup until the kernel has killed in it, then let go of it.

    It lies in a file without a name, charged to the cgroup, yet in nobody's own memory: the kernel
    ranks us by that. It is touched as memory all the same: a write gets no kill on older kernels.
    """
    group = cgroups.find("memory", words["cgroup"])
    before, taken = group.number("oom_kill"), 0
    store = os.memfd_create("aftershock")
    while boottime() < until and taken < words["most"]:
        if group.number("oom_kill") - before >= words["kills"]:
            break
        os.ftruncate(store, taken + words["chunk"])
        with mmap.mmap(store, words["chunk"], offset=taken) as area:
            for at in range(0, words["chunk"], mmap.PAGESIZE):
                area[at] = 1
        taken += words["chunk"]
    _say(taken=taken, kills=group.number("oom_kill") - before)


def _available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
