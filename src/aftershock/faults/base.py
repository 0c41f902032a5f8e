"""What a fault is: validated data that plans, purely, what an agent carries out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from aftershock.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan needs to know of a host; an agent answers them."""

    kernel: str
    machine: str
    root: bool
    device: str
    ifindex: int
    tcx: bool
    bpf: str  # why bpf can't be used, or nothing
    infiniband: bool
    boot: str = ""

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Facts:
        """From an agent's answer."""
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing an agent does: `options` in its words; `undo` tells a reader what ends it."""

    kind: str
    options: Mapping[str, Any]
    undo: str

    def request(self) -> dict[str, Any]:
        """What the agent is sent."""
        return {"kind": self.kind, **self.options}


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done on one host and what must then be observed there."""

    step: Step
    observe: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


class Fault(Protocol):
    """A frozen dataclass of validated parameters, units in their names."""

    @property
    def name(self) -> str:
        """One word for reports and ids."""

    def cuts(self, address: str) -> bool:
        """Whether an address can't be reached from a host under this fault."""

    def plan(self, facts: Facts) -> Plan:
        """What to do on a host with these facts, or `Unsupported` with the mend."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""


def require_bpf(facts: Facts) -> None:
    """Refuse a host on which no program can be loaded."""
    if not facts.root:
        raise Unsupported(f"{facts.device}: changing a device needs root: run as root")
    if facts.bpf:
        raise Unsupported(
            f"{facts.device}: this kernel ({facts.kernel}) refuses bpf ({facts.bpf}): "
            "grant CAP_BPF and CAP_NET_ADMIN, or use Linux 5.8 or newer with CONFIG_BPF_SYSCALL"
        )
