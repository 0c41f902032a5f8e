"""Processes that wait for their GPU, and run on otherwise: their CUDA is locked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.errors import Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.processes import Processes


@dataclass(frozen=True, slots=True)
class CudaLock:
    """Lock CUDA in those of some processes that use a GPU, by cuCheckpointProcessLock.

    The lock outlives its author. The agent unlocks them, or its watcher, or `aftershock recover`.
    """

    processes: Processes

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "cuda-lock"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing of the kernel."""
        return ()

    @property
    def effect(self) -> Effect:
        """A state that the driver tells of them."""
        return Effect("cuda-locked")

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step for all of them."""
        if not facts.root:
            raise Unsupported("locking others' CUDA needs root: run as root, or with sudo")
        options = {"chosen": self.processes.request()}
        step = Step("cuda-lock", options, "they are unlocked, by the agent or its watcher")
        return Plan((step,), ("cuda_states",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, "processes": self.processes.request()}
