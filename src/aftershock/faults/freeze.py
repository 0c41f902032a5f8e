"""Processes that hang: they are there, and do nothing, until the heal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.processes import Processes


@dataclass(frozen=True, slots=True)
class Freeze:
    """Stop every thread of some containers, or of other processes of a host.

    `containers` are IDs as a runtime gives them, without their scheme. The kernel lets them go on
    when the agent ends, however it ends. `takes_channel`: the agent is reached through what is
    frozen (a kubelet); then only the lease's deadline heals. `on_gpu`: one of each must use a GPU,
    where NVML tells who does.
    """

    containers: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    takes_channel: bool = False
    processes: tuple[Processes, ...] = ()
    on_gpu: bool = False

    def __post_init__(self) -> None:
        if not self.containers and not self.named and not self.processes:
            raise InvalidFault("freeze: neither a container nor a program's name: name one")
        for name in self.named:
            if not name or len(name) > 15 or "/" in name:
                raise InvalidFault(
                    f"freeze: program {name!r}: its name as `ps -e` shows it, at most 15 letters"
                )

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "freeze"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def effect(self) -> Effect:
        """Threads that are stopped, and use no processor time."""
        return Effect("frozen")

    def cuts(self, address: str) -> bool:
        """It cuts nobody off: the kernel still answers for them."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step for all of them."""
        if not facts.root:
            raise Unsupported("freezing others' processes needs root: run as root, or with sudo")
        options = {"chosen": self.choices(), "on_gpu": self.on_gpu}
        return Plan((Step("freeze", options, "the agent lets go of them"),), ("look",))

    def choices(self) -> list[dict[str, Any]]:
        """Which processes, in the words of an agent."""
        ids = [{"container": one} for one in self.containers]
        programs = [{"named": one} for one in self.named]
        return [*ids, *programs, *(one.request() for one in self.processes)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "name": self.name,
            "containers": list(self.containers),
            "named": list(self.named),
            "takes_channel": self.takes_channel,
            "processes": [one.request() for one in self.processes],
            "on_gpu": self.on_gpu,
        }
