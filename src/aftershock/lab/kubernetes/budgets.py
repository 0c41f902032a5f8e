"""Disruption budgets: how many pods may be evicted now."""

from __future__ import annotations

import math
from typing import Any

from aftershock.lab.kubernetes.owners import is_dying, is_over, is_ready
from aftershock.lab.kubernetes.resources import BUDGETS, PODS
from aftershock.lab.kubernetes.selectors import labels_match, labels_of
from aftershock.lab.kubernetes.store import Object, Store, timestamp


def keep_budgets(store: Store) -> None:
    """One pass over all budgets."""
    for budget in store.all_of(BUDGETS):
        spec = budget.get("spec") or {}
        pods = [
            pod
            for pod in store.all_of(PODS, budget["metadata"]["namespace"])
            if labels_match(spec.get("selector"), labels_of(pod)) and not is_over(pod)
        ]
        healthy = sum(is_ready(pod) and not is_dying(pod) for pod in pods)
        expected = sum(not is_dying(pod) for pod in pods)
        desired = _desired(spec, expected)
        allowed = max(0, healthy - desired) if expected else 0
        status = {
            "observedGeneration": budget["metadata"].get("generation", 1),
            "disruptionsAllowed": allowed,
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
            "conditions": [_condition(budget, allowed > 0)],
        }
        store.update(BUDGETS, {**budget, "status": status})


def _desired(spec: dict[str, Any], expected: int) -> int:
    if "maxUnavailable" in spec:
        return max(0, expected - _count(spec["maxUnavailable"], expected))
    return _count(spec.get("minAvailable", 1), expected)


def _count(value: int | str, total: int) -> int:
    if isinstance(value, int):
        return value
    return math.ceil(int(value.rstrip("%")) * total / 100)


def _condition(budget: Object, allowed: bool) -> dict[str, Any]:
    before = next(iter((budget.get("status") or {}).get("conditions") or ()), None)
    status = "True" if allowed else "False"
    same = before is not None and before["status"] == status
    return {
        "type": "DisruptionAllowed",
        "status": status,
        "observedGeneration": budget["metadata"].get("generation", 1),
        "lastTransitionTime": before["lastTransitionTime"] if before and same else timestamp(),
        "reason": "SufficientPods" if allowed else "InsufficientPods",
        "message": "",
    }
