"""The GPUs of the target: how busy, full, hot and healthy they are, and who uses them.

`where` names zones and nodes, with commas; `all` means every node. `gpus`: indexes as NVML counts,
UUIDs, or `all`; a MIG instance by its UUID, of which NVML tells memory and processes alone. NVML is
asked by the agent on each node, 10 times a second over a window.
"""

from typing import Any

from aftershock import run as runs
from aftershock.run import gpulooks

__all__ = [
    "gpu_figure",
    "gpu_memory_used_percent",
    "gpu_utilisation_percent",
    "gpu_utilisation_within",
    "gpu_xids",
    "gpus",
    "gpus_lost",
]


def gpu_utilisation_percent(zone: str = "") -> float:
    """The mean utilisation of the GPUs of a zone, or of all, in percent of time.

    Source: NVML, read by the agent on each node. Time with any kernel running, not load. Raises
    `Unsupported` where no GPU can be read.
    """
    return runs.current().gpu("utilisation_percent", zone)


def gpu_memory_used_percent(zone: str = "") -> float:
    """The mean share of GPU memory in use, in percent, of a zone's GPUs or of all (NVML)."""
    return runs.current().gpu("memory_used_percent", zone)


def gpus(where: str = "all", gpus: str = "all", over_s: float = 1.0) -> list[dict[str, Any]]:
    """Each GPU with all that NVML tells of it, and its figures over a window of `over_s` seconds.

    {node, index, uuid, name, lost, utilisation_percent, memory_used_mib, memory_free_mib,
    memory_total_mib, power_w, temperature_c, sm_clock_mhz, sm_clock_max_mhz, throttled_by,
    ecc_uncorrected, compute_mode, mig, processes: [{pid, used_mib, command}], pci, xids,
    logged_xids, level, window: {figure: {min, max, mean, count}}, instances}. What a card does not
    tell is null. `instances`: those of a card that MIG splits, each as if it were a card, with
    `parent`, `gpu_instance` and `compute_instance` beside; its `index` is like `0 MIG 1`. `xids`
    are those that came within the window (`logged_xids`: by the kernel's log); `level` is
    `emulated` where the driver says that it is a mock.
    """
    return gpulooks.look(runs.current(), where, gpus, over_s)


def gpu_figure(
    figure: str = "utilisation_percent",
    where: str = "all",
    gpus: str = "all",
    over_s: float = 5.0,
    over_time: str = "mean",
    over_gpus: str = "max",
    source: str = "nvml",
) -> float:
    """One figure of several GPUs: `mean`, `min` or `max` over a window, and then over the GPUs.

    `figure`: utilisation_percent, memory_used_percent, memory_used_mib, memory_free_mib, power_w,
    temperature_c, sm_clock_mhz, ecc_uncorrected, last_xid. `source`: `nvml`; `dcgm:URL`,
    dcgm-exporter's page asked from each host (`dcgm:` alone means http://127.0.0.1:9400/metrics; a
    single reading); or `prometheus:URL`, with a selector behind it if need be
    (`prometheus:http://prometheus:9090{Hostname="a"}`), whatever `where` says. Raises `GpuLost` for
    a GPU that NVML reaches no more, `NoMeasurement` for an empty window, `Unsupported` for a figure
    that a card, or a MIG instance, does not tell.
    """
    how = {"over_s": over_s, "over_time": over_time, "over_gpus": over_gpus, "source": source}
    return gpulooks.figure(runs.current(), figure, {"where": where, "gpus": gpus}, how)


def gpu_utilisation_within(
    level: str = "golden", where: str = "all", gpus: str = "all", over_s: float = 5.0
) -> bool:
    """Whether the busiest GPU's mean utilisation over a window is within a level.

    Of the target's levels, or else 85 % (golden) and 95 % (tolerated) of the time.
    """
    return gpulooks.within(runs.current(), level, {"where": where, "gpus": gpus}, over_s)


def gpu_xids(
    where: str = "all", gpus: str = "all", over_s: float = 1.0, source: str = "nvml"
) -> list[dict[str, Any]]:
    """Xid errors that came within a window: {node, index, xid}.

    `source`: `nvml`, its events; or `kernel-log`, the lines of the host's kernel log that name the
    GPU's PCI address, with what is `said` beside, and whether it was said `by_driver` or written
    there by a process.
    """
    return gpulooks.xids(runs.current(), {"where": where, "gpus": gpus}, over_s, source)


def gpus_lost(where: str = "all") -> int:
    """How many GPUs NVML reaches no more."""
    return sum(card["lost"] for card in gpulooks.look(runs.current(), where, "all", 0.0))
