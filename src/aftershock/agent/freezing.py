"""A step that freezes processes: every thread is traced and stopped, which ends with the tracer.

SIGSTOP would outlive us. The watcher is for an agent that hangs beyond its deadline: it is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Set

from . import chosen
from .classifier import check_options
from .clock import identity, is_there, start_ticks
from .errors import AgentError, CannotDo, Invalid, NotUndone
from .gpu import check_one_uses_a_gpu

_OPTIONS = ("chosen", "on_gpu")
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_ALL_CHILDREN = 0x40000000  # __WALL: threads, too
_STOPPED_S = 2.0
_ENDED_S = 3.0
_SELDOM = 4
_PTRACE = ctypes.CDLL(None, use_errno=True).ptrace
_PTRACE.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_PTRACE.restype = ctypes.c_long


class Freeze:
    """Chosen processes, with all that they start, stopped until the end.

    Whom a pattern or a PID means is settled by the arming, so that nobody else comes in.
    """

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        if not options["chosen"]:
            raise Invalid("freeze: no processes are chosen: nothing would happen")
        for choice in options["chosen"]:
            chosen.check(choice)
        self.kind = "freeze"
        self.outlives, self.rash = True, False
        self.about: Dict[str, Any] = {"chosen": list(options["chosen"])}
        self._fixed: Dict[int, Optional[int]] = {}  # those that keep being meant, and their start
        self._threads: Set[int] = set()
        self._cleared: Set[int] = set()  # known to be nobody whom we must not touch
        self._on = False
        self._ticks = 0
        self._injection = injection
        self._on_gpu: bool = options["on_gpu"]

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside: the tracer's end."""
        return {"agent": identity(os.getpid())}

    def attach(self) -> Dict[str, Any]:
        """Everything must be there, and ours to trace; nothing is felt."""
        for choice in self.about["chosen"]:
            found = chosen.find_exactly(choice)
            if self._on_gpu:
                check_one_uses_a_gpu(found, f"freeze: {chosen.tell(choice)}")
            for pid in found:
                self._check(chosen.tell(choice), pid)
            if choice.get("pid") or choice.get("pattern"):
                self._fixed.update({pid: start_ticks(pid) for pid in found})
        scope = Path("/proc/sys/kernel/yama/ptrace_scope")
        if scope.exists() and scope.read_text(encoding="ascii").strip() == "3":
            raise CannotDo("this kernel lets nobody trace (yama/ptrace_scope is 3)")
        return {"owned": [], "undo": self.intent()}

    def _check(self, key: str, pid: int) -> None:
        if pid in (1, os.getpid(), os.getppid()):
            raise Invalid(f"freeze: {key} has process {pid}, without which nothing would thaw it")
        tracer = _tracer(pid)
        if tracer:
            raise AgentError(f"freeze: {key}: process {pid} is traced by {tracer}: end that first")

    def fire(self, until: float) -> None:
        """Stop every thread, and those that were begun meanwhile."""
        self._on = True
        self._catch()
        if not self._threads:
            raise AgentError("freeze: its processes have ended since the arming: arm it again")
        limit = time.monotonic() + _STOPPED_S
        while self._running() and time.monotonic() < limit:
            time.sleep(0.002)

    def tick(self) -> None:
        """Stop what was begun in the containers since; let the dead be found by their parents."""
        if self._on:
            self._reap()
            self._ticks += 1
            # To look through all of /proc has its price: others' newcomers run for 2 s at most.
            if self._ticks % _SELDOM == 0 or not self._is_costly():
                self._catch()

    def _is_costly(self) -> bool:
        return any(choice.get("cgroup") for choice in self.about["chosen"])

    def _catch(self) -> None:
        while True:
            fresh = [tid for tid in self._there() if tid not in self._threads]
            caught = [tid for tid in fresh if self._seize(tid)]
            if not caught:
                return

    def _seize(self, thread: int) -> bool:
        code = _trace(_SEIZE, thread)
        if code == errno.ESRCH:
            return False
        if code:
            raise AgentError(f"freeze: tracing {thread}: {os.strerror(code)}")
        self._threads.add(thread)
        _trace(_INTERRUPT, thread)
        return True

    def _there(self) -> List[int]:
        """Every thread there is now."""
        threads: List[int] = []
        for pid in self._meant():
            with contextlib.suppress(OSError):
                threads += [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
        return sorted(threads)

    def _meant(self) -> Set[int]:
        """Every process that is meant now; what is protected came after the arming."""
        fixed = [pid for pid, started in self._fixed.items() if start_ticks(pid) == started]
        found: Set[int] = set()
        for choice in self.about["chosen"]:
            is_fixed = choice.get("pid") or choice.get("pattern")
            there = fixed if is_fixed else chosen.find(choice)
            found |= set(chosen.with_descendants(there) if choice.get("tree") else there)
        self._cleared &= found
        self._cleared |= {pid for pid in found - self._cleared if not chosen.protected(pid)}
        return self._cleared

    def _running(self) -> List[int]:
        return [tid for tid in self._threads if not _is_stopped(tid)]

    def _reap(self) -> None:
        """A dead tracee is a zombie until its tracer has seen that: its parent waits for us."""
        for thread in list(self._threads):
            try:
                seen, status = os.waitpid(thread, os.WNOHANG | _ALL_CHILDREN)
            except ChildProcessError:
                self._threads.discard(thread)
                continue
            if seen and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
                self._threads.discard(thread)

    def shut(self) -> None:
        """Let everything go on; twice is fine."""
        self._on = False
        for thread in list(self._threads):
            code = _trace(_DETACH, thread)
            if code == errno.ESRCH and _tracer(thread) == os.getpid():
                with contextlib.suppress(ChildProcessError):  # it is dead, or not stopped yet
                    os.waitpid(thread, os.WNOHANG | _ALL_CHILDREN)
                _trace(_DETACH, thread)
            if _tracer(thread) != os.getpid():
                self._threads.discard(thread)

    def observe(self) -> Dict[str, Any]:
        """How many threads are stopped, by what the kernel shows of them."""
        self._reap()
        running = len(self._running())
        return {
            "kind": self.kind,
            "counts": {},
            "stopped": len(self._threads) - running,
            "running": running,
        }

    def detach(self) -> List[str]:
        """Nothing may be traced by us any more."""
        for _ in range(50):
            if not self._threads:
                return []
            self.shut()
            self._reap()
            time.sleep(0.01)
        raise NotUndone(f"freeze: {len(self._threads)} threads are still stopped")

    def close(self) -> None:
        """There is nothing held."""


def undo(intent: Mapping[str, Any]) -> List[str]:
    """End the agent that traces, if it still does: the kernel lets everything go on then."""
    agent = intent["agent"]
    if is_there(agent) and agent["pid"] != os.getpid():
        with contextlib.suppress(ProcessLookupError):
            os.kill(agent["pid"], signal.SIGKILL)
        limit = time.monotonic() + _ENDED_S
        while is_there(agent):
            if time.monotonic() > limit:
                raise NotUndone(f"freeze: the agent {agent['pid']} does not end")
            time.sleep(0.01)
    return []


def _is_stopped(thread: int) -> bool:
    """Whether a thread is stopped for its tracer; one that is gone does not run either."""
    fields = _stat(f"/proc/{thread}/stat")
    return not fields or fields[0] in "tXZ"


def _stat(path: str) -> List[str]:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _tracer(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return next((int(x.split()[1]) for x in text.splitlines() if x.startswith("TracerPid:")), 0)


def _trace(request: int, thread: int) -> int:
    """The error's number, or 0."""
    if _PTRACE(request, thread, None, None) == -1:
        return ctypes.get_errno()
    return 0
