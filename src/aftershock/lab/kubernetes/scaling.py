"""How many replicas an autoscaler wants: Kubernetes' rules for Pods metrics, as pure functions.

Source: k8s.io/kubernetes/pkg/controller/podautoscaler, replica_calculator.go and horizontal.go, and
"Horizontal Pod Autoscaling" in Kubernetes' documentation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = 0.1
_DEFAULTS: dict[str, dict[str, Any]] = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "selectPolicy": "Max",
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
    },
}


@dataclass(slots=True)
class Memory:
    """What an autoscaler remembers: (when, what it wanted) and (when, by how much it scaled)."""

    wanted: list[tuple[float, int]] = field(default_factory=list)
    scaled: list[tuple[float, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Decision:
    """`replicas`, the mean of the metric, and what held it back (a reason of a condition)."""

    replicas: int
    mean: float
    stabilised: bool = False
    limited: str = ""


def proposed(current: int, values: Mapping[str, float | None], waiting: int, target: float) -> int:
    """What the metric asks for.

    `values`: of each running pod, None where there is none. `waiting`: pods that don't run yet,
    which count as idle when more are asked for.
    """
    known = [value for value in values.values() if value is not None]
    missing = len(values) - len(known)
    ratio = sum(known) / len(known) / target
    if not missing and not (waiting and ratio > 1):
        return current if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * len(known))
    filled = known + [target if ratio < 1 else 0.0] * missing
    filled += [0.0] * waiting if ratio > 1 else []
    anew = sum(filled) / len(filled) / target
    if abs(anew - 1) <= TOLERANCE or (anew < 1) is not (ratio < 1):
        return current
    wanted = math.ceil(anew * len(filled))
    return current if (wanted > current) is not (ratio > 1) else wanted


def decide(
    spec: Mapping[str, Any], current: int, wanted: int, mean: float, memory: Memory, now: float
) -> Decision:
    """What is wanted within the autoscaler's behaviour and bounds; noted in its memory."""
    memory.wanted.append((now, wanted))
    settled = _stabilised(spec, current, memory, now)
    allowed = _paced(spec, current, settled, memory, now)
    least, most = spec.get("minReplicas", 1), spec["maxReplicas"]
    within = min(max(allowed, least), most)
    limited = ""
    if settled > most:
        limited = "TooManyReplicas"
    elif settled < least:
        limited = "TooFewReplicas"
    elif allowed != settled:
        limited = "ScaleUpLimit" if settled > current else "ScaleDownLimit"
    if within != current:
        memory.scaled.append((now, within - current))
    return Decision(within, mean, settled != wanted, limited)


def _rules(spec: Mapping[str, Any], way: str) -> Mapping[str, Any]:
    told = (spec.get("behavior") or {}).get(way) or {}
    return {**_DEFAULTS[way], **{key: value for key, value in told.items() if value is not None}}


def _stabilised(spec: Mapping[str, Any], current: int, memory: Memory, now: float) -> int:
    """Up only to the least, down only to the most that was wanted within the windows."""
    windows = {way: _rules(spec, way)["stabilizationWindowSeconds"] for way in _DEFAULTS}
    memory.wanted = [one for one in memory.wanted if one[0] >= now - max(windows.values())]
    up = min(n for at, n in memory.wanted if at >= now - windows["scaleUp"])
    down = max(n for at, n in memory.wanted if at >= now - windows["scaleDown"])
    return min(max(current, up), down)


def _paced(spec: Mapping[str, Any], current: int, wanted: int, memory: Memory, now: float) -> int:
    if wanted == current:
        return current
    rules = _rules(spec, "scaleUp" if wanted > current else "scaleDown")
    longest = max((policy["periodSeconds"] for policy in rules["policies"]), default=0)
    memory.scaled = [one for one in memory.scaled if one[0] >= now - max(longest, 15)]
    if rules["selectPolicy"] == "Disabled":
        return current
    ends = [_end(policy, current, wanted > current, memory, now) for policy in rules["policies"]]
    widest = rules["selectPolicy"] == "Max"
    if wanted > current:
        return min(wanted, (max if widest else min)(ends))
    return max(wanted, (min if widest else max)(ends))


def _end(policy: Mapping[str, Any], current: int, up: bool, memory: Memory, now: float) -> int:
    """How far a policy lets it go, from where it stood a period ago."""
    recent: Sequence[int] = [n for at, n in memory.scaled if at >= now - policy["periodSeconds"]]
    start = current - sum(n for n in recent if (n > 0) is up)
    if policy["type"] == "Pods":
        return start + int(policy["value"]) * (1 if up else -1)
    share = policy["value"] / 100
    return math.ceil(start * (1 + share)) if up else int(start * (1 - share))
