"""A volume whose device is kept busy, so that everybody else waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from aftershock.errors import InvalidFault
from aftershock.faults.base import Effect, Facts, Plan, Step
from aftershock.faults.filling import MIB, check_path

Pattern = Literal["read", "write", "randread", "randwrite", "rw", "randrw"]
Engine = Literal["auto", "io_uring", "libaio"]


@dataclass(frozen=True, slots=True)
class IoPressure:
    """Run fio on a file without a name, on the volume of the directory `path`.

    `pattern` as fio names them, `read_share` of mixed ones. `depth` requests of `block_kib` are
    under way at once for each of `jobs`. `rate_mib_s` caps all jobs together, 0: as fast as it
    goes. The file has `size_mib`, or what the volume's room allows: a tenth of it is left alone, or
    `reserve_mib` where the host's own files are. `engine` auto: io_uring where it works, else
    libaio.
    """

    path: str
    pattern: Pattern = "randrw"
    block_kib: int = 128
    depth: int = 32
    jobs: int = 1
    size_mib: float = 256.0
    rate_mib_s: float = 0.0
    read_share: float = 0.5
    direct: bool = True
    engine: Engine = "auto"
    reserve_mib: float = 256.0
    volume: str = ""

    def __post_init__(self) -> None:
        check_path(self.name, self.path)
        for name, known in (("pattern", get_args(Pattern)), ("engine", get_args(Engine))):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise InvalidFault(f"io-pressure: {name} {value!r}: one of {', '.join(known)}")
        for name, least, most in (
            ("block_kib", 4, 16384),
            ("depth", 1, 4096),
            ("jobs", 1, 256),
            ("size_mib", 4, 1 << 20),
            ("rate_mib_s", 0, 1 << 20),
            ("read_share", 0, 1),
            ("reserve_mib", 64, 1 << 30),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise InvalidFault(f"io-pressure: {name} {value:g}: from {least} to {most}")
        if self.block_kib % 4:
            raise InvalidFault(f"io-pressure: block_kib {self.block_kib}: a multiple of 4")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "io-pressure"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing of the kernel: fio and its engine are tried on the volume."""
        return ()

    @property
    def effect(self) -> Effect:
        """Others' reads and writes take longer."""
        return Effect("late")

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def options(self) -> dict[str, Any]:
        """In the agent's words: bytes, and bytes a second."""
        return {
            "path": self.path,
            "volume": self.volume,
            "size": int(self.size_mib * MIB),
            "reserve": int(self.reserve_mib * MIB),
            "pattern": self.pattern,
            "block": self.block_kib * 1024,
            "depth": self.depth,
            "jobs": self.jobs,
            "rate": int(self.rate_mib_s * MIB),
            "read_share": self.read_share,
            "direct": self.direct,
            "engine": self.engine,
        }

    def plan(self, facts: Facts) -> Plan:
        """One step."""
        return Plan((Step("press", self.options(), "fio ends with the agent"),), ("latency",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"name": self.name, **own}
