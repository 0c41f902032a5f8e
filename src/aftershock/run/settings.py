"""A run's settings: the experiment's `configuration`, checked before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from aftershock.errors import InvalidInput

LONGEST_S = 24 * 3600.0


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
    before_s: float = 10.0
    hold_s: float = 15.0
    failback_objective_s: float = 30.0
    load_rps: float = 40.0
    load_processes: int = 1
    sentinel_rps: float = 0.0  # 0: 200 on the lab, 20 on a real target
    gateway: str = "resilient"
    gateway_port: int = 18080
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
        _within("load_rps", self.load_rps, 1, 100_000)
        _within("sentinel_rps", self.sentinel_rps, 0, 1000)
        _within("load_processes", self.load_processes, 1, 64)
        _within("gateway_port", self.gateway_port, 1, 65535)
        _one_of("gateway", self.gateway, ("resilient", "naive"))
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
    if kind is str:
        if not isinstance(value, str) or not value.strip():
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


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InvalidInput(f"{name} is {value:g}: give a value from {least:g} to {most:g}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidInput(f"{name} is {value!r}: choose one of {', '.join(choices)}")
