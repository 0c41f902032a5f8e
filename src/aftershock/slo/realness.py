"""How real what was broken on GPUs was; a verdict claims no more than the least real of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# From the least to the most; what each broke.
LEVELS: Mapping[str, str] = {
    "emulated": "a mock of the GPUs' driver was broken, no GPU",
    "telemetry": "only what monitoring is told of GPUs was changed",
    "driver": "only what processes hear of their GPUs was changed, no GPU was touched",
    "hardware": "real GPUs were used up or slowed down",
}


def least_real(injections: Iterable[Mapping[str, Any]]) -> str | None:
    """The least of the levels of a run's GPU faults that bit; None where there was none."""
    told = {one.get("level") for one in injections if one.get("bit")}
    return next((level for level in LEVELS if level in told), None)
