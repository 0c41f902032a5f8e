"""Faults of hosts and their processes, from an experiment's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aftershock.errors import InvalidFault
from aftershock.faults.base import Fault, PerNode
from aftershock.faults.exhaustion import NoRoom, OutOfMemory
from aftershock.faults.freeze import Freeze
from aftershock.faults.kill import Kill
from aftershock.faults.processes import Processes
from aftershock.faults.stress import CpuStress, MemoryPressure
from aftershock.faults.swapping import SwapOut
from aftershock.inventory import Node, PodRef
from aftershock.run import wording
from aftershock.run.places import are_pods, pods_of
from aftershock.run.processes import container_of, id_of, ref_of

if TYPE_CHECKING:
    from aftershock.run.session import Run

KINDS = (
    "freeze",
    "kill",
    "cpu-stress",
    "memory-pressure",
    "out-of-memory",
    "swap-out",
    "no-more-pids",
    "no-more-files",
)
Told = dict[str, Any]
Words = Mapping[str, Any]
Layer = dict[str, Processes]  # by host


def freeze(run: Run, where: str, words: Words, lease_s: Any) -> Told:
    """See `aftershock.actions.host.freeze_processes`."""
    return _break(run, where, words, lambda which: Freeze(processes=(which,)), lease_s)


def kill(run: Run, where: str, words: Words, how: Words, lease_s: Any) -> Told:
    """See `aftershock.actions.host.kill_processes`."""
    told: Told = {
        "times": wording.whole("times", how["times"]),
        "every_s": wording.number("every_s", how["every_s"]),
        "seed": run.settings.seed,
        "signal": str(how["signal"]).upper().removeprefix("SIG"),
    }
    return _break(run, where, words, lambda which: Kill(which, **told), lease_s)


def out_of_memory(run: Run, where: str, words: Words, kills: Any, lease_s: Any) -> Told:
    """See `aftershock.actions.host.exhaust_memory`."""
    many = wording.whole("kills", kills)
    return _break(run, where, words, lambda which: OutOfMemory(which, many), lease_s)


def swap_out(run: Run, where: str, words: Words, keep_share: Any, lease_s: Any) -> Told:
    """See `aftershock.actions.host.swap_out`."""
    share = wording.number("keep_share", keep_share)
    return _break(run, where, words, lambda which: SwapOut(which, share), lease_s)


def no_room(run: Run, where: str, what: str, words: Words, room: Any, lease_s: Any) -> Told:
    """See `exhaust_pids` and `exhaust_files` of `aftershock.actions.host`."""
    left = wording.whole("room", room)
    return _break(run, where, words, lambda which: NoRoom(what, which, left), lease_s)


def stress_cpu(run: Run, where: str, words: Words, lease_s: Any) -> Told:
    """See `aftershock.actions.host.stress_cpu`."""
    fault = CpuStress(
        cores=wording.number("cores", words["cores"]),
        cpus=tuple(
            wording.whole("cpus", one) for one in str(words["cpus"]).split(",") if one.strip()
        ),
        nice=wording.whole("nice", words["nice"]),
        cgroup=str(words["cgroup"]),
    )
    return _on_hosts(run, where, fault, lease_s)


def press_memory(run: Run, where: str, words: Words, lease_s: Any) -> Told:
    """See `aftershock.actions.host.press_memory`."""
    sizes = {
        key: wording.number(key, words[key]) for key in ("take_mb", "available_mb", "reserve_mb")
    }
    fault = MemoryPressure(**sizes, of=str(words["of"]), folder=str(words["folder"]))
    return _on_hosts(run, where, fault, lease_s)


def _on_hosts(run: Run, where: str, fault: Fault, lease_s: Any) -> Told:
    nodes, lease = run.target.inventory.select(where), wording.number("lease_s", lease_s)
    return run.breaking.inject(lambda injections: [injections.on_hosts(fault, nodes, lease)])


def _break(
    run: Run, where: str, words: Words, make: Callable[[Processes], Fault], lease_s: Any
) -> Told:
    layers, hosts, pods = _layers(run, where, words)
    lease = wording.number("lease_s", lease_s)
    faults = [{host: make(which) for host, which in layer.items()} for layer in layers]
    parts = [
        (PerNode(next(iter(each.values())).name, each, _about(where, layer)), list(layer))
        for each, layer in zip(faults, layers, strict=True)
    ]
    return run.breaking.inject(
        lambda injections: [
            injections.on_hosts(fault, [hosts[name] for name in names], lease, pods)
            for fault, names in parts
        ]
    )


def _about(where: str, layer: Layer) -> Told:
    return {"where": where, "processes": {host: str(which) for host, which in layer.items()}}


def _layers(
    run: Run, where: str, words: Words
) -> tuple[list[Layer], dict[str, Node], list[PodRef]]:
    """Whom on which host, and in which pods; a host with several pods has one in each layer."""
    if are_pods(where):
        return _of_pods(run, where, words)
    which = _processes(words)
    nodes = run.target.inventory.select(where)
    if which.pid and len(nodes) > 1:
        raise InvalidFault(
            f"pid {which.pid} on {len(nodes)} hosts: each counts by itself, so name one host"
        )
    hosts = {one.name: one for one in nodes}
    return [dict.fromkeys(hosts, which)], hosts, []


def _of_pods(
    run: Run, where: str, words: Words
) -> tuple[list[Layer], dict[str, Node], list[PodRef]]:
    if words["pid"] or words["pattern"] or words["cgroup"]:
        raise InvalidFault(f"where {where!r} means pods: leave pid, pattern and cgroup empty")
    layers: list[Layer] = []
    hosts: dict[str, Node] = {}
    meant = pods_of(run.target.inventory, run.target.cluster, where)
    for pod, host in meant:
        hosts[host.name] = host
        name = container_of(pod, str(words.get("container") or ""))
        which = Processes(container=id_of(pod, name))
        free = next((layer for layer in layers if host.name not in layer), None)
        if free is None:
            layers.append(free := {})
        free[host.name] = which
    return layers, hosts, [ref_of(pod) for pod, _ in meant]


def _processes(words: Words) -> Processes:
    if words.get("container"):
        raise InvalidFault("container is for pods: name them by a label or `pod/NAME` in `where`")
    return Processes(
        pid=wording.whole("pid", words["pid"]),
        pattern=str(words["pattern"]),
        count=wording.whole("count", words["count"]),
        cgroup=str(words["cgroup"]),
        tree=wording.truth("tree", words["tree"]),
    )
