"""Some processes get little of a volume's device, whatever the others get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.filling import MIB, check_path


@dataclass(frozen=True, slots=True)
class IoThrottle:
    """Limit direct and uncached I/O of processes on the volume of the directory `path`.

    Who: a `cgroup` (its path below the hierarchy's top), `containers` by their IDs, or programs
    that are `named` so. How much, 0 for no limit: MiB and requests a second, of reads and writes.
    By blkio (cgroups of version 1, where what the kernel writes back later is not limited) or
    io.max (version 2).
    """

    path: str
    read_mib_s: float = 0.0
    write_mib_s: float = 0.0
    read_iops: int = 0
    write_iops: int = 0
    cgroup: str = ""
    containers: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    volume: str = ""

    def __post_init__(self) -> None:
        check_path(self.name, self.path)
        for name in ("read_mib_s", "write_mib_s", "read_iops", "write_iops"):
            value = getattr(self, name)
            if not 0 <= value <= 1 << 30:
                raise InvalidFault(f"io-throttle: {name} {value:g}: 0 (no limit) or more")
        if not any((self.read_mib_s, self.write_mib_s, self.read_iops, self.write_iops)):
            raise InvalidFault("io-throttle: no limit: give MiB or requests a second")
        if 0 < min(self.read_mib_s or 1, self.write_mib_s or 1) < 0.01:
            raise InvalidFault("io-throttle: less than 0.01 MiB a second would hang them")
        if bool(self.cgroup) + bool(self.containers or self.named) != 1:
            raise InvalidFault("io-throttle: name a cgroup, or else containers or programs")
        if "." in self.cgroup.split("/") or ".." in self.cgroup.split("/"):
            raise InvalidFault(f"io-throttle: cgroup {self.cgroup!r}: give its whole path")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "io-throttle"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing: the cgroups are looked at on the host."""
        return ()

    @property
    def effect(self) -> Effect:
        """Who is in the same cgroup gets no more than the limit."""
        return Effect("capped")

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def limits(self) -> dict[str, int]:
        """In the kernel's words: bytes and requests a second."""
        return {
            "rbps": int(self.read_mib_s * MIB),
            "wbps": int(self.write_mib_s * MIB),
            "riops": int(self.read_iops),
            "wiops": int(self.write_iops),
        }

    def options(self) -> dict[str, Any]:
        """In the agent's words."""
        return {
            "path": self.path,
            "volume": self.volume,
            "cgroup": self.cgroup,
            "containers": list(self.containers),
            "named": list(self.named),
            **self.limits(),
        }

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        if not facts.root:
            raise Unsupported("io-throttle: cgroups are root's: run as root, or with sudo")
        return Plan((Step("throttle", self.options(), "limits are taken off again"),), ("speed",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        names = {"containers": list(self.containers), "named": list(self.named)}
        return {"name": self.name, **own, **names}
