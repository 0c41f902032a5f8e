"""A volume whose device ends reads or writes with an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.filling import check_path

OPERATIONS = ("read", "write", "both")
LONGEST_S = 30


@dataclass(frozen=True, slots=True)
class IoErrors:
    """Let the device end reads, writes or both with EIO: by dm-flakey, or both always by dm-error.

    Always, or by turns: none for `up_s` whole seconds, all for `down_s`. On the device-mapper
    device that the volume of the directory `path` is on.

    What a file system does after an error, it does for good: ext4 whose journal can't be written
    is read-only from then on, XFS shuts down, and so they stay after the heal, until somebody
    unmounts and checks them. So writes fail only where `file_system_may_break`. Reads harm a
    file's reader only, unless it is the file system's own: ext4 that is mounted with
    errors=remount-ro takes the first block of its own that it can't read for such an error, too.
    """

    path: str
    operation: str = "read"
    up_s: int = 0
    down_s: int = 1
    file_system_may_break: bool = False
    volume: str = ""

    def __post_init__(self) -> None:
        check_path(self.name, self.path)
        if self.operation not in OPERATIONS:
            raise InvalidFault(f"io-errors: operation {self.operation!r}: {', '.join(OPERATIONS)}")
        for name, least in (("up_s", 0), ("down_s", 1)):
            if not least <= getattr(self, name) <= LONGEST_S:
                value = getattr(self, name)
                raise InvalidFault(f"io-errors: {name} {value:g}: from {least} to {LONGEST_S}")
        if self.operation != "read" and not self.file_system_may_break:
            raise InvalidFault(
                f"io-errors: operation {self.operation}: a file system whose writes fail is "
                "read-only or shut down from then on, after the heal, too, until it is unmounted "
                "and checked: say file_system_may_break, or let only reads fail"
            )

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "io-errors"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing: the device is looked at on the host."""
        return ()

    @property
    def effect(self) -> Effect:
        """Reads or writes that end with an error."""
        return Effect("failing")

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def options(self) -> dict[str, Any]:
        """In the agent's words."""
        told = {"operation": self.operation, "up_s": self.up_s, "down_s": self.down_s}
        return {"path": self.path, "volume": self.volume, **told}

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        if not facts.root:
            raise Unsupported("io-errors: devices are root's: run as root, or with sudo")
        return Plan((Step("fail", self.options(), "the old table is swapped in"),), ("attempts",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        may = self.file_system_may_break
        return {"name": self.name, **self.options(), "file_system_may_break": may}
