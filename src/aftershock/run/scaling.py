"""Workloads scaled within a run, from an experiment's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aftershock.cluster.workloads import Workload, parsed
from aftershock.run import wording
from aftershock.run.injecting import Injected, Injections
from aftershock.run.podwords import whole

if TYPE_CHECKING:
    from aftershock.run.session import Run

Told = dict[str, Any]


def scale_workload(run: Run, workload: str, replicas: Any, namespace: str, block: Any) -> Told:
    """See `aftershock.actions.kubernetes.scale_workload`."""
    wanted = whole("replicas", replicas)
    blocked = wording.truth("block_autoscaler", block)

    def make(injections: Injections) -> list[Injected]:
        meant = _meant(injections, workload, namespace)
        scaled = injections.scale(meant, wanted)
        if not blocked or not wanted:  # at 0 no autoscaler acts
            return [scaled]
        # It comes first, or the autoscaler would take the other back; and goes first, so that what
        # it makes of the rest is its own.
        return [injections.autoscaler_block(meant, wanted), scaled]

    return run.breaking.inject(make)


def block_autoscaler(run: Run, workload: str, namespace: str) -> Told:
    """See `aftershock.actions.kubernetes.block_autoscaler`."""

    def make(injections: Injections) -> list[Injected]:
        return [injections.autoscaler_block(_meant(injections, workload, namespace), None)]

    return run.breaking.inject(make)


def _meant(injections: Injections, workload: str, namespace: str) -> Workload:
    return parsed(workload, namespace or injections.cluster.namespace)
