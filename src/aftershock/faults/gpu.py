"""GPUs that are short of memory, or of time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from aftershock.errors import InvalidFault
from aftershock.faults.base import Effect, Facts, Plan, Step

MIB = 1 << 20
_MOST_MIB = 1 << 24
_MOST_STEPS = 1000
_LONGEST_S = 3600.0
_PAGE_MIB = 2  # what a driver hands out memory in


def check_gpus(gpus: tuple[str, ...], whole: str = "") -> None:
    """Refuse what names no GPU.

    `whole`: why it must be a GPU, not a MIG instance; nothing where that may be named, too.
    """
    if not gpus:
        raise InvalidFault("gpus: none is named: indexes (0,1), UUIDs (GPU-…, MIG-…), or all")
    for name in gpus:
        if name.startswith("MIG-") and whole:
            raise InvalidFault(f"gpus: {name} is a MIG instance, and {whole}")
        if not (name.isdecimal() or name.startswith(("GPU-", "MIG-")) or gpus == ("all",)):
            raise InvalidFault(f"gpus: {name!r}: an index (0), a UUID (GPU-…, MIG-…), or all alone")


@dataclass(frozen=True, slots=True)
class GpuMemoryPressure:
    """Take memory of GPUs: `take_mib`, or all but `free_mib`, or until a `share` is used.

    `gpus`: indexes, UUIDs, or `all`. `keep`: what others let go of meanwhile is taken as well, so
    that no more than `free_mib`, or the rest of the `share`, is ever free. In `steps` equal parts
    over `over_s` seconds. `block_mib`: in blocks of that size with as much free between them, so
    that large allocations fail where a GPU needs memory in one piece; twice as much is taken for a
    moment, and what is held is whole blocks. `used_by`: a regular expression for the command lines
    of those who may use the GPUs; anybody else's GPU is refused, unless `anyone`. A child of the
    agent for each GPU holds it; the driver takes it back with the child, and the kernel ends that
    with the agent.
    """

    gpus: tuple[str, ...] = ("0",)
    take_mib: float = 0.0
    free_mib: float = 0.0
    share: float = 0.0
    keep: bool = False
    steps: int = 1
    over_s: float = 0.0
    block_mib: float = 0.0
    used_by: str = ""
    anyone: bool = False

    def __post_init__(self) -> None:
        check_gpus(self.gpus)
        self._check_blocks()
        given = [name for name in ("take_mib", "free_mib", "share") if getattr(self, name)]
        if len(given) != 1:
            raise InvalidFault(
                "GPU memory: give take_mib (how much to take), free_mib (how much to leave) or "
                f"share (how full), and one of them only, not {' and '.join(given) or 'none'}"
            )
        for name in ("take_mib", "free_mib"):
            if not 0 <= getattr(self, name) <= _MOST_MIB:
                raise InvalidFault(f"{name} {getattr(self, name):g}: MiB, more than 0")
        if not 0 <= self.share <= 1:
            raise InvalidFault(f"share {self.share:g}: of the card's memory, more than 0 to 1")
        if self.keep and self.take_mib:
            raise InvalidFault("keep with take_mib: say how much is to stay free, or how full")
        if not 1 <= self.steps <= _MOST_STEPS:
            raise InvalidFault(f"steps {self.steps}: 1 to {_MOST_STEPS}")
        if not 0 <= self.over_s <= _LONGEST_S:
            raise InvalidFault(f"over_s {self.over_s:g}: 0 to {_LONGEST_S:g} seconds")
        if self.over_s and self.steps == 1:
            raise InvalidFault(f"over_s {self.over_s:g} with one step: say how many steps")

    def _check_blocks(self) -> None:
        """Every other block is freed once, at the begin."""
        if self.block_mib % _PAGE_MIB or not 0 <= self.block_mib <= _MOST_MIB:
            raise InvalidFault(
                f"block_mib {self.block_mib:g}: 0 for no blocks, or a multiple of {_PAGE_MIB} MiB, "
                "which drivers hand out memory in"
            )
        if self.block_mib and self.keep:
            raise InvalidFault(
                "block_mib with keep: that would take what is freed between the blocks: leave one "
                "of them out"
            )
        if self.block_mib and self.steps > 1:
            raise InvalidFault(
                f"block_mib with {self.steps} steps: each would fill what the one before it freed: "
                "take the blocks in one"
            )

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "gpu-memory-pressure"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing of the kernel."""
        return ()

    @property
    def effect(self) -> Effect:
        """NVML's used memory rises; of blocks, large allocations fail beside that."""
        return Effect("gpu-fragmented" if self.block_mib else "gpu-pressed", self.over_s)

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step for all GPUs of the host."""
        options = {
            "gpus": list(self.gpus),
            "take_bytes": int(self.take_mib * MIB),
            "free_bytes": int(self.free_mib * MIB),
            "share": self.share,
            "keep": self.keep,
            "steps": self.steps,
            "over_s": self.over_s,
            "block_bytes": int(self.block_mib * MIB),
            "used_by": self.used_by,
            "anyone": self.anyone,
        }
        undo = "the driver frees it with the child, which ends with the agent"
        return Plan((Step("gpu-memory", options, undo),), ("gpu",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, **asdict(self), "gpus": list(self.gpus)}


@dataclass(frozen=True, slots=True)
class GpuComputePressure:
    """Keep all processors of GPUs busy for `duty_percent` of the time, by kernels of our own.

    `bound`: by `compute`, or by the `bandwidth` of the GPU's memory. The rest is as it is for
    `GpuMemoryPressure`, but for MIG instances, which are refused.
    """

    gpus: tuple[str, ...] = ("0",)
    duty_percent: float = 100.0
    bound: str = "compute"
    used_by: str = ""
    anyone: bool = False

    def __post_init__(self) -> None:
        unseen = "NVML tells nobody how busy one is, so no effect could be seen: name a whole GPU"
        check_gpus(self.gpus, unseen)
        if not 1 <= self.duty_percent <= 100:
            raise InvalidFault(f"duty_percent {self.duty_percent:g}: 1 to 100")
        if self.bound not in ("compute", "bandwidth"):
            raise InvalidFault(f"bound {self.bound!r}: compute or bandwidth")

    @property
    def name(self) -> str:
        """One word for reports and ids."""
        return "gpu-compute-pressure"

    @property
    def wants(self) -> tuple[str, ...]:
        """Nothing of the kernel."""
        return ()

    @property
    def effect(self) -> Effect:
        """NVML's utilisation rises."""
        return Effect("gpu-busy", self.duty_percent)

    def cuts(self, address: str) -> bool:
        """It cuts nobody off."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """One step for all GPUs of the host."""
        options = {
            "gpus": list(self.gpus),
            "duty": self.duty_percent / 100,
            "bound": self.bound,
            "used_by": self.used_by,
            "anyone": self.anyone,
        }
        undo = "the child that runs kernels ends with the agent"
        return Plan((Step("gpu-compute", options, undo),), ("gpu",))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, **asdict(self), "gpus": list(self.gpus)}
