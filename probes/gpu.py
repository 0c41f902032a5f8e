"""The GPUs of the target, as NVML on each node says."""

from aftershock import run as runs

__all__ = ["gpu_memory_used_percent", "gpu_utilisation_percent"]


def gpu_utilisation_percent(zone: str = "") -> float:
    """The mean utilisation of the GPUs of a zone, or of all, in percent of time.

    Source: NVML, read by the agent on each node. Time with any kernel running, not load. Raises
    `Unsupported` where no GPU can be read.
    """
    return runs.current().gpu("utilisation_percent", zone)


def gpu_memory_used_percent(zone: str = "") -> float:
    """The mean share of GPU memory in use, in percent, of a zone's GPUs or of all (NVML)."""
    return runs.current().gpu("memory_used_percent", zone)
