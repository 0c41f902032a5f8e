"""What faults of hosts are played on: processes to freeze, to kill and to starve, a cgroup to leave
no room, a volume, and GPUs.

Each tells by `env` what the fault needs to know of it; ONCE: no second fault can go over the first.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from aftershock.agent import blkio, cgroups
from aftershock.agent.errors import CannotDo
from tests.agent.cards import Cards, Reader
from tests.agent.cgroups import Group, group
from tests.agent.disks import volume, why_no_volume
from tests.conftest import MARK, marked_processes

WAIT_S = 0.15
HELD_MB = 150
GPU_MIB, SLOW_MHZ, WATTS = 1000, 300, 700
STATES = """
import ctypes, sys
cuda, state = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
assert cuda.cuInit(0) == 0
for line in sys.stdin:
    assert cuda.cuCheckpointProcessGetState(int(line), ctypes.byref(state)) == 0
    print(state.value, flush=True)
"""
PART_S = 6.0  # until a busy machine has got to it


class Echo:
    """Answers each byte while it runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.env = {"VICTIM": str(process.pid), "ONCE": "1"}
        self.pids = {process.pid}
        self._owed = 0

    def passes(self) -> bool:
        """Whether it answers; what it owes from before it was frozen is not counted."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(b"?")
        self.process.stdin.flush()
        self._owed += 1
        while self._owed and select.select([self.process.stdout], [], [], WAIT_S)[0]:
            self._owed -= len(os.read(self.process.stdout.fileno(), 100))
        return not self._owed

    def look(self) -> str:
        """Whether somebody traces it."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(line for line in text.splitlines() if line.startswith("TracerPid"))


class Crowd:
    """A cgroup in which processes are begun."""

    def __init__(self, process: subprocess.Popen[bytes], made: Group) -> None:
        self.env = {"VICTIM": str(process.pid), "ONCE": "1"}
        self.pids = {process.pid}
        self._made = made

    def passes(self) -> bool:
        """Whether one more can be begun there."""
        procs = self._made.folders["pids"] / "cgroup.procs"
        words = ["sh", "-c", f"echo $$ >{procs}; (:) && (:)"]
        return subprocess.run(words, check=False, capture_output=True).returncode == 0

    def look(self) -> str:
        """The limit as the kernel has it."""
        return self._made.pids_limit


class Store:
    """A volume to fill and press, and two cgroups to limit on it, if there can be any."""

    def __init__(self, place: Path, cgroups: list[str]) -> None:
        self.env = {"VOLUME": str(place), "CGROUPS": ":".join(cgroups)}
        self.pids: set[int] = set()
        self._place, self._cgroups = place, cgroups

    def passes(self) -> bool:
        """Whether others could write there as much as before."""
        found = os.statvfs(self._place)
        return found.f_bfree * found.f_frsize > 12 << 20

    def look(self) -> str:
        """What is on it, how much is free, and what is limited."""
        found = os.statvfs(self._place)
        number = self._place.stat().st_dev
        device = f"{os.major(number)}:{os.minor(number)}"
        names = [path.name for path in self._place.iterdir()]
        lines = [f"free {found.f_bfree} {found.f_ffree}", *sorted(names)]
        for name in self._cgroups:
            where = blkio.hierarchy()
            lines.append(f"{name} {blkio.limits(where, f'{where.top}/{name}', device)}")
        return "\n".join(lines)


class Service:
    """A process that is killed and started anew, and a cgroup in which processor time is used up.

    Memory is held beside them, and another process is killed for it: once, but the limit of its
    cgroup is lowered for that, and could be left so.
    """

    def __init__(self, killed: Job, starved: Job, busy: Group) -> None:
        groups = {"KILLED": killed.group, "STARVED": starved.group, "BUSY": busy}
        self.env = {**{name: one.path for name, one in groups.items()}, "ONCE": "1"}
        self._killed, self._starved, self._busy = killed, starved, busy
        self.pids: set[int] = set()

    def passes(self) -> bool:
        """Whether nothing is felt of all of it; that only a part is, is never so for long."""
        until = time.monotonic() + PART_S
        while len(felt := set(self._felt())) > 1 and time.monotonic() < until:
            pass
        assert len(felt) == 1, f"felt in part: {self._felt()}"
        return not felt.pop()

    def _felt(self) -> list[bool]:
        used = self._used()
        time.sleep(WAIT_S)
        return [
            self._killed.was_ended(),
            self._starved.was_ended(),
            self._used() > used,
            any(_resident_mb(pid) > HELD_MB for pid in marked_processes(os.environ[MARK])),
        ]

    def _used(self) -> int:
        """Nanoseconds or microseconds of processor time."""
        return int(self._busy.read("cpuacct", "cpuacct.usage", "cpu.stat").split()[-1])

    def look(self) -> str:
        """The limit of memory; from here on it is seen whether somebody was ended."""
        self._killed.note()
        self._starved.note()
        return f"memory {self._starved.group.memory_limit}"


