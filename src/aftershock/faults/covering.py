"""A directory whose files are late for whoever opens them from now on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.filling import MIB, check_path

LONGEST_MS = 5_000
MOST_MIB = 4096.0


@dataclass(frozen=True, slots=True)
class FileDelay:
    """Let files below `path` be read from a copy of it whose reads take `read_ms` each.

    For who opens them while it holds: a server that loads its weights. The copy, of `most_mib` at
    most, can't be written to (EROFS), which `read_only` has to agree to. `RESERVE_MIB` stay free on
    a volume that the host needs.
    """

    path: str
    read_ms: int
    read_only: bool = False
    most_mib: float = 512.0
    RESERVE_MIB: ClassVar[int] = 256

    def __post_init__(self) -> None:
        check_path(self.name, self.path)
        if not 1 <= self.read_ms <= LONGEST_MS:
            raise InvalidFault(f"file-delay: read_ms {self.read_ms:g}: from 1 to {LONGEST_MS}")
        if not 0 < self.most_mib <= MOST_MIB:
            raise InvalidFault(
                f"file-delay: most_mib {self.most_mib:g}: more than 0, at most {MOST_MIB:g}"
            )
        if not self.read_only:
            raise InvalidFault(
                f"file-delay: who opens a file below {self.path} for writing gets EROFS while it "
                "holds: say read_only=True where nobody has to write there"
            )

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "file-delay"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing: the directory is looked at on the host."""
        return ()

    @property
    def effect(self) -> Effect:
        """Reads of files that are opened from now on take so long."""
        return Effect("late-files", float(self.read_ms))

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def options(self) -> dict[str, Any]:
        """In the agent's words."""
        sizes = {"most": int(self.most_mib * MIB), "reserve": self.RESERVE_MIB * MIB}
        return {"path": self.path, "read_ms": self.read_ms, **sizes}

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        if not facts.root:
            raise Unsupported("file-delay: mounts are root's: run as root, or with sudo")
        return Plan((Step("cover", self.options(), "the copy is taken off"),), ("opened",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        own = {"read_ms": self.read_ms, "read_only": self.read_only, "most_mib": self.most_mib}
        return {"name": self.name, "path": self.path, **own}
