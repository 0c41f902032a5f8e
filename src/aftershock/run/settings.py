"""A run's settings: the experiment's `configuration`, checked before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from aftershock.errors import InvalidInput
from aftershock.load.settings import MOST_WORKERS

LONGEST_S = 24 * 3600.0
_LONGEST_SOAK_S = 7 * 24 * 3600.0
# The target's own selector; no profile: `load_rps` all along; no token.
_MAY_BE_EMPTY = ("selector", "load_profile", "api_token_env", "scorer", "spoiled_answers")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is told. Each field is a key of the experiment's `configuration` block.

    Durations are seconds (`_s`), rates are per second (`_rps`). Values given by `--var` arrive as
    strings and are converted to the field's type. Keys that are not listed here belong to the
    experiment itself and are left alone.
    """

    experiment: str = ""
    target: str = "lab"
    levels: str = "lab"
    zone: str = "az-a"
    seed: int = 7
    rto_objective_s: float = 15.0
    capacity_rto_objective_s: float = 0.0  # 0: reported, not judged
    lease_s: float = 120.0
    grace_s: float = 10.0
    at_least: int = 0  # how many of a fault's hosts are enough; 0: all
    before_s: float = 10.0
    hold_s: float = 15.0
    failback_objective_s: float = 30.0
    load_rps: float = 40.0
    load_processes: int = 1
    soak_s: float = 0.0  # for how long an experiment that soaks holds the load
    load_workers: int = 0  # from other machines, in the place of `load_processes`
    load_bind: str = "127.0.0.1:5557"  # where the load's master waits for those
    load_profile: str = ""  # stages or a trace, in the place of `load_rps`
    api_token_env: str = ""  # the variable of the environment that holds the service's token
    verify_tls: bool = True
    quality_rps: float = 0.0  # golden prompts a second; 0: answers' quality is not looked at
    quality_exact: bool = False  # the engine promises the same answer at temperature 0
    scorer: str = ""  # the entry point of a user's own score of answers
    spoiled_answers: str = ""  # lab only: how model servers that start later spoil their answers
    sentinel_rps: float = 0.0  # 0: 200 on the lab, 20 on a real target
    gateway: str = "resilient"
    gateway_port: int = 18080
    replicas: int = 6
    gpus_per_node: int = 1  # lab only
    kv_blocks: int = 0  # lab only: of 16 tokens, in each engine's KV cache; 0: as its GPU has room
    autoscale_gpu_percent: float = 0.0  # lab only; 0: no autoscaler
    volume_mib: int = 0  # lab only: of each zone's own volume; 0: none
    volume_mib_s: float = 60.0  # lab only: how fast it is
    weights_mib: int = 24  # lab only: what model servers load from it
    volume_mapped: bool = False  # lab only: it is on device-mapper
    node_cgroups: bool = False  # lab only: nodes and containers have real cgroups
    node_cpus: float = 0.0  # lab only: each node has so many processors of its own; 0: all
    selector: str = "app=model"

    def __post_init__(self) -> None:
        for name in (
            "rto_objective_s",
            "lease_s",
            "grace_s",
            "before_s",
            "hold_s",
            "failback_objective_s",
        ):
            _within(name, getattr(self, name), 0.5, LONGEST_S)
        _within("capacity_rto_objective_s", self.capacity_rto_objective_s, 0.0, LONGEST_S)
        _within("at_least", self.at_least, 0, 100_000)
        _within("load_rps", self.load_rps, 1, 100_000)
        _within("quality_rps", self.quality_rps, 0, 100)
        _within("sentinel_rps", self.sentinel_rps, 0, 1000)
        _within("soak_s", self.soak_s, 0, _LONGEST_SOAK_S)
        _within("load_workers", self.load_workers, 0, MOST_WORKERS)
        host, _, port = self.load_bind.rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 65536):
            raise InvalidInput(f"load_bind is {self.load_bind!r}: give an address, HOST:PORT")
        _within("load_processes", self.load_processes, 1, 64)
        _within("gateway_port", self.gateway_port, 1, 65535)
        _within("replicas", self.replicas, 1, 6)
        _within("kv_blocks", self.kv_blocks, 0, 1_000_000)
        _within("gpus_per_node", self.gpus_per_node, 1, 8)
        _within("autoscale_gpu_percent", self.autoscale_gpu_percent, 0, 100)
        _within("volume_mib", self.volume_mib, 0, 4096)
        _within("volume_mib_s", self.volume_mib_s, 1, 1 << 20)
        _within("weights_mib", self.weights_mib, 1, 1024)
        if self.volume_mib and self.volume_mib < 2 * self.weights_mib:
            raise InvalidInput(
                f"volume_mib is {self.volume_mib}: twice the weights, {2 * self.weights_mib}, or 0"
            )
        _within("node_cpus", self.node_cpus, 0, 1024)
        _one_of("gateway", self.gateway, ("resilient", "canary", "naive"))
        needed = self.give_up_s + self.hold_s
        if self.lease_s < needed:
            raise InvalidInput(
                f"lease_s is {self.lease_s:g}: the fault would heal before the verdict is in; "
                f"give it at least {needed:g} (twice the objective, 30 at least, and the hold)"
            )

    @property
    def probes_rps(self) -> float:
        """How often the sentinel looks: gently where others use the service too."""
        return self.sentinel_rps or (200.0 if self.target == "lab" else 20.0)

    @property
    def give_up_s(self) -> float:
        """How long recovery is waited for: twice the objective, and 30 s at least."""
        return max(30.0, 2 * self.rto_objective_s)

    @classmethod
    def from_configuration(cls, configuration: Mapping[str, Any] | None) -> Settings:
        """Read the settings; `InvalidInput` names the key, the value and the mend."""
        given = dict(configuration or {})
        known = {field.name: field for field in fields(cls)}
        values = {
            name: _convert(name, given[name], type(known[name].default))
            for name in known
            if name in given
        }
        return cls(**values)


def _convert(name: str, value: Any, kind: type) -> Any:
    if kind is bool:
        return _truth(name, value)
    if kind is str:
        if not isinstance(value, str) or (not value.strip() and name not in _MAY_BE_EMPTY):
            raise InvalidInput(f"{name} is {value!r}: give a word")
        return value.strip()
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"{name} is {value!r}: give a number") from None
    if isinstance(value, bool) or not math.isfinite(number) or (kind is int and number % 1):
        wanted = "a whole number" if kind is int else "a number"
        raise InvalidInput(f"{name} is {value!r}: give {wanted}")
    return kind(number)


def _truth(name: str, value: Any) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise InvalidInput(f"{name} is {value!r}: give true or false")
    return str(value).lower() == "true"


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InvalidInput(f"{name} is {value:g}: give a value from {least:g} to {most:g}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidInput(f"{name} is {value!r}: choose one of {', '.join(choices)}")
