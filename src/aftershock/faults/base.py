"""What a fault is: validated data that plans, purely, what an agent carries out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from aftershock.errors import Unsupported


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a plan needs to know of one network device.

    `rdma` says why traffic control doesn't see all that goes through it, or nothing; `ethernet` is
    whether its packets have an Ethernet header.
    """

    name: str
    ifindex: int
    tcx: bool
    rdma: str = ""
    ethernet: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plan needs to know of a host; an agent answers them.

    `lacks` tells of what the fault wants why this kernel lacks it. `protected` are addresses by
    what they are: `controller`, `gateway`, `metadata`.
    """

    kernel: str
    machine: str
    root: bool
    bpf: str  # why bpf can't be used, or nothing
    devices: tuple[DeviceFacts, ...]
    lacks: Mapping[str, str] = field(default_factory=dict)
    protected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    boot: str = ""

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Facts:
        """From an agent's answer."""
        devices = tuple(DeviceFacts(**device) for device in plain["devices"])
        protected = {name: tuple(found) for name, found in plain["protected"].items()}
        return cls(**{**plain, "devices": devices, "protected": protected})


EffectKind = Literal[
    "silent",
    "slower",
    "lossy",
    "repeated",
    "throttled",
    "reset",
    "checked",
    "frozen",
    "full",
    "late",
    "late-files",
    "failing",
    "capped",
    "gone",
    "busy",
    "pressed",
    "oom",
    "exhausted",
    "swapped",
    "gpu-pressed",
    "gpu-fragmented",
    "gpu-lost",
    "gpu-busy",
    "gpu-slow",
    "cuda-locked",
]


@dataclass(frozen=True, slots=True)
class Effect:
    """What must be seen of a fault, by another way than it was applied.

    `size`: the rise of a round trip in ms (slower), the share of probes lost (lossy) or answered
    twice (repeated); 0 for others. `share` of the round trips are slower, if not all.
    """

    kind: EffectKind
    size: float = 0.0
    share: float = 1.0


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

    steps: tuple[Step, ...]
    observe: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


class Fault(Protocol):
    """A frozen dataclass of validated parameters, units in their names."""

    @property
    def name(self) -> str:
        """One word for reports and ids."""

    @property
    def wants(self) -> tuple[str, ...]:
        """What the kernel must have beside bpf, in the words of an agent's `capable`."""

    @property
    def effect(self) -> Effect:
        """What must be seen of it."""

    def cuts(self, address: str) -> bool:
        """Whether an address can't be reached from a host under this fault."""

    def plan(self, facts: Facts) -> Plan:
        """What to do on a host with these facts, or `Unsupported` with the mend."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""


@dataclass(frozen=True, slots=True)
class PerNode:
    """One injection whose fault is another on each node, as a partition's shape is."""

    name: str
    by_node: Mapping[str, Fault]
    about: Mapping[str, Any]  # what it is all together, for the journal

    @property
    def wants(self) -> tuple[str, ...]:
        """All that any of them wants."""
        return tuple(sorted({want for fault in self.by_node.values() for want in fault.wants}))

    @property
    def effect(self) -> Effect:
        """Of the first; they are of one kind."""
        return next(iter(self.by_node.values())).effect

    def cuts(self, address: str) -> bool:
        """Whether some node can't reach an address."""
        return any(fault.cuts(address) for fault in self.by_node.values())

    def plan(self, facts: Facts) -> Plan:
        """Each node has a plan of its own: see `on`."""
        raise Unsupported(f"{self.name}: ask for one node's fault")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        nodes = {node: fault.to_dict() for node, fault in self.by_node.items()}
        return {"name": self.name, **self.about, "by_node": nodes}


def on(fault: Fault, node: str) -> Fault:
    """The fault as it is on one node."""
    return fault.by_node[node] if isinstance(fault, PerNode) else fault


def require_bpf(facts: Facts) -> None:
    """Refuse a host on which no program can be loaded."""
    if not facts.root:
        raise Unsupported("changing a device needs root: run as root, or with sudo")
    if facts.bpf:
        raise Unsupported(
            f"this kernel ({facts.kernel}) refuses bpf ({facts.bpf}): "
            "grant CAP_BPF and CAP_NET_ADMIN, or use Linux 5.8 or newer with CONFIG_BPF_SYSCALL"
        )
