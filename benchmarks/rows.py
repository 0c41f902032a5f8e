"""A row of the table: ours beside a peer's, and their ratio."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any


def row(name: str, value: float, unit: str, peer: str, peer_value: float) -> dict[str, Any]:
    """`ratio` below 1: ours is smaller; less is better but for rates (/s) and shares (%)."""
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "peer": peer,
        "peer_value": peer_value,
        "ratio": value / peer_value,
    }


def timed_ms(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def middle_of(call: Callable[[], float], times: int = 5) -> float:
    """The median of several calls that each return a figure."""
    return median(call() for _ in range(times))
