"""A step that leaves no room: no further process in a cgroup, or no further file in processes.

The limits outlive this process, so a watcher puts them back if we can't.
"""

from __future__ import annotations

import os
from itertools import count, islice
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from . import cgroups, chosen, numbers
from .classifier import check_options
from .errors import AgentError, Invalid

_OPTIONS = ("what", "chosen", "room")
_MOST = 1_000_000


class Limit:
    """`what` is pids (of the cgroup that is chosen) or files (of each chosen process)."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        chosen.check(options["chosen"])
        if options["what"] not in ("pids", "files"):
            raise Invalid(f"limit: what {options['what']!r}: pids or files")
        if not 0 <= options["room"] <= _MOST:
            raise Invalid(f"limit: room {options['room']}: 0 to {_MOST}")
        self.kind = "limit"
        self.outlives = self.rash = True
        self.about: Dict[str, Any] = {"what": options["what"], "chosen": dict(options["chosen"])}
        self._room: int = options["room"]
        self._borrowed = numbers.Borrowed()
        self._group: Optional[cgroups.Cgroup] = None
        self._refused_before = 0
        self._injection = injection

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside: the numbers as they were."""
        return {"numbers": self._borrowed.numbers}

    def attach(self) -> Dict[str, Any]:
        """What is to be set and what is there by now; nothing is touched."""
        choice = self.about["chosen"]
        if self.about["what"] == "pids":
            group = self._group = group_of(choice, "pids")
            wanted = group.number("usage") + self._room
            if wanted >= group.number("limit"):
                raise AgentError(
                    f"limit: {group.tell()} has room for less than {self._room} processes already: "
                    "nothing would happen"
                )
            self._refused_before = group.number("max")
            lower = [numbers.of_cgroup(group, "limit", wanted)]
            self.about["cgroup"] = group.path
        else:
            found = chosen.find_exactly(choice)
            pids = chosen.with_descendants(found) if choice.get("tree") else found
            made = [numbers.of_process("files_of", pid, _full(pid, self._room)) for pid in pids]
            lower = [one for one in made if one["set"] < one["was"]]
            if not lower:
                raise AgentError("limit: these processes may open no more files already")
        self._borrowed.claim(lower)
        return {"owned": [], "undo": self.intent()}

    def fire(self, until: float) -> None:
        """Set them."""
        self._borrowed.put()

    def tick(self) -> None:
        """Nothing comes due."""

    def shut(self) -> None:
        """Put them back; what goes wrong is told when it is looked after."""
        self._borrowed.shut()

    def observe(self) -> Dict[str, Any]:
        """How many limits are set, and how many forks the kernel refused by them."""
        seen = {
            "kind": self.kind,
            "counts": {},
            "set": len(numbers.still_set(self._borrowed.numbers)),
        }
        if self._group is None:
            return seen
        try:
            refused = self._group.number("max") - self._refused_before
        except OSError:
            refused = 0
        return {**seen, "refused": refused, "cgroup": self._group.path}

    def detach(self) -> List[str]:
        """All as it was, but for what others set meanwhile."""
        return self._borrowed.restore()

    def close(self) -> None:
        """Others may set them now."""
        self._borrowed.release()


def undo(intent: Mapping[str, Any]) -> List[str]:
    """Put back the numbers that a step recorded, from any process there."""
    return numbers.restore(intent["numbers"])


def still(intent: Mapping[str, Any]) -> List[str]:
    """Which of them are as we set them."""
    found = numbers.still_set(intent["numbers"])
    return [f"{numbers.tell(number)} ({number['set']})" for number in found]


def group_of(choice: Mapping[str, Any], controller: str) -> cgroups.Cgroup:
    """The cgroup that is chosen, or that the chosen processes are in, all in the same.

    Refused by name: the root, which has no limit, and one with anybody whom we must not touch.
    """
    if choice.get("cgroup"):
        group = cgroups.find(controller, choice["cgroup"])
    else:
        there = {cgroups.of(pid, controller) for pid in chosen.find_exactly(choice)}
        if len(there) > 1:
            told = ", ".join(sorted(one.path for one in there))
            raise AgentError(f"{chosen.tell(choice)} is in several cgroups ({told}): name one")
        (group,) = there
    if not group.path.strip("/"):
        raise AgentError(
            f"{chosen.tell(choice)} is in the root {controller} cgroup, which has no limit: start "
            "it in one of its own (`systemd-run --scope` does)"
        )
    if guarded := chosen.first_protected(_everybody(group)):
        said = f"{group.tell()} has process {guarded[0]}, {guarded[1]}"
        raise Invalid(f"{said}: it is never touched")
    return group


def _everybody(group: cgroups.Cgroup) -> Sequence[int]:
    found: List[int] = []
    for folder, _, names in os.walk(group.folder):
        if "cgroup.procs" in names:
            found += group._replace(folder=Path(folder)).pids()
    return found


def _full(pid: int, room: int) -> int:
    """The soft limit that leaves so many numbers free below it: what is open stays open."""
    used = {int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()}
    free = (number for number in count() if number not in used)
    return next(islice(free, room, None))
