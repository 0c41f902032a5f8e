"""A day that another machine holds: who has its targets, and how a word gets to it.

By the Lease in a target's cluster, which that machine looks at, and where there is none by the
target's hosts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aftershock.errors import InvalidInput
from aftershock.gameday import hosts
from aftershock.gameday.plan import Plan
from aftershock.gameday.targets import A_DAY, cluster_of, inventories
from aftershock.inventory import Inventory
from aftershock.lock import told, user_name


def holders(plan: Plan) -> Iterator[str]:
    """Who has a plan's targets, whatever machine that is on, for people."""
    from aftershock.cluster.lock import held

    for path, inventory in _targets(plan):
        if inventory.kubeconfig is None:
            yield from (f"hosts of {Path(path).name}: {who}" for who in hosts.holders(inventory))
            continue
        with contextlib.closing(cluster_of(inventory)) as cluster:
            if found := held(cluster):
                yield f"namespace {cluster.namespace}: {told(found)}"


def ask(plan: Plan, what: str, why: str) -> Iterator[str]:
    """Ask something of the day that has a plan's targets; who was asked, for people.

    `InvalidInput` where something else has one.
    """
    at = datetime.now(UTC).isoformat(timespec="seconds")
    request = {"what": what, "by": user_name(), "at": at, "why": why}
    for _, inventory in _targets(plan):
        if inventory.kubeconfig is None:
            yield from hosts.ask(inventory, request, A_DAY)
        elif _asked_by_lease(inventory, request):
            yield f"whoever holds namespace {inventory.namespace}, by its Lease"


def _asked_by_lease(inventory: Inventory, request: Mapping[str, Any]) -> bool:
    from aftershock.cluster.lock import ask, held

    with contextlib.closing(cluster_of(inventory)) as cluster:
        found = held(cluster)
        if found and not str(found.get("what")).startswith(A_DAY):
            raise InvalidInput(
                f"namespace {cluster.namespace} is taken by {told(found)}, which is no game day: "
                "end it where it runs"
            )
        return bool(found) and ask(cluster, request)


def _targets(plan: Plan) -> Iterator[tuple[str, Inventory]]:
    yield from inventories(plan.steps(0), plan.path.parent).items()
