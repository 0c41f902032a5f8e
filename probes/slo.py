"""The service's levels, as its users feel them: latency, errors, throughput."""

from aftershock import run as runs
from aftershock.slo.objectives import NoMeasurement

__all__ = [
    "error_rate_percent",
    "p50_latency_ms",
    "p99_latency_ms",
    "served_share_percent",
    "throughput_rps",
    "within",
]


def within(indicator: str, level: str = "golden") -> bool:
    """Whether an indicator is within a level of the run's levels file.

    `indicator`: p99_latency_ms, error_rate, served_share, throughput_rps, gpu_utilisation_percent
    or gpu_memory_used_percent. `level`: golden or tolerated. The value and the bound are logged and
    kept in the run's folder, since a tolerance of Chaos Toolkit can't take a variable bound.
    Raises `NoMeasurement` when nothing can be said.
    """
    return runs.current().within(indicator, level)


def p50_latency_ms(window_s: float = 5.0) -> float:
    """The median latency of the last window, in ms, counted from each request's scheduled time."""
    return _measured(runs.current().window(float(window_s)).p50_e2e_ms, "latency")


def p99_latency_ms(window_s: float = 5.0) -> float:
    """The 99th percentile latency of the last window, in ms, from the scheduled time."""
    return _measured(runs.current().window(float(window_s)).p99_e2e_ms, "latency")


def error_rate_percent(window_s: float = 5.0) -> float:
    """The share of requests in the last window that failed, in percent."""
    return 100 * _measured(runs.current().window(float(window_s)).error_rate, "error rate")


def throughput_rps(window_s: float = 5.0) -> float:
    """Requests a second that were answered well in the last window."""
    window = runs.current().window(float(window_s))
    return _measured(window.throughput_rps if window.requests else None, "throughput")


def served_share_percent(window_s: float = 5.0) -> float:
    """The share of the offered load that was answered well in the last window, in percent."""
    return 100 * _measured(runs.current().window(float(window_s)).served_share, "served share")


def _measured(value: float | None, name: str) -> float:
    if value is None:
        raise NoMeasurement(f"{name}: no request was decided in the window: is there any load?")
    return value
