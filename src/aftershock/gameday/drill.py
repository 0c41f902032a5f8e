"""A rehearsal: the same day on the lab, where it can hurt nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aftershock.gameday.plan import Experiment, Plan

LAB_ZONES = ("az-a", "az-b", "az-c")
# What names things of a real target, or how to reach it: the lab has none of them.
_PLACES = frozenset(
    ("target", "levels", "where", "peers", "node", "selector", "name", "owner", "namespace", "pid",
     "pattern", "cgroup", "volume", "path", "witness", "api_token_env", "verify_tls", "scorer",
     "at_least")
)  # fmt: skip


def rehearsal(plan: Plan) -> tuple[Plan, list[str]]:
    """The plan for the lab, and a sentence for each thing that is left out or put in its place."""
    told: list[str] = []
    zones: dict[str, str] = {}
    experiments = tuple(_experiment(one, zones, told) for one in plan.experiments)
    told += [f"zone {name} is the lab's {stand_in}" for name, stand_in in zones.items()]
    asked = sum(len(one.gates) for one in plan.experiments) + len(plan.gates)
    for what, number in (
        ("gates are not asked", asked),
        ("safeguards are not asked", len(plan.safeguards)),
        ("confirmations are not asked for", sum(bool(one.confirm) for one in plan.experiments)),
        ("pauses are left out", sum(one.pause_s[1] > 0 for one in plan.experiments)),
        ("news are not sent", len(plan.notify)),
    ):
        if number:
            told.append(f"{number} {what}")
    lab = replace(plan, experiments=experiments, gates=(), safeguards=(), notify=(), calendar=None)
    return lab, told


def _experiment(one: Experiment, zones: dict[str, str], told: list[str]) -> Experiment:
    choose = {
        name: [_value(name, value, zones) for value in values]
        for name, values in one.choose.items()
        if name not in _PLACES
    }
    variables = {
        name: _value(name, value, zones)
        for name, value in one.variables.items()
        if name not in _PLACES
    }
    left = [name for name in (*one.variables, *one.choose) if name in _PLACES and name != "target"]
    told += [f"{one.name}: {name} is the experiment's own" for name in left]
    variables["target"] = "lab"
    return replace(
        one, variables=variables, choose=choose, gates=(), confirm=None, pause_s=(0.0, 0.0)
    )


def _value(name: str, value: Any, zones: dict[str, str]) -> Any:
    """A zone of the target by one of the lab's; the same one each time."""
    if name != "zone" or value in (*LAB_ZONES, "all"):
        return value
    free = [zone for zone in LAB_ZONES if zone not in zones.values()]
    return zones.setdefault(str(value), free[0] if free else LAB_ZONES[len(zones) % 3])
