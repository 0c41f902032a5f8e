"""What a lab is made of, validated: settings in, places out. No I/O."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from aftershock.errors import AftershockError, InvalidInput
from aftershock.lab.model_server.spoiling import SPOILED

GATEWAYS = ("resilient", "canary", "naive")
MODEL = "deepseek-7b"
NAMESPACE = "inference"
SELECTOR = "app=model"
SERVER_PORT = 8000
EDGE = "EDGE"


class LabFailed(AftershockError):
    """The lab did not come up, or is no more; the message says what its parts logged."""


def default_state_dir() -> Path:
    """AFTERSHOCK_STATE where it is set, else /run/aftershock."""
    return Path(os.environ.get("AFTERSHOCK_STATE", "/run/aftershock"))


@dataclass(frozen=True, slots=True)
class Place:
    """A node of the lab and the gateway's slot for the server on it."""

    name: str
    zone: str
    ipv4: str
    ipv6: str

    @property
    def cuda_orders(self) -> str:
        """The file by which CUDA calls of its model server are made to fail."""
        return f"/dev/shm/cuda-{self.name}"

    @property
    def ledger(self) -> str:
        """The file that stands for the node's GPU, as seen inside the lab."""
        return f"/dev/shm/gpu-{self.name}"


EDGE_PLACE = Place(EDGE, "edge", "10.97.0.1", "fd97:a57e::1")


@dataclass(frozen=True, slots=True)
class LabSettings:
    """One lab. Times are seconds or milliseconds as named; each node holds at most one replica."""

    seed: int = 7
    zones: int = 3
    nodes_per_zone: int = 2
    replicas: int = 6
    gateway: str = "resilient"
    gateway_port: int = 18080
    connect_timeout_ms: int = 1000
    server_startup_s: float = 1.0
    gpu_memory_utilization: float = 0.9
    gpus_per_node: int = 1  # a model server asks for all of them, and uses the first
    autoscale_gpu_percent: float = 0.0  # 0: no autoscaler
    volume_mib: int = 0  # of a zone's own volume; 0: none
    volume_mib_s: float = 60.0  # what its device gives to all of the zone together
    weights_mib: int = 24  # what each model server loads from it
    volume_mapped: bool = False  # it is on device-mapper, so that it can be delayed, or fail
    node_cgroups: bool = False
    node_cpus: float = 0.0  # 0: all of the machine's
    spoiled_answers: str = ""  # of the model servers that start once the lab is up; "": sound
    model_args: tuple[str, ...] = ()
    state_dir: Path = field(default_factory=default_state_dir)
    up_within_s: float = 30.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "state_dir", Path(self.state_dir).absolute())
        _within("zones", self.zones, 1, 26)
        _within("nodes_per_zone", self.nodes_per_zone, 1, 50)
        _within("replicas", self.replicas, 0, self.zones * self.nodes_per_zone)
        _within("gateway_port", self.gateway_port, 1, 65535)
        _within("connect_timeout_ms", self.connect_timeout_ms, 10, 60_000)
        _within("server_startup_s", self.server_startup_s, 0, 600)
        _within("gpu_memory_utilization", self.gpu_memory_utilization, 0.3, 0.99)
        _within("gpus_per_node", self.gpus_per_node, 1, 8)
        _within("autoscale_gpu_percent", self.autoscale_gpu_percent, 0, 100)
        if self.volume_mib:
            _within("weights_mib", self.weights_mib, 1, 65_536)
            _within("volume_mib", self.volume_mib, 2 * self.weights_mib, 1 << 20)
            _within("volume_mib_s", self.volume_mib_s, 1, 1 << 20)
        _within("node_cpus", self.node_cpus, 0, 1024)
        if self.spoiled_answers not in ("", *SPOILED):
            known = ", ".join(SPOILED)
            raise InvalidInput(
                f"spoiled_answers is {self.spoiled_answers!r}: one of {known}, or none"
            )
        _within("up_within_s", self.up_within_s, 1, 3600)
        if self.gateway not in GATEWAYS:
            known = ", ".join(GATEWAYS)
            raise InvalidInput(f"unknown gateway {self.gateway!r}: it is {known}")

    @property
    def gateway_url(self) -> str:
        """The service's front door."""
        return f"http://127.0.0.1:{self.gateway_port}"

    def places(self) -> tuple[Place, ...]:
        """The nodes, zone by zone: node-a-1, node-a-2, node-b-1 …"""
        return tuple(
            Place(
                name=f"node-{ascii_lowercase[zone]}-{node}",
                zone=f"az-{ascii_lowercase[zone]}",
                ipv4=f"10.97.{zone + 1}.{node}",
                ipv6=f"fd97:a57e::{zone + 1:x}:{node:x}",
            )
            for zone in range(self.zones)
            for node in range(1, self.nodes_per_zone + 1)
        )

    @property
    def has_cgroups(self) -> bool:
        """Whether nodes and containers have real cgroups."""
        return self.node_cgroups or self.node_cpus > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "state_dir": str(self.state_dir)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LabSettings:
        """The inverse of `to_dict`."""
        fields = dict(plain)
        fields["state_dir"] = Path(fields["state_dir"])
        fields["model_args"] = tuple(fields["model_args"])
        return cls(**fields)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"lab setting {name} is {value}: it must be {low} to {high}")
