"""The second holder of what outlives a process: detached, it undoes when the agent can't.

It is started before anything is attached, in a session of its own with no stream of anybody's, and
waits for two things: the agent's death and the deadline.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from . import shelter, steps
from .clock import boottime, identity, is_there
from .errors import AgentError, NotUndone
from .records import Records

_READY_S = 10.0
_PATIENCE_S = 3.0
_AFTER_DEADLINE_S = 0.5  # the agent itself goes first
_TRIES, _AGAIN_S = 3, 1.0


class Watcher:
    """The agent's handle on its watcher."""

    def __init__(self, process: Optional["subprocess.Popen[bytes]"] = None) -> None:
        self._process = process
        self.identity = identity(process.pid) if process else None

    def end(self) -> None:
        """All is undone: the watcher has nothing left to do."""
        if self._process:
            self._process.kill()
            self._process.wait()


NONE = Watcher()


def start(record: str, deadline: float) -> Watcher:
    """Start a watcher over a record's file; returns when it stands guard."""
    name, agent = Path(record).stem, os.getpid()
    for before in (shelter.scope(agent, f"{name}-{agent}"), []):
        if made := _start(before, record, deadline):
            return made
    raise AgentError("the watcher that holds the undo did not start: is the host out of memory?")


def _start(before: List[str], record: str, deadline: float) -> Optional[Watcher]:
    """A watcher that says it stands guard, or None."""
    ours, theirs = os.pipe()
    words = ["watch", record, str(os.getpid()), str(deadline), str(theirs)]
    try:
        process = subprocess.Popen(
            [*before, sys.executable, "-I", "-S", sys.argv[0], *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(theirs,),
        )
    except OSError:
        os.close(ours)
        return None
    finally:
        os.close(theirs)
    ready, _, _ = select.select([ours], [], [], _READY_S)
    answer = os.read(ours, 1) if ready else b""
    os.close(ours)
    if answer == b"!":
        return Watcher(process)
    process.kill()
    process.wait()
    return None


def watch(record: str, agent: str, deadline: str, ready: str) -> None:
    """The watcher's life."""
    agent_fd = os.pidfd_open(int(agent))
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.write(int(ready), b"!")
    os.close(int(ready))
    until = float(deadline) + _AFTER_DEADLINE_S
    while (left := until - boottime()) > 0:
        if select.select([agent_fd], [], [], min(left, 1.0))[0]:
            break
    path = Path(record)
    injection, _, host = path.stem.partition("@")
    for _ in range(_TRIES if path.exists() else 0):
        try:
            heal(Records(str(path.parent.parent), host), injection, "watcher")
            return
        except (AgentError, OSError):
            time.sleep(_AGAIN_S)


def relieve(records: Records, injection: str, reason: str) -> Dict[str, Any]:
    """Let a living agent revert what it holds; heal in the place of one that is dead, or hangs.

    It hears by that, too, that nobody speaks to it any more: a line that was cut may not tell.
    """
    record = records.read(injection)
    agent = record["agent"]
    if not is_there(agent):
        return heal(records, injection, "the agent's death")
    if record["state"] == "reverted":
        os.kill(agent["pid"], signal.SIGUSR1)
        return record
    records.order(injection, reason)
    os.kill(agent["pid"], signal.SIGUSR1)
    until = boottime() + _PATIENCE_S
    while boottime() < until and records.read(injection)["state"] != "reverted":
        time.sleep(0.02)
    if records.read(injection)["state"] != "reverted" and is_there(agent):
        os.kill(agent["pid"], signal.SIGKILL)
        reason = "a hanging agent's end"
    return heal(records, injection, reason)


def heal(records: Records, injection: str, healer: str) -> Dict[str, Any]:
    """Undo what a record says is there, in place of a dead or hanging agent; twice is fine."""
    record = records.read(injection)
    if record["state"] == "reverted":
        return record
    adopted, failed, found = [], [], []
    begun = record["state"] in ("firing", "fired")
    for step in reversed(record["steps"]):
        try:
            if begun or not step["rash"]:
                found += steps.still(step["kind"], step["undo"])
                adopted += steps.undo(step["kind"], step["undo"])
        except Exception as error:  # whatever it is must not keep the other steps
            failed.append(f"{step.get('device', step['kind'])}: {error}")
    if failed:
        raise NotUndone(f"{'; '.join(failed)}; `aftershock recover` tries again")
    record["owned"] = [line for line in record["owned"] if line not in adopted]
    record.update(undone=found, left_to_others=adopted)
    if healer != "watcher" and (watching := record.get("watcher")) and is_there(watching):
        os.kill(watching["pid"], signal.SIGKILL)
    expired = healer == "watcher" and boottime() >= record["deadline"]
    end = {"state": "reverted", "ordered": False, "ended_by": "deadline" if expired else healer}
    record.update(end, reverted_at=min(boottime(), record["deadline"]))
    records.tell(record)
    return record
