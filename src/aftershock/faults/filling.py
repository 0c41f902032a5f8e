"""A full volume: no space is left on it, or no inode, until the heal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import Effect, Facts, Plan, Step

MIB = 1 << 20
LEAST_RESERVE_MIB = 64.0
LEAST_INODES = 1000


@dataclass(frozen=True, slots=True)
class DiskFull:
    """Take a volume's space, by files without a name, until `free_mib` are left, even for root.

    `path` is a directory on it; `volume`, where given, the mount point or device that it must be
    on. Where the host's own files are there, too, `reserve_mib` is what must stay free, and is
    given back when others use it up.
    """

    path: str
    free_mib: float = 0.0
    reserve_mib: float = 256.0
    volume: str = ""
    what: ClassVar[str] = "space"

    def __post_init__(self) -> None:
        check_path(self.name, self.path)
        if not 0 <= self.free_mib <= 1 << 30:
            raise InvalidFault(f"disk-full: free_mib {self.free_mib:g}: 0 or more")
        if not LEAST_RESERVE_MIB <= self.reserve_mib <= 1 << 30:
            raise InvalidFault(
                f"disk-full: reserve_mib {self.reserve_mib:g}: {LEAST_RESERVE_MIB:g} or more, "
                "which journal and host need"
            )

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "disk-full"

    @property
    def free(self) -> int:
        """Bytes to leave."""
        return int(self.free_mib * MIB)

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def effect(self) -> Effect:
        """No room, seen by who wants to write."""
        return Effect("full")

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def options(self) -> dict[str, Any]:
        """In the agent's words."""
        reserve = int(self.reserve_mib * MIB)
        return {**_where(self), "free": self.free, "reserve": reserve}

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        return _plan(self.name, facts, self.options())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        own = {"free_mib": self.free_mib, "reserve_mib": self.reserve_mib}
        return {"name": self.name, "path": self.path, "volume": self.volume, **own}


@dataclass(frozen=True, slots=True)
class InodesFull:
    """Take a volume's inodes until `free_inodes` are left: nobody can make a file there.

    For file systems with a fixed number of them (ext4, tmpfs). Each is a file without a name, held
    open, which takes about 2 KiB of memory. Where the host's own files are, 1000 must stay free.
    """

    path: str
    free_inodes: int = 0
    volume: str = ""
    what: ClassVar[str] = "inodes"

    def __post_init__(self) -> None:
        check_path(self.name, self.path)
        if not 0 <= self.free_inodes <= 1 << 40:
            raise InvalidFault(f"inodes-full: free_inodes {self.free_inodes}: 0 or more")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "inodes-full"

    @property
    def free(self) -> int:
        """Inodes to leave."""
        return self.free_inodes

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    @property
    def effect(self) -> Effect:
        """No inode, seen by who wants to make a file."""
        return Effect("full")

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def options(self) -> dict[str, Any]:
        """In the agent's words."""
        return {**_where(self), "free": self.free, "reserve": LEAST_INODES}

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        return _plan(self.name, facts, self.options())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        own = {"free_inodes": self.free_inodes}
        return {"name": self.name, "path": self.path, "volume": self.volume, **own}


def check_path(name: str, path: str) -> None:
    """Refuse what is no absolute path."""
    if not path.startswith("/"):
        raise InvalidFault(f"{name}: path {path!r}: give it whole, from / on")


def _where(fault: DiskFull | InodesFull) -> dict[str, Any]:
    return {"what": fault.what, "path": fault.path, "volume": fault.volume}


def _plan(name: str, facts: Facts, options: dict[str, Any]) -> Plan:
    if not facts.root:
        raise Unsupported(f"{name}: filling a volume needs root: run as root, or with sudo")
    return Plan((Step("fill", options, "the agent's end: no file has a name"),), ("room",))
