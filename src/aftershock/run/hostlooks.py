"""What probes read of hosts: their kernels' own counters, asked through the agents."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from aftershock.errors import InvalidInput, Unsupported
from aftershock.run import wording
from aftershock.strain import vitals

if TYPE_CHECKING:
    from aftershock.run.session import Run

_WINDOWS = (10, 60, 300)
_RESOURCES, _SHARES = ("cpu", "memory", "io"), ("some", "full")
_LONGEST_S = 60.0
Told = dict[str, Any]
_first_kills: WeakKeyDictionary[Any, dict[tuple[str, str], int]] = WeakKeyDictionary()


def look(run: Run, where: str, cgroup: str = "") -> dict[str, Told]:
    """Node → its counters: see `aftershock.agent.vitals`."""
    nodes = run.target.inventory.select(where)
    return {node.name: vitals(run.target.agents.fresh(node), cgroup) for node in nodes}


def pressure(run: Run, where: str, resource: str, share: str, window_s: Any) -> float:
    """See `aftershock.probes.host.pressure_percent`."""
    window = wording.number("window_s", window_s)
    for name, value, known in (
        ("resource", resource, _RESOURCES),
        ("share", share, _SHARES),
        ("window_s", window, _WINDOWS),
    ):
        if value not in known:
            raise InvalidInput(f"{name} is {value!r}: one of {', '.join(map(str, known))}")
    found = []
    for node, told in look(run, where).items():
        if share not in told["psi"].get(resource, {}):
            why = told["psi_why"] or f"this kernel counts no `{share}` for {resource}"
            raise Unsupported(f"{node}: {why}")
        found.append(told["psi"][resource][share][f"avg{window:.0f}"])
    return float(max(found))


def busy(run: Run, where: str, over_s: Any) -> float:
    """See `aftershock.probes.host.cpu_busy_percent`."""
    wait_s = wording.number("over_s", over_s)
    if not 0.1 <= wait_s <= _LONGEST_S:
        raise InvalidInput(f"over_s {wait_s:g}: 0.1 to {_LONGEST_S:g} seconds")
    first = look(run, where)
    time.sleep(wait_s)
    last = look(run, where)
    shares = []
    for node, told in last.items():
        was, now = first[node]["cpu"], told["cpu"]
        used, idle = (max(0.0, now[key] - was[key]) for key in ("busy_s", "idle_s"))
        shares.append(100 * used / max(used + idle, 0.001))
    return float(max(shares))


def memory_available(run: Run, where: str) -> float:
    """See `aftershock.probes.host.memory_available_percent`."""
    found = [told["memory"] for told in look(run, where).values()]
    return float(min(100 * one["available"] / one["total"] for one in found))


def swap_used(run: Run, where: str) -> float:
    """See `aftershock.probes.host.swap_used_percent`."""
    found = [told["memory"] for told in look(run, where).values()]
    shares = [1 - one["swap_free"] / one["swap_total"] for one in found if one["swap_total"]]
    return 100 * float(max(shares, default=0.0))


def oom_kills(run: Run, where: str, cgroup: str) -> int:
    """See `aftershock.probes.host.oom_kills`."""
    first = _first_kills.setdefault(run, {})
    total, machines = 0, set()
    for node, told in look(run, where, cgroup).items():
        count = told["cgroup"].get("oom_kills") if cgroup else told["oom_kills"]
        if count is None:
            raise Unsupported(f"{node}: cgroup {cgroup} has no memory controller")
        chosen = next(one for one in run.target.inventory.nodes if one.name == node)
        machine = run.target.agents.fresh(chosen).hello["boot"]
        if machine not in machines:
            machines.add(machine)
            total += count - first.setdefault((machine, cgroup), count)
    return total


def cgroup_memory(run: Run, where: str, cgroup: str) -> int:
    """See `aftershock.probes.host.cgroup_memory_bytes`."""
    found = look(run, where, cgroup)
    if missing := [node for node, told in found.items() if "memory_bytes" not in told["cgroup"]]:
        raise Unsupported(f"{missing[0]}: cgroup {cgroup} has no memory controller")
    return int(max(told["cgroup"]["memory_bytes"] for told in found.values()))
