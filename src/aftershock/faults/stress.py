"""Hosts that are short of processor time or of memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step

MB = 1 << 20
_MOST_CORES = 4096
_LEAST_RESERVE_MB = 64


@dataclass(frozen=True, slots=True)
class CpuStress:
    """Use `cores` processors' worth of time, by a child of the agent for each.

    `cpus`: pinned to these, in turn; else wherever the scheduler puts them. `nice`: from -20 (they
    come first) to 19. `cgroup`: within it, so against its own share and limit; a path as
    /proc/PID/cgroup shows it. The kernel ends them with the agent.
    """

    cores: float
    cpus: tuple[int, ...] = ()
    nice: int = 0
    cgroup: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.cores <= _MOST_CORES:
            raise InvalidFault(f"cores {self.cores:g}: more than 0, at most {_MOST_CORES}")
        if any(cpu < 0 for cpu in self.cpus):
            raise InvalidFault(f"cpus {list(self.cpus)}: numbers from 0")
        if len(set(self.cpus)) != len(self.cpus):
            raise InvalidFault(f"cpus {list(self.cpus)}: name each once")
        if self.cpus and self.cores > len(self.cpus):
            raise InvalidFault(f"cores {self.cores:g} on {len(self.cpus)} CPUs: name more of them")
        if not -20 <= self.nice <= 19:
            raise InvalidFault(f"nice {self.nice}: from -20 (first) to 19 (last)")
        if self.cgroup and not self.cgroup.startswith("/"):
            raise InvalidFault(f"cgroup {self.cgroup!r}: a path as /proc/PID/cgroup shows it")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "cpu-stress"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def effect(self) -> Effect:
        """Processors that are busier by so many."""
        return Effect("busy", self.cores)

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        if not facts.root and (self.nice < 0 or self.cgroup):
            raise Unsupported("a nice below 0, or another's cgroup, needs root: run with sudo")
        options = {**asdict(self), "cpus": list(self.cpus)}
        return Plan((Step("cpu-stress", options, "the children end with the agent"),), ("vitals",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, **asdict(self), "cpus": list(self.cpus)}


@dataclass(frozen=True, slots=True)
class MemoryPressure:
    """Take memory until only `available_mb` are left, or `take_mb` of it: one of both.

    `of`: `anonymous`, or `page-cache` (locked parts of a file without a name in `folder`, which
    takes no room on its disk). `reserve_mb` are never touched, and given back first when others
    want them, so that the host does not run out. A child of the agent holds it; its end, by
    whatever hand, frees all.
    """

    take_mb: float = 0.0
    available_mb: float = 0.0
    of: str = "anonymous"
    folder: str = "/var/tmp"
    reserve_mb: float = 256.0

    def __post_init__(self) -> None:
        for name in ("take_mb", "available_mb"):
            if not 0 <= getattr(self, name) <= 1 << 30:
                raise InvalidFault(f"{name} {getattr(self, name):g}: megabytes, 0 or more")
        if bool(self.take_mb) == bool(self.available_mb):
            raise InvalidFault(
                "memory: give take_mb (how much to take) or available_mb (how much to leave), "
                "and one of them only"
            )
        if self.of not in ("anonymous", "page-cache"):
            raise InvalidFault(f"of {self.of!r}: anonymous or page-cache")
        if self.reserve_mb < _LEAST_RESERVE_MB:
            raise InvalidFault(f"reserve_mb {self.reserve_mb:g}: {_LEAST_RESERVE_MB} at least")
        if self.available_mb and self.available_mb < self.reserve_mb:
            raise InvalidFault(
                f"available_mb {self.available_mb:g} is below the reserve, {self.reserve_mb:g} MB: "
                "leave more, or lower reserve_mb, which keeps the host from running out"
            )
        if not self.folder.startswith("/"):
            raise InvalidFault(f"folder {self.folder!r}: a whole path on the host")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "memory-pressure"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def effect(self) -> Effect:
        """MemAvailable that falls."""
        return Effect("pressed", self.take_mb)

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        if not facts.root:
            raise Unsupported("holding so much memory needs root: run as root, or with sudo")
        options = {
            "bytes": int(self.take_mb * MB),
            "available_bytes": int(self.available_mb * MB),
            "of": self.of,
            "folder": self.folder,
            "reserve_bytes": int(self.reserve_mb * MB),
        }
        undo = "the child that holds it ends with the agent"
        return Plan((Step("memory-pressure", options, undo),), ("vitals",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, **asdict(self)}
