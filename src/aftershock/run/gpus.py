"""Faults of GPUs, from an experiment's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aftershock.faults.base import Fault
from aftershock.faults.gpu import GpuMemoryPressure
from aftershock.run import wording

if TYPE_CHECKING:
    from aftershock.run.session import Run

KINDS = ("gpu-memory-pressure",)
PRESSING = ("gpu-memory-pressure",)
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
    )
    return _on_hosts(run, where, fault, lease_s)


def _whom(words: Words) -> Any:
    """Which GPUs, and whose they may be."""
    return {
        "gpus": tuple(word.strip() for word in str(words["gpus"]).split(",") if word.strip()),
        "used_by": str(words["used_by"]),
        "anyone": wording.truth("anyone", words["anyone"]),
    }


def _on_hosts(run: Run, where: str, fault: Fault, lease_s: Any) -> Told:
    nodes, lease = run.target.inventory.select(where), wording.number("lease_s", lease_s)
    return run.breaking.inject(lambda injections: [injections.on_hosts(fault, nodes, lease)])
