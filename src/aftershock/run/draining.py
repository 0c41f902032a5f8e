"""Nodes drained within a run, and what is told of it meanwhile."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aftershock.capacity.drain import Step, progress
from aftershock.errors import InvalidFault
from aftershock.run import wording
from aftershock.run.injecting import Injected, Injections
from aftershock.run.podwords import ending, overrides

if TYPE_CHECKING:
    from aftershock.run.session import Run

TO_DRAIN = "pods_to_drain"  # a gauge of the timeline, by node

logger = logging.getLogger("chaostoolkit")


def drain_nodes(
    run: Run, where: str, deadline_s: Any, grace_s: Any, budgets: str, force: Any
) -> dict[str, Any]:
    """See `aftershock.actions.kubernetes.drain_nodes`."""
    nodes = run.target.inventory.select(where)
    how = ending({"grace_s": grace_s, "deadline_s": deadline_s})
    told = {"override": overrides(budgets), "force": wording.truth("force", force)}
    lease_s = run.breaking.injections.settings.lease_s
    if how.deadline_s >= lease_s:
        raise InvalidFault(
            f"deadline_s is {how.deadline_s:g}, and lease_s {lease_s:g}: the nodes would be opened "
            "again meanwhile; give less, or raise lease_s in the experiment's configuration"
        )

    def heard(step: Step) -> None:
        words = progress(step)
        logger.info(words["log"])
        run.timeline.gauge(TO_DRAIN, step.node, step.left, step.at)
        if "console" in words:
            run.console.say("drain", words["console"])

    def make(injections: Injections) -> list[Injected]:
        injections.check_nodes(nodes)
        return [injections.cordon(nodes), injections.drain(nodes, how, heard=heard, **told)]

    return run.breaking.inject(make)
