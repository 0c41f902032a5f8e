"""CUDA's checkpoint API, used by a child of its own: a driver that hangs must not hang the agent.

It came with driver 570. A locked process blocks in its next CUDA call, and stays locked whatever
becomes of whoever locked it.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .clock import is_there
from .cuda import name_of
from .errors import AgentError, CannotDo
from .programs import ends_with_us

RUNNING, LOCKED = 0, 1
STATES = ("running", "locked", "checkpointed", "failed", "being checkpointed", "being restored")
_LOCK_S, _POLL_S = 2.0, 0.05
_ONE_S, _LONGEST_S = 4.0, 6.0
_NOT_SUPPORTED = 801
_CALLS = ("cuCheckpointProcessLock", "cuCheckpointProcessUnlock", "cuCheckpointProcessGetState")
Told = Dict[str, Any]


def ask(verb: str, processes: Sequence[Mapping[str, Any]], bound: bool = False) -> List[Told]:
    """`look`, `lock` or `unlock`, for processes known by their `identity`.

    What became of each: its `pid` and `started`, its `state`, and why it `failed`; a state of None
    is unknown then, or else the process has ended. `bound`: the child ends with this process.
    CannotDo where the driver lacks the calls.
    """
    if not processes:
        return []
    words = [sys.executable, "-I", "-S", sys.argv[0], "cuda", verb, json.dumps(list(processes))]
    child = subprocess.Popen(
        [*(ends_with_us() if bound else []), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        said, _ = child.communicate(timeout=_LONGEST_S)
    except subprocess.TimeoutExpired:
        child.kill()  # and not waited for: within a driver that hangs nothing ends
        raise AgentError(
            f"CUDA's driver has not answered for {_LONGEST_S:g} s: restart the host if it hangs"
        ) from None
    if child.returncode:
        raise AgentError("who was to ask CUDA's driver did not start: is the host out of memory?")
    answer = json.loads(said)
    if "cannot" in answer:
        raise CannotDo(answer["cannot"])
    told: List[Told] = answer["told"]
    return told


def main(verb: str, told: str) -> None:
    """The child: all of them at once, since one that is locked may keep another from idling."""
    processes = json.loads(told)
    silent = f"the driver has not answered for {_ONE_S:g} s"
    found: List[Told] = [_told(process, None, silent) for process in processes]
    try:
        driver = _Driver()

        def do(number: int) -> None:
            found[number] = driver.do(verb, processes[number])

        numbers, until = range(len(processes)), time.monotonic() + _ONE_S
        threads = [threading.Thread(target=do, args=(one,), daemon=True) for one in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        print(json.dumps({"told": found}))
    except CannotDo as error:
        print(json.dumps({"cannot": str(error)}))


def _told(process: Mapping[str, Any], state: Optional[int], failed: str) -> Told:
    who = {"pid": process["pid"], "started": process["started"]}
    return {**who, "state": state, "failed": failed}


class _LockArguments(ctypes.Structure):
    _fields_ = (
        ("timeout_ms", ctypes.c_uint),
        ("reserved0", ctypes.c_uint),
        ("reserved1", ctypes.c_uint64 * 7),
    )


class _UnlockArguments(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_uint64 * 8),)


class _Driver:
    """libcuda, without a context of ours on any GPU."""

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise CannotDo(f"no CUDA on this host ({error}): install NVIDIA's driver") from None
        if lacking := [name for name in _CALLS if not hasattr(self._cuda, name)]:
            raise CannotDo(
                f"the driver of this host has no {lacking[0]}: install NVIDIA's driver 570 or "
                "newer, or hang the process by=freeze"
            )
        if result := self._cuda.cuInit(0):
            raise CannotDo(f"CUDA does not begin here: cuInit: {name_of(self._cuda, result)}")

    def do(self, verb: str, process: Mapping[str, Any]) -> Told:
        """One of the three, and what became of it."""
        failed = getattr(self, f"_{verb}")(process)
        state = ctypes.c_int(-1)
        result = self._cuda.cuCheckpointProcessGetState(process["pid"], ctypes.byref(state))
        if result and not failed:
            failed = self._why(_CALLS[2], result)
        if not is_there(process):
            return _told(process, None, "")
        return _told(process, None if result else state.value, failed)

    def _look(self, process: Mapping[str, Any]) -> str:
        return ""

    def _lock(self, process: Mapping[str, Any]) -> str:
        if not is_there(process):
            return ""
        arguments = _LockArguments(timeout_ms=int(_LOCK_S * 1000))
        result = self._cuda.cuCheckpointProcessLock(process["pid"], ctypes.byref(arguments))
        return self._why(_CALLS[0], result) if result else ""

    def _unlock(self, process: Mapping[str, Any]) -> str:
        """Of one that isn't locked, wait: a lock that a killed child had asked for may yet come."""
        until = time.monotonic() + _LOCK_S
        while is_there(process):
            state, arguments = ctypes.c_int(-1), _UnlockArguments()
            self._cuda.cuCheckpointProcessGetState(process["pid"], ctypes.byref(state))
            if state.value == LOCKED:
                result = self._cuda.cuCheckpointProcessUnlock(
                    process["pid"], ctypes.byref(arguments)
                )
                return self._why(_CALLS[1], result) if result else ""
            if time.monotonic() > until:
                break
            time.sleep(_POLL_S)
        return ""

    def _why(self, call: str, result: int) -> str:
        if result == _NOT_SUPPORTED:
            return f"{call}: the driver can't do that with this process"
        return f"{call}: {name_of(self._cuda, result)}"
