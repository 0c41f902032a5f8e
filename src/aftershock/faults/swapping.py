"""Processes whose own memory is in swap, and has to be read back whenever it is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.processes import Processes


@dataclass(frozen=True, slots=True)
class SwapOut:
    """Have the kernel swap out the memory of the cgroup that processes are in.

    `keep_share` of what is anonymous there stays in memory at any time: memory.high is set to that,
    above which the kernel takes memory back, slows down who wants more, and kills nobody.
    """

    processes: Processes
    keep_share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.keep_share < 1:
            raise InvalidFault(f"swap-out: keep_share {self.keep_share:g}: 0 to less than 1")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "swap-out"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def effect(self) -> Effect:
        """So large a share of the memory is in swap."""
        return Effect("swapped", share=1 - self.keep_share)

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        if not facts.root:
            raise Unsupported("others' memory limits need root: run as root, or with sudo")
        options = {"chosen": self.processes.request(), "keep_share": self.keep_share}
        undo = "memory.high as it was, by the agent or its watcher"
        return Plan((Step("swap-out", options, undo),), ("look", "vitals"))

    def choices(self) -> list[dict[str, Any]]:
        """Which processes, in the words of an agent."""
        return [self.processes.request()]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        told = {"processes": self.processes.request(), "keep_share": self.keep_share}
        return {"name": self.name, **told}
