"""A day that loses its controllers in mid-fault, to see that all heals: on the lab.

The day and its run are killed with SIGKILL while a fault is on. What they had made must be gone by
itself; then the day is gone on with, and must call that run INCONCLUSIVE.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aftershock import ledger
from aftershock.agent.clock import identity, is_there
from aftershock.errors import AftershockError, InvalidInput
from aftershock.gameday.plan_file import read_plan
from aftershock.gameday.record import days
from aftershock.slo.verdict import INCONCLUSIVE

FIRED_S, GONE_S, DAY_S = 180.0, 60.0, 120.0


@dataclass
class SelfTest:
    """What was looked at: (whether it is as it must be, sentence)."""

    found: list[tuple[bool, str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all healed, and the verdict said so."""
        return all(good for good, _ in self.found)

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        for good, sentence in self.found:
            yield f"{'ok' if good else 'WRONG':<6} {sentence}"
        yield "all healed" if self.passed else "not all healed: `aftershock recover`"

    def look(self, good: bool, sentence: str) -> None:
        """Note one look."""
        self.found.append((bool(good), sentence))


def selftest(path: str) -> SelfTest:
    """Rehearse the plan's experiments until one has a fault that lasts, kill what controls it
    then, and look at what is left.
    """
    plan, test = read_plan(path), SelfTest()
    before = _kernel_things()
    rehearse = [str(Path(sys.executable).with_name("aftershock")), "gameday", "rehearse", path]
    for experiment in plan.experiments:
        line = [*rehearse, "--only", experiment.name]
        known = {folder for folder, _ in days()}
        if killed := _killed_in_mid_fault(line):
            break
    else:
        raise InvalidInput(
            "no experiment of this plan came as far as a fault that lasts: hold it with `gameday "
            "rehearse`, and name one that has such a fault (not only kills)"
        )
    run = killed.run
    faults = ", ".join(sorted(str(one["fault"].get("name")) for one in run.injections.values()))
    test.look(True, f"killed in mid-fault ({faults}): the day and its run, {run.run_id}")
    gone = _until(lambda: not any(map(is_there, killed.family)), GONE_S)
    took = time.monotonic() - killed.at
    test.look(gone, f"{len(killed.family)} processes of the run gone {took:.1f} s later")
    _go_on(line, test)
    test.look(
        not [one for one in ledger.runs() if one.run_id == run.run_id], "nothing open in the ledger"
    )
    left = sorted(_kernel_things() - before)
    test.look(
        not left, f"links and namespaces as before{': left ' if left else ''}{', '.join(left)}"
    )
    new = [(folder, told) for folder, told in days() if folder not in known]
    words = [one.verdict for _, told in new for one in told.runs.values()]
    test.look(words == [INCONCLUSIVE], f"its verdict is {', '.join(words) or 'none'}, no PASS")
    for folder, _ in new:
        test.look((folder / "day.html").is_file(), f"the record is whole: {folder / 'day.html'}")
    return test


class _Killed(NamedTuple):
    """A run whose controllers were killed, when, and all the processes that it had."""

    run: ledger.Run
    at: float
    family: list[Mapping[str, Any]]


def _killed_in_mid_fault(line: list[str]) -> _Killed | None:
    """Hold that day until a fault is on, and kill it and its run; None: it ended before."""
    with tempfile.TemporaryFile() as printed:
        day = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            if not (run := _await_fault(day)):
                return None
            family = _family(day.pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(int((run.controller or {})["pid"]), signal.SIGKILL)
        finally:
            killed_at = time.monotonic()
            day.kill()
            day.wait()
    return _Killed(run, killed_at, family)


def _await_fault(day: subprocess.Popen[bytes]) -> ledger.Run | None:
    """A run of this day with a fault that is on; None if the day ends without."""

    def found() -> ledger.Run | None:
        for run in ledger.runs():
            fired = any(one.get("state") == "fired" for one in run.injections.values())
            if fired and run.is_going_on() and _is_below((run.controller or {})["pid"], day.pid):
                return run
        return None

    until = time.monotonic() + FIRED_S
    while time.monotonic() < until and day.poll() is None:
        if run := found():
            return run
        time.sleep(0.1)
    return None


def _go_on(line: list[str], test: SelfTest) -> None:
    """The same command again: it heals what is left, and ends the day that was cut off."""
    try:
        done = subprocess.run(
            line,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DAY_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AftershockError(
            f"the day did not end within {DAY_S:g} s once it was gone on with"
        ) from None
    test.look(done.returncode == 1, "gone on with, the day ends without a PASS")


def _family(root: int) -> list[Mapping[str, Any]]:
    """Every process below one, as they are known by PID and start."""
    below = {pid for pid in _parents() if _is_below(pid, root)}
    return [identity(pid) for pid in sorted(below) if pid != root]


def _is_below(pid: int, root: int) -> bool:
    parents = _parents()
    while pid in parents and pid != root:
        pid = parents[pid]
    return pid == root


def _parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                found[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    return found


def _kernel_things() -> set[str]:
    """Links and named namespaces of this machine."""
    things = {f"link {path.name}" for path in Path("/sys/class/net").iterdir()}
    with contextlib.suppress(OSError):
        things |= {str(path) for path in Path("/run/netns").iterdir()}
    return things


def _until(truth: Callable[[], bool], within_s: float) -> bool:
    end = time.monotonic() + within_s
    while not truth():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
