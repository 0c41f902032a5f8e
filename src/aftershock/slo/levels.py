"""Objectives of a target: a levels file with what is golden and what is tolerated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from aftershock.errors import InvalidInput

GOLDEN, TOLERATED = "golden", "tolerated"
METRICS = ("e2e", "ttft")
GOODPUT = ("ttft_ms", "tpot_ms", "e2e_ms")


@dataclass(frozen=True, slots=True)
class Indicator:
    """Something with a bound: at most (`ceiling`) or at least; `top` is the largest sensible."""

    name: str
    ceiling: bool
    top: float
    gauge: bool = False

    def meets(self, value: float, bound: float) -> bool:
        return value <= bound if self.ceiling else value >= bound


INDICATORS = {
    indicator.name: indicator
    for indicator in (
        Indicator("p99_latency_ms", ceiling=True, top=600_000),
        Indicator("error_rate", ceiling=True, top=1),
        Indicator("served_share", ceiling=False, top=1),
        Indicator("goodput_share", ceiling=False, top=1),
        Indicator("throughput_rps", ceiling=False, top=1e9),
        Indicator("gpu_utilisation_percent", ceiling=True, top=100, gauge=True),
        Indicator("gpu_memory_used_percent", ceiling=True, top=100, gauge=True),
    )
}
_REQUIRED = ("p99_latency_ms", "error_rate")


@dataclass(frozen=True, slots=True)
class Levels:
    """`metric` is what a latency means: `ttft`, time to the first token, or `e2e`, to the last.

    `goodput`: what a request has to meet, each of `GOODPUT` that is there, in ms.
    """

    target: str
    metric: str
    service_rto_s: float
    golden: Mapping[str, float]
    tolerated: Mapping[str, float]
    capacity_rto_s: float | None = None
    goodput: Mapping[str, float] = field(default_factory=dict)

    def bounds(self, level: str) -> Mapping[str, float]:
        if level not in (GOLDEN, TOLERATED):
            raise InvalidInput(f"level {level!r}: there are {GOLDEN} and {TOLERATED}")
        return self.golden if level == GOLDEN else self.tolerated

    def bound(self, indicator: str, level: str) -> float:
        bounds = self.bounds(level)
        if indicator not in INDICATORS:
            raise InvalidInput(f"indicator {indicator!r}: there are {', '.join(INDICATORS)}")
        if indicator not in bounds:
            raise InvalidInput(f"{self.target}: no {level} {indicator} in its levels file: add one")
        return bounds[indicator]

    @property
    def goodput_ms(self) -> dict[str, float]:
        """What a request has to meet: without a promise of its own, the golden latency."""
        return dict(self.goodput) or {f"{self.metric}_ms": self.golden["p99_latency_ms"]}

    @property
    def limit_s(self) -> float:
        """A request that takes longer is bad."""
        return self.tolerated["p99_latency_ms"] / 1e3


def load_levels(name_or_path: str | Path) -> Levels:
    """The levels that ship with Aftershock (`lab`, `hosts`, `owner`) by name, or a file's."""
    shipped = files("aftershock.slo") / "levels" / f"{name_or_path}.yaml"
    path = Path(name_or_path)
    try:
        text = shipped.read_text("utf-8") if shipped.is_file() else path.read_text("utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInput(
            f"levels file {path}: {reason}; give a path, lab, hosts or owner"
        ) from None
    try:
        said = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"levels file {path}: not YAML: {error}") from None
    return parse_levels(said, str(path))


def parse_levels(said: Any, where: str) -> Levels:
    """Levels from what a YAML file said; `InvalidInput` names the key and the mend."""
    if not isinstance(said, Mapping):
        raise InvalidInput(f"{where}: expected keys (target, metric, golden, tolerated)")
    known = ("target", "metric", "service_rto_s", "capacity_rto_s", "goodput", GOLDEN, TOLERATED)
    for key in said:
        if key not in known:
            raise InvalidInput(f"{where}: unknown key {key!r}; known are {', '.join(known)}")
    metric = said.get("metric", "e2e")
    if metric not in METRICS:
        raise InvalidInput(f"{where}: metric is {metric!r}; give {' or '.join(METRICS)}")
    levels = Levels(
        target=str(said.get("target", Path(where).stem)),
        metric=metric,
        service_rto_s=_seconds(said.get("service_rto_s"), "service_rto_s", where),
        golden=_bounds(said.get(GOLDEN), GOLDEN, where),
        tolerated=_bounds(said.get(TOLERATED), TOLERATED, where),
        capacity_rto_s=_seconds(said["capacity_rto_s"], "capacity_rto_s", where)
        if said.get("capacity_rto_s") is not None
        else None,
        goodput=_goodput(said.get("goodput"), where),
    )
    _check_order(levels, where)
    return levels


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seconds(value: Any, key: str, where: str) -> float:
    if not _number(value) or not 0 < value < 86_400:
        raise InvalidInput(f"{where}: {key} is {value!r}; give seconds, above 0 and under a day")
    return float(value)


def _goodput(said: Any, where: str) -> dict[str, float]:
    if said is None:
        return {}
    if not isinstance(said, Mapping) or not said:
        raise InvalidInput(f"{where}: goodput lists some of {', '.join(GOODPUT)}")
    for key, value in said.items():
        if key not in GOODPUT:
            raise InvalidInput(
                f"{where}: unknown key goodput.{key}; known are {', '.join(GOODPUT)}"
            )
        if not _number(value) or not 0 < value <= 600_000:
            raise InvalidInput(f"{where}: goodput.{key} is {value!r}; give milliseconds above 0")
    return {str(key): float(value) for key, value in said.items()}


def _bounds(said: Any, level: str, where: str) -> dict[str, float]:
    if not isinstance(said, Mapping):
        raise InvalidInput(f"{where}: {level} is missing; list its bounds under it")
    for key, value in said.items():
        indicator = INDICATORS.get(key)
        if indicator is None:
            known = ", ".join(INDICATORS)
            raise InvalidInput(f"{where}: unknown key {level}.{key}; known are {known}")
        if not _number(value) or not 0 <= value <= indicator.top:
            raise InvalidInput(f"{where}: {level}.{key} is {value!r}; give 0 to {indicator.top:g}")
    for key in _REQUIRED:
        if key not in said:
            raise InvalidInput(f"{where}: {level}.{key} is missing; every level needs it")
    if said["p99_latency_ms"] <= 0:
        raise InvalidInput(f"{where}: {level}.p99_latency_ms is 0; give milliseconds above 0")
    return {str(key): float(value) for key, value in said.items()}


def _check_order(levels: Levels, where: str) -> None:
    """What is golden must be tolerated too."""
    for name, golden in levels.golden.items():
        tolerated = levels.tolerated.get(name)
        if tolerated is not None and not INDICATORS[name].meets(golden, tolerated):
            raise InvalidInput(
                f"{where}: golden.{name} {golden:g} is laxer than tolerated.{name} {tolerated:g}; "
                "swap them or mend one"
            )
