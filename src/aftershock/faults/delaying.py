"""A volume whose device answers late, by exactly so much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.filling import check_path

LONGEST_MS = 10_000


@dataclass(frozen=True, slots=True)
class IoDelay:
    """Let reads and writes wait for so many ms each, by dm-delay.

    On the device-mapper device (an LVM volume, say) that the volume of the directory `path` is on;
    its table is swapped while it is in use. Whole milliseconds; the kernel's clock ticks may add
    one tick.
    """

    path: str
    read_ms: int = 0
    write_ms: int = 0
    volume: str = ""

    def __post_init__(self) -> None:
        check_path(self.name, self.path)
        for name in ("read_ms", "write_ms"):
            if not 0 <= getattr(self, name) <= LONGEST_MS:
                value = getattr(self, name)
                raise InvalidFault(f"io-delay: {name} {value:g}: from 0 to {LONGEST_MS}")
        if not (self.read_ms or self.write_ms):
            raise InvalidFault("io-delay: no delay: give read_ms or write_ms")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "io-delay"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing: the device is looked at on the host."""
        return ()

    @property
    def effect(self) -> Effect:
        """Reads and writes take longer by so much."""
        return Effect("late", float(max(self.read_ms, self.write_ms)))

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def options(self) -> dict[str, Any]:
        """In the agent's words."""
        delays = {"read_ms": self.read_ms, "write_ms": self.write_ms}
        return {"path": self.path, "volume": self.volume, **delays}

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        if not facts.root:
            raise Unsupported("io-delay: devices are root's: run as root, or with sudo")
        return Plan((Step("delay", self.options(), "the old table is swapped in"),), ("latency",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, **self.options()}
