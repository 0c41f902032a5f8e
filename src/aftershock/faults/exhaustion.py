"""Processes that run out: of memory (the kernel kills), of processes, of open files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.processes import Processes

_MOST_KILLS, _MOST_ROOM = 100, 1000
_RESTORED = "limits as they were, by the agent or its watcher"


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """Have the kernel kill `kills` processes of a cgroup for memory; the chosen ones go first.

    The limit of their memory cgroup is lowered to just above what it uses, and a child of ours in
    it, whom the kernel takes last, takes the rest. After that the limit is as it was.
    """

    processes: Processes
    kills: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.kills <= _MOST_KILLS:
            raise InvalidFault(f"kills {self.kills}: 1 to {_MOST_KILLS}")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "out-of-memory"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def effect(self) -> Effect:
        """Processes that the kernel killed for memory."""
        return Effect("oom", self.kills)

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        if not facts.root:
            raise Unsupported("others' memory limits need root: run as root, or with sudo")
        options = {"chosen": self.processes.request(), "kills": self.kills}
        return Plan((Step("oom", options, _RESTORED),), ("look", "vitals"))

    def choices(self) -> list[dict[str, Any]]:
        """Which processes, in the words of an agent."""
        return [self.processes.request()]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        told = {"processes": self.processes.request(), "kills": self.kills}
        return {"name": self.name, **told}


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Leave `room` for more: processes in a cgroup (`pids`), open files a process (`files`).

    By the cgroup's pids.max, or the soft RLIMIT_NOFILE of each chosen process. What is there or
    open stays. `pids` touches the whole pids cgroup that the chosen processes are in.
    """

    what: str
    processes: Processes
    room: int = 0

    def __post_init__(self) -> None:
        if self.what not in ("pids", "files"):
            raise InvalidFault(f"what {self.what!r}: pids or files")
        if not 0 <= self.room <= _MOST_ROOM:
            raise InvalidFault(f"room {self.room}: 0 to {_MOST_ROOM}")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return f"no-more-{self.what}"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def effect(self) -> Effect:
        """No process can be begun there, or no number is free for a file."""
        return Effect("exhausted")

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        if not facts.root:
            raise Unsupported("others' limits need root: run as root, or with sudo")
        options = {"what": self.what, "chosen": self.processes.request(), "room": self.room}
        return Plan((Step("limit", options, _RESTORED),), ("look",))

    def choices(self) -> list[dict[str, Any]]:
        """Which processes, in the words of an agent."""
        return [self.processes.request()]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        told = {"what": self.what, "processes": self.processes.request(), "room": self.room}
        return {"name": self.name, **told}
