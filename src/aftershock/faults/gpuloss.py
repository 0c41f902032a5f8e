"""A GPU that is lost: its processes hear errors from CUDA, and monitoring hears of an Xid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.errors import InvalidFault
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.gpu import check_gpus
from aftershock.faults.processes import Processes

# CUresult's numbers.
ERRORS = {
    "out-of-memory": 2,
    "device-lost": 46,
    "ecc": 214,
    "illegal-address": 700,
    "launch-failed": 719,
}


@dataclass(frozen=True, slots=True)
class GpuLoss:
    """Both halves of a lost GPU, or one of them.

    `processes`: whose CUDA `calls` (all that are known where none is named) fail with `error`;
    nobody's where there are none. `newcomers`: also of those that come in their place. `xid`: what
    monitoring is told of `gpus`; 0: nothing. `kernel_log`: a line in the kernel's log as well,
    which says that it was injected, and stays there.
    """

    gpus: tuple[str, ...] = ("0",)
    processes: Processes | None = None
    calls: tuple[str, ...] = ()
    error: str = "device-lost"
    newcomers: bool = True
    xid: int = 79
    kernel_log: bool = False

    def __post_init__(self) -> None:
        check_gpus(self.gpus, "an Xid is its whole card's: name the GPU, by index or UUID")
        if self.error not in ERRORS:
            raise InvalidFault(f"error {self.error!r}: one of {', '.join(ERRORS)}")
        if not 0 <= self.xid <= 999:
            raise InvalidFault(f"xid {self.xid}: 1 to 999, or 0 for none")
        if self.processes is None and not self.xid:
            raise InvalidFault("GPU loss: neither a process nor an xid: nothing would happen")
        if self.kernel_log and not self.xid:
            raise InvalidFault("kernel_log without an xid: there is nothing to write")
        if wrong := [
            call for call in self.calls if not call.startswith("cu") or not call.isascii()
        ]:
            raise InvalidFault(f"calls: {wrong[0]!r}: names of the driver API, as cuMemAlloc_v2")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "gpu-loss"

    @property
    def half(self) -> str:
        """What a lost GPU would have beside this; nothing where it has both."""
        if self.processes is None:
            return "its processes hear nothing of it from CUDA"
        return "" if self.xid else "monitoring is told nothing of it"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing of the kernel."""
        return ()

    @property
    def effect(self) -> Effect:
        """CUDA calls that fail, and an Xid that DCGM shows."""
        return Effect("gpu-lost")

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """A step for each half."""
        steps = []
        if self.processes:
            options = {
                "chosen": self.processes.request(),
                "calls": list(self.calls),
                "error": ERRORS[self.error],
                "newcomers": self.newcomers,
            }
            steps.append(Step("cuda-fault", options, "the kernel lets go of the file's lock"))
        if self.xid:
            told = {"gpus": list(self.gpus), "xid": self.xid, "kernel_log": self.kernel_log}
            steps.append(Step("gpu-xid", told, "DCGM is told of none"))
        return Plan(tuple(steps), ("gpu",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "name": self.name,
            "gpus": list(self.gpus),
            "processes": self.processes.request() if self.processes else None,
            "calls": list(self.calls),
            "error": self.error,
            "newcomers": self.newcomers,
            "xid": self.xid,
            "kernel_log": self.kernel_log,
            "half": self.half,
        }
