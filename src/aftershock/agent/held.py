"""One injection as the agent holds it: armed, fired, reverted, and what is written down of it.

The record is on disk before each step, so whoever comes after knows what to look for.
"""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, Optional, Sequence

from . import watcher
from .clock import boottime, identity
from .errors import AgentError, Invalid, NotUndone, Over
from .facts import fingerprint
from .records import Record, Records
from .steps import Step, make

ORDER = "order"
_LONGEST_WAIT_S = 0.25


class Lease:
    """Until when an injection may last, and whether only that ends it."""

    def __init__(self, lease_s: float, grace_s: float, deadline_only: bool) -> None:
        if not 0 < lease_s <= 86400:
            raise Invalid(f"lease_s {lease_s}: more than 0, at most a day")
        if not 0 < grace_s <= 3600:
            raise Invalid(f"grace_s {grace_s}: more than 0, at most an hour")
        self.deadline = boottime() + lease_s
        self.grace_s = grace_s
        self.deadline_only = deadline_only


class Held:
    """A fault's steps on this host, from armed to reverted."""

    def __init__(
        self, injection: str, steps: Sequence[Dict[str, Any]], lease: Lease, records: Records
    ) -> None:
        if not steps:
            raise Invalid("no steps: nothing would happen")
        self.lease = lease
        self._records = records
        self._steps: List[Step] = []
        began = time.perf_counter()
        try:
            for options in steps:
                self._steps.append(make(injection, options))
        except BaseException:
            self._close()
            raise
        self._watcher = watcher.NONE
        self._took_s = time.perf_counter() - began
        self.record: Record = {
            "injection": injection,
            "state": "arming",
            "devices": sorted({d for step in self._steps if (d := step.about.get("device"))}),
            "looks": sorted({look for step in self._steps for look in step.about.get("looks", ())}),
            "agent": identity(os.getpid()),
            "deadline": lease.deadline,
            "deadline_only": lease.deadline_only,
            "fired_at": None,
            "reverted_at": None,
            "ended_by": None,
            "ordered": False,
            "owned": [],
            "dropped": {},
            "seen": [],
            "steps": [
                {"kind": step.kind, **step.about, "rash": step.rash, "undo": step.intent()}
                for step in self._steps
            ],
        }

    def arm(self) -> Record:
        """Everything prepared and attached with the gate shut: nothing is felt."""
        try:
            self.record["before"] = fingerprint(self.record["devices"], self.record["looks"])
            self._write()
            if any(step.outlives for step in self._steps):
                path = str(self._records.path(self.record["injection"]))
                self._watcher = watcher.start(path, self.lease.deadline)
                self.record["watcher"] = self._watcher.identity
                self._write()
            began = time.perf_counter()
            for step, record in zip(self._steps, self.record["steps"]):
                done = step.attach()
                record["undo"] = done["undo"]
                self.record["owned"] += done["owned"]
            # Programs, maps and attaching alone: without the disk, the watcher and the fingerprint.
            self.record["attached_in_s"] = self._took_s + time.perf_counter() - began
            self.record["state"] = "armed"
            self._write()
        except BaseException:
            self.revert("failed arm", ordered=False)
            raise
        return self.record

    def fire(self, at: Optional[float] = None) -> Dict[str, Any]:
        """Start biting; what undoes it is on disk since the arming, so this waits for no disk.

        `at`: not before this moment, so that many hosts begin together.
        """
        if self.record["state"] != "armed":
            raise Invalid(f"injection {self.record['injection']} is {self.record['state']}")
        before = boottime()
        if before >= self.lease.deadline:
            raise AgentError("the lease ended before the fault was fired: arm it again")
        if any(step.rash for step in self._steps):
            self.record["state"] = "firing"
            self._write()
        if at is not None:
            time.sleep(min(max(at - boottime(), 0.0), _LONGEST_WAIT_S))
            before = boottime()
        for step in self._steps:
            step.fire(self.lease.deadline)
        after = boottime()
        self.record.update(state="fired", fired_at=before)
        self._write()
        return {"fired_at": before, "took_s": after - before}

    def observe(self) -> List[Dict[str, Any]]:
        """What was seen so far, an entry a step."""
        return self._look() if self.is_on() else list(self.record["seen"])

    def _look(self) -> List[Dict[str, Any]]:
        return [step.observe() for step in self._steps]

    def is_on(self) -> bool:
        """Whether anything of it is still attached."""
        return self.record["state"] in ("arming", "armed", "firing", "fired")

    def tick(self) -> None:
        """Let the steps do what came due; one that ended by itself ends them all."""
        if self.record["state"] == "fired":
            try:
                for step in self._steps:
                    step.tick()
            except Over as over:
                self.revert(str(over), ordered=False)

    def revert(self, ended_by: str, ordered: bool) -> Record:
        """Take it back, once; what ended it first is what the record says."""
        if not self.is_on():
            return self.record
        if self.record["ended_by"] is None:
            self._end(ended_by, ordered)
        adopted: List[str] = []
        failed: List[str] = []
        began = time.perf_counter()
        for step in reversed(self._steps):
            try:
                adopted += step.detach()
            except Exception as error:  # whatever it is must not keep the other steps
                failed.append(f"{step.about.get('device', step.kind)}: {error}")
        if failed:
            self._records.tell(self.record)
            raise NotUndone(f"{'; '.join(failed)}; `aftershock recover` tries again")
        self.record["owned"] = [line for line in self.record["owned"] if line not in adopted]
        self.record["detached_in_s"] = time.perf_counter() - began
        self.record["state"] = "reverted"
        self._watcher.end()
        self._close()
        self._records.tell(self.record)  # a full disk must not turn a heal into a failure
        return self.record

    def _end(self, ended_by: str, ordered: bool) -> None:
        expired = boottime() >= self.lease.deadline
        for step in self._steps:
            step.shut()
        self.record["reverted_at"] = min(boottime(), self.lease.deadline)
        self.record["seen"] = self._look()
        self.record["dropped"] = _dropped(self.record["seen"])
        self.record["ended_by"] = "deadline" if expired else ended_by
        self.record["ordered"] = ordered and not expired

    def _close(self) -> None:
        for step in self._steps:
            step.close()

    def _write(self) -> None:
        self._records.write(self.record)


def _dropped(seen: Sequence[Dict[str, Any]]) -> Dict[str, Dict[str, int]]:
    """Packets and bytes that were dropped, by direction, over all devices."""
    total: Dict[str, Dict[str, int]] = {}
    for step in seen:
        for way, counts in step["counts"].items() if step["kind"] == "drop" else ():
            sums = total.setdefault(way, {"packets": 0, "bytes": 0})
            for name in sums:
                sums[name] += counts[name]
    return total
