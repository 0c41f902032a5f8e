"""Processes that are killed, once or again and again for a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.processes import Processes

SIGNALS = ("KILL", "TERM")
_MOST, _LONGEST_S = 10_000, 86_400.0


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the processes `times` times, about `every_s` seconds apart.

    Each pause is drawn by `seed`, from half to one and a half of `every_s`. What ends them for good
    is that nobody starts them anew. By a PID there is one turn only.
    """

    processes: Processes
    times: int = 1
    every_s: float = 10.0
    seed: int = 7
    signal: str = "KILL"

    def __post_init__(self) -> None:
        if not 1 <= self.times <= _MOST:
            raise InvalidFault(f"times {self.times}: 1 to {_MOST}")
        if not 1 <= self.every_s <= _LONGEST_S:
            raise InvalidFault(f"every_s {self.every_s:g}: 1 second to a day")
        if self.signal not in SIGNALS:
            raise InvalidFault(f"signal {self.signal!r}: {' or '.join(SIGNALS)}")
        if self.times > 1 and self.processes.pid:
            raise InvalidFault(
                f"process {self.processes.pid} can be killed once, and what comes in its place has "
                "another PID: name it by a pattern or a cgroup to keep killing it"
            )

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "kill"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def effect(self) -> Effect:
        """Processes that are gone."""
        return Effect("gone")

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        if not facts.root:
            raise Unsupported("killing others' processes needs root: run as root, or with sudo")
        options = {
            "chosen": self.processes.request(),
            "times": self.times,
            "every_s": self.every_s,
            "seed": self.seed,
            "signal": self.signal,
        }
        return Plan(
            (Step("kill", options, "nothing: who started them starts them anew"),), ("look",)
        )

    def choices(self) -> list[dict[str, Any]]:
        """Which processes, in the words of an agent."""
        return [self.processes.request()]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "name": self.name,
            "processes": self.processes.request(),
            "times": self.times,
            "every_s": self.every_s,
            "seed": self.seed,
            "signal": self.signal,
        }
