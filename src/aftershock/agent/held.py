"""One injection as the agent holds it: armed, fired, reverted, and what is written down of it.

The record is on disk before each step, so whoever comes after knows what to look for.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, List

from . import watcher
from .clock import boottime, identity
from .dropper import DIRECTIONS, Dropper
from .errors import AgentError, CannotDo, Invalid, NotUndone
from .facts import device_index, fingerprint
from .hooks import Clsact, Tcx
from .records import Record, Records

ORDER = "order"
_STEP = {"kind", "device", "directions", "drop", "pass", "hook"}


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
    """A drop step, from armed to reverted."""

    def __init__(
        self, injection: str, step: Dict[str, Any], lease: Lease, records: Records
    ) -> None:
        _check(step)
        self.lease = lease
        self._records = records
        self._device = step["device"]
        self._directions: List[str] = list(step["directions"])
        ifindex = device_index(self._device)
        self._dropper = Dropper(step["drop"], step["pass"], self._directions)
        self._hook: Any = (
            Tcx(ifindex, self._directions)
            if step["hook"] == "tcx"
            else Clsact(ifindex, self._directions, injection)
        )
        self._watcher = watcher.NONE
        self.record: Record = {
            "injection": injection,
            "state": "arming",
            "device": self._device,
            "hook": step["hook"],
            "agent": identity(os.getpid()),
            "deadline": lease.deadline,
            "deadline_only": lease.deadline_only,
            "fired_at": None,
            "reverted_at": None,
            "ended_by": None,
            "ordered": False,
            "owned": [],
            "dropped": {},
            "undo": self._hook.intent(),
        }

    def arm(self) -> Record:
        """Everything prepared and attached with the gate shut: nothing is felt."""
        self.record["before"] = fingerprint(self._device)
        self._write()
        try:
            if self.record["hook"] == "clsact":
                path = str(self._records.path(self.record["injection"]))
                self._watcher = watcher.start(path, self.lease.deadline)
                self.record["watcher"] = self._watcher.identity
                self._write()
            self.record.update(self._attach(), state="armed")
            self._write()
        except BaseException:
            self.revert("failed arm", ordered=False)
            raise
        return self.record

    def _attach(self) -> Dict[str, Any]:
        done = self._hook.attach(self._dropper.programs)
        return {"owned": done.pop("owned"), "undo": done}

    def fire(self) -> Dict[str, Any]:
        """Start dropping; what undoes it is on disk since the arming, so this waits for no disk."""
        if self.record["state"] != "armed":
            raise Invalid(f"injection {self.record['injection']} is {self.record['state']}")
        before = boottime()
        if before >= self.lease.deadline:
            raise AgentError("the lease ended before the fault was fired: arm it again")
        self._dropper.open_gate(self.lease.deadline)
        after = boottime()
        self.record.update(state="fired", fired_at=before)
        self._write()
        return {"fired_at": before, "took_s": after - before}

    def observe(self) -> Dict[str, Dict[str, int]]:
        """Packets and bytes dropped so far, by direction, as counted by the program."""
        return self._dropper.counts() if self.is_on() else dict(self.record["dropped"])

    def is_on(self) -> bool:
        """Whether anything of it is still attached."""
        return self.record["state"] in ("arming", "armed", "fired")

    def revert(self, ended_by: str, ordered: bool) -> Record:
        """Take it back, once; what ended it first is what the record says."""
        if not self.is_on():
            return self.record
        if self.record["ended_by"] is None:
            self._end(ended_by, ordered)
        try:
            adopted = self._hook.detach()
        except Exception as error:
            self._write()
            raise NotUndone(f"{self._device}: {error}; `aftershock recover` tries again") from error
        self.record["owned"] = [line for line in self.record["owned"] if line not in adopted]
        self.record["state"] = "reverted"
        self._watcher.end()
        self._dropper.close()
        try:
            self._write()
        except OSError as error:  # a full disk must not turn a heal into a failure
            print(f"aftershock agent: record: {error}", file=sys.stderr, flush=True)
        return self.record

    def _end(self, ended_by: str, ordered: bool) -> None:
        expired = boottime() >= self.lease.deadline
        self._dropper.shut_gate()
        self.record["reverted_at"] = min(boottime(), self.lease.deadline)
        self.record["dropped"] = self._dropper.counts()
        self.record["ended_by"] = "deadline" if expired else ended_by
        self.record["ordered"] = ordered and not expired

    def _write(self) -> None:
        self._records.write(self.record)


def _check(step: Dict[str, Any]) -> None:
    if set(step) != _STEP or step["kind"] != "drop":
        raise Invalid(f"step {step}: a drop step has {', '.join(sorted(_STEP))} and nothing else")
    if not step["directions"] or not set(step["directions"]) <= set(DIRECTIONS):
        raise Invalid(f"directions {step['directions']}: some of {', '.join(DIRECTIONS)}")
    if step["hook"] not in ("tcx", "clsact"):
        raise CannotDo(f"hook {step['hook']!r}: tcx or clsact")
