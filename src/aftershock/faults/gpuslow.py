"""GPUs that run slower than they could."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.gpu import check_gpus


@dataclass(frozen=True, slots=True)
class GpuSlowdown:
    """Lock GPUs' clocks to `clock_mhz`, or limit their power to `power_w`, or both.

    Both outlive their author and everybody on the card feels them: `allowed` must say so. The agent
    puts them back, or its watcher, or `aftershock recover`; a restart of the host does, too.
    """

    gpus: tuple[str, ...] = ("0",)
    clock_mhz: float = 0.0
    power_w: float = 0.0
    allowed: bool = False
    used_by: str = ""
    anyone: bool = False

    def __post_init__(self) -> None:
        check_gpus(
            self.gpus,
            "clocks and power limits are its whole card's: name the GPU, if all who share it may "
            "feel that",
        )
        for name in ("clock_mhz", "power_w"):
            if not 0 <= getattr(self, name) <= 100_000:
                raise InvalidFault(f"{name} {getattr(self, name):g}: more than 0, or 0 to leave it")
        if not self.clock_mhz and not self.power_w:
            raise InvalidFault("GPU slowdown: neither clock_mhz nor power_w: nothing would happen")
        if not self.allowed:
            raise InvalidFault(
                "GPU slowdown: clocks and power limits outlive whoever set them, and all who use "
                "the card feel them: say allowed=true if that is what you want"
            )

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "gpu-slowdown"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing of the kernel."""
        return ()

    @property
    def effect(self) -> Effect:
        """Clocks, or the power limit, as NVML tells them."""
        return Effect("gpu-slow")

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step for all GPUs of the host."""
        if not facts.root:
            raise Unsupported("clocks and power limits need root: run as root, or with sudo")
        options = asdict(self)
        del options["allowed"]
        undo = "clocks are reset and limits put back, by the agent or its watcher"
        step = Step("gpu-slow", {**options, "gpus": list(self.gpus)}, undo)
        return Plan((step,), ("gpu",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, **asdict(self), "gpus": list(self.gpus)}