class Job:
    """A process in a cgroup of its own, started anew whenever it ends."""

    def __init__(self, group: Group, folder: Path) -> None:
        self.group, self._count = group, folder / f"begun{group.path[-7:]}"
        procs = group.folders["memory"] / "cgroup.procs"
        turn = f"echo . >>{self._count}; sh -c 'echo $$ >{procs}; exec sleep 600'"
        env = {name: value for name, value in os.environ.items() if name != MARK}
        self.process = subprocess.Popen(
            ["sh", "-c", f"while :; do {turn}; done"],
            env=env,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not procs.read_text():
            time.sleep(0.01)
        self._noted = self._begun()

    def _begun(self) -> int:
        return len(self._count.read_text())

    def note(self) -> None:
        """What was until now does not count, once another has come in its place."""
        until = time.monotonic() + PART_S
        procs = self.group.folders["memory"] / "cgroup.procs"
        while not procs.read_text() and time.monotonic() < until:
            time.sleep(0.01)
        self._noted = self._begun()

    def was_ended(self) -> bool:
        """Whether it was begun anew since."""
        return self._begun() > self._noted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and who starts it."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Gpus:
    """Cards of a host: one to be filled, and for each of two faults one more to be slowed down.

    And for each of the two a process whose CUDA is to be locked; `states` tells of that, by line.
    """

    def __init__(
        self, cards: Cards, reader: Reader, users: list[int], states: subprocess.Popen[str]
    ) -> None:
        self.env = {**cards.env, "USERS": ":".join(map(str, users))}
        self.pids = {reader.pid, states.pid, *users}
        self._reader, self._users, self._states = reader, users, states

    def passes(self) -> bool:
        """Whether nothing is felt of all of it; that only a part is, is never so for long."""
        until = time.monotonic() + PART_S
        while len(felt := set(self._felt())) > 1 and time.monotonic() < until:
            time.sleep(0.02)
        assert len(felt) == 1, f"felt in part: {self._reader.read()}"
        return not felt.pop()

    def _felt(self) -> list[bool]:
        full, *slowed = self._reader.read()
        limited = any(one["watts"] < WATTS for one in slowed)
        slow = any(one["mhz"] == SLOW_MHZ for one in slowed)
        return [full["used_mib"] > GPU_MIB, limited, slow, any(self._locked())]

    def _locked(self) -> list[bool]:
        assert self._states.stdin and self._states.stdout
        told = []
        for user in self._users:
            self._states.stdin.write(f"{user}\n")
            self._states.stdin.flush()
            told.append(self._states.stdout.readline() == "1\n")
        return told

    def look(self) -> str:
        """Memory, clock, power limit and users of each card, and who is locked."""
        return "\n".join(map(str, [*self._reader.read(), self._locked()]))


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


Victim = Echo | Crowd | Store | Service | Gpus


@contextmanager
def victims(folder: Path) -> Iterator[dict[str, Victim]]:
    """One of each that can be had, by the kind of the fault."""
    with ExitStack() as stack:
        made = stack.enter_context(group("pids"))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        echo = subprocess.Popen(["cat", "-u"], **pipes)  # type: ignore[call-overload]
        idle = subprocess.Popen(["sleep", "600"])
        made.join(idle.pid)
        found: dict[str, Victim] = {"freeze": Echo(echo), "limit": Crowd(idle, made)}
        try:
            found["gpus"] = stack.enter_context(_gpus(folder))
            found["processes"] = stack.enter_context(_service(folder))
            if not why_no_volume():
                found["storage"] = stack.enter_context(_store(folder / "volume"))
            yield found
        finally:
            for process in (echo, idle):
                process.kill()
                process.communicate()


@contextmanager
def _gpus(folder: Path) -> Iterator[Gpus]:
    cards = Cards(folder, count=3)
    with (
        cards.reader() as reader,
        cards.user(10) as one,
        cards.user(10) as two,
        cards.asking(STATES) as states,
    ):
        yield Gpus(cards, reader, [one.pid, two.pid], states)


@contextmanager
def _service(folder: Path) -> Iterator[Service]:
    with (
        group("memory") as one,
        group("memory") as two,
        group("cpu", "cpuacct") as busy,
        Job(one, folder) as killed,
        Job(two, folder) as starved,
    ):
        yield Service(killed, starved, busy)


@contextmanager
def _store(place: Path) -> Iterator[Store]:
    names: list[str] = []
    with suppress(CannotDo):
        where = blkio.hierarchy()
        names = [f"survival-{secrets.token_hex(3)}-{number}" for number in range(2)]
    with volume(place):
        try:
            for name in names:
                cgroups.make(f"{where.top}/{name}", where.version, ("io",))
            yield Store(place, names)
        finally:
            for name in names:
                Path(f"{where.top}/{name}").rmdir()
