"""Faults of GPUs, from an experiment's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aftershock.errors import InvalidFault
from aftershock.faults.base import Fault, PerNode
from aftershock.faults.cudalock import CudaLock
from aftershock.faults.freeze import Freeze
from aftershock.faults.gpu import GpuComputePressure, GpuMemoryPressure
from aftershock.faults.gpuloss import GpuLoss
from aftershock.faults.gpuslow import GpuSlowdown
from aftershock.faults.processes import Processes
from aftershock.run import replies, wording
from aftershock.run.injecting import Injected, Injections

if TYPE_CHECKING:
    from aftershock.run.session import Run

HANG = "gpu-hang"
KINDS = ("gpu-memory-pressure", "gpu-compute-pressure", "gpu-slowdown", "gpu-loss", HANG)
PRESSING = ("gpu-memory-pressure", "gpu-compute-pressure")
_LONGEST_S, _HANGS_S = 60.0, 10.0
_HANGS: Mapping[str, Callable[[Processes], Fault]] = {
    "freeze": lambda which: Freeze(processes=(which,), on_gpu=True),
    "cuda-lock": CudaLock,
}
Told = dict[str, Any]
Words = Mapping[str, Any]


def press_memory(run: Run, where: str, words: Words, lease_s: Any) -> Told:
    """See `aftershock.actions.gpu.press_gpu_memory`."""
    fault = GpuMemoryPressure(
        **_whom(words),
        take_mib=wording.number("take_mib", words["take_mib"]),
        free_mib=wording.number("free_mib", words["free_mib"]),
        share=wording.number("share", words["share"]),
        keep=wording.truth("keep", words["keep"]),
        steps=wording.whole("steps", words["steps"]),
        over_s=wording.number("over_s", words["over_s"]),
        block_mib=wording.number("block_mib", words["block_mib"]),
    )
    return _on_hosts(run, where, fault, lease_s)


def press_compute(run: Run, where: str, words: Words, lease_s: Any) -> Told:
    """See `aftershock.actions.gpu.press_gpu_compute`."""
    duty = wording.number("duty_percent", words["duty_percent"])
    fault = GpuComputePressure(**_whom(words), duty_percent=duty, bound=str(words["bound"]))
    return _on_hosts(run, where, fault, lease_s)


def slow_down(run: Run, where: str, words: Words, lease_s: Any) -> Told:
    """See `aftershock.actions.gpu.slow_gpu`."""
    fault = GpuSlowdown(
        **_whom(words),
        clock_mhz=wording.number("clock_mhz", words["clock_mhz"]),
        power_w=wording.number("power_w", words["power_w"]),
        allowed=wording.truth("allowed", words["allowed"]),
    )
    return _on_hosts(run, where, fault, lease_s)


def hang(run: Run, where: str, words: Words, lease_s: Any) -> Told:
    """See `aftershock.actions.gpu.hang_engine`."""
    nodes, lease = run.target.inventory.select(where), wording.number("lease_s", lease_s)
    wait_s = wording.number("timeout_s", words["timeout_s"])
    if not 0 < wait_s <= _LONGEST_S:
        raise InvalidFault(f"timeout_s {wait_s:g}: more than 0, at most {_LONGEST_S:g} seconds")
    which = Processes(
        pattern=str(words["pattern"]), count=wording.whole("count", words["count"]), tree=True
    )
    if (by := str(words["by"])) not in _HANGS:
        raise InvalidFault(f"by {by!r}: one of {', '.join(_HANGS)}")
    faults: dict[str, Fault] = {node.name: _HANGS[by](which) for node in nodes}
    fault = PerNode(HANG, faults, {"where": where, "processes": str(which), "by": by})

    def make(injections: Injections) -> list[Injected]:
        injections.check_where(nodes, [fault])
        sees = replies.Contradiction(run, nodes, wait_s)
        level = "emulated" if run.target.is_lab else "driver"
        return [injections.processes(fault, nodes, lease, sees.pieces, _HANGS_S + wait_s, level)]

    return run.breaking.inject(make)


def lose(run: Run, where: str, words: Words, lease_s: Any) -> Told:
    """See `aftershock.actions.gpu.lose_gpu`."""
    pattern, count = str(words["pattern"]), wording.whole("count", words["count"])
    fault = GpuLoss(
        gpus=_names(words["gpus"]),
        processes=Processes(pattern=pattern, count=count) if pattern else None,
        calls=_names(words["calls"]),
        error=str(words["error"]),
        newcomers=wording.truth("newcomers", words["newcomers"]),
        xid=wording.whole("xid", words["xid"]),
        kernel_log=wording.truth("kernel_log", words["kernel_log"]),
    )
    return _on_hosts(run, where, fault, lease_s)


def _names(words: Any) -> tuple[str, ...]:
    return tuple(word.strip() for word in str(words).split(",") if word.strip())


def _whom(words: Words) -> Any:
    """Which GPUs, and whose they may be."""
    return {
        "gpus": _names(words["gpus"]),
        "used_by": str(words["used_by"]),
        "anyone": wording.truth("anyone", words["anyone"]),
    }


def _on_hosts(run: Run, where: str, fault: Fault, lease_s: Any) -> Told:
    nodes, lease = run.target.inventory.select(where), wording.number("lease_s", lease_s)
    return run.breaking.inject(lambda injections: [injections.on_hosts(fault, nodes, lease)])
