"""Faults and looks at volumes, from an experiment's words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aftershock.errors import InvalidFault, InvalidInput
from aftershock.faults.base import Fault, PerNode
from aftershock.faults.covering import FileDelay
from aftershock.faults.delaying import IoDelay
from aftershock.faults.failing import IoErrors
from aftershock.faults.filling import DiskFull, InodesFull
from aftershock.faults.pressing import IoPressure
from aftershock.faults.throttling import IoThrottle
from aftershock.fullness import ASK_S
from aftershock.hosts.fleet import ask_all
from aftershock.inventory import Node
from aftershock.lab.volumes import FOLDER
from aftershock.run import processes, wording
from aftershock.run.places import are_pods, pods_of

if TYPE_CHECKING:
    from aftershock.run.session import Run

STORAGE = (
    "disk-full",
    "inodes-full",
    "io-pressure",
    "io-throttle",
    "io-delay",
    "io-errors",
    "file-delay",
)
Told = dict[str, Any]
Looks = dict[str, dict[str, Any]]


def fill_disk(
    run: Run, where: str, path: str, free_mib: Any, volume: str, reserve_mib: Any, lease_s: Any
) -> Told:
    """See `aftershock.actions.storage.fill_disk`."""
    free = wording.number("disk-full: free_mib", free_mib)
    reserve = wording.number("disk-full: reserve_mib", reserve_mib)
    return _break(run, where, path, lambda one: DiskFull(one, free, reserve, str(volume)), lease_s)


def fill_inodes(
    run: Run, where: str, path: str, free_inodes: Any, volume: str, lease_s: Any
) -> Told:
    """See `aftershock.actions.storage.fill_inodes`."""
    free = wording.number("inodes-full: free_inodes", free_inodes)
    return _break(run, where, path, lambda one: InodesFull(one, int(free), str(volume)), lease_s)


def press(run: Run, where: str, path: str, words: Mapping[str, Any], lease_s: Any) -> Told:
    """See `aftershock.actions.storage.press_io`."""
    told: dict[str, Any] = {}
    for name, value in words.items():
        if name in ("pattern", "engine", "volume"):
            told[name] = str(value)
        elif name == "direct":
            told[name] = wording.truth("io-pressure: direct", value)
        else:
            told[name] = wording.number(f"io-pressure: {name}", value)
    for name in ("block_kib", "depth", "jobs"):
        told[name] = int(told[name])
    return _break(run, where, path, lambda one: IoPressure(one, **told), lease_s)


def throttle(run: Run, where: str, path: str, words: Mapping[str, Any], lease_s: Any) -> Told:
    """See `aftershock.actions.storage.throttle_io`."""
    told: dict[str, Any] = {name: str(words[name]) for name in ("cgroup", "volume")}
    for name in ("containers", "named"):
        told[name] = tuple(one.strip() for one in str(words[name]).split(",") if one.strip())
    for name in ("read_mib_s", "write_mib_s", "read_iops", "write_iops"):
        told[name] = wording.number(f"io-throttle: {name}", words[name])
    if are_pods(where):
        return _throttle_pods(run, where, path, told, str(words["container"]), lease_s)
    return _break(run, where, path, lambda one: IoThrottle(one, **told), lease_s)


def _throttle_pods(
    run: Run, where: str, path: str, told: Mapping[str, Any], container: str, lease_s: Any
) -> Told:
    """Each pod's container on its own host."""
    if told["cgroup"] or told["containers"] or told["named"]:
        raise InvalidFault("io-throttle: `where` means pods: leave cgroup, containers, named out")
    pods = pods_of(run.target.inventory, run.target.cluster, where)
    lease = wording.number("lease_s", lease_s)
    ids: dict[str, list[str]] = {}
    for pod, host in pods:
        found = processes.id_of(pod, processes.container_of(pod, container))
        ids.setdefault(host.name, []).append(found)
    hosts = {host.name: host for _, host in pods}
    faults: dict[str, Fault] = {
        name: IoThrottle(path_on(hosts[name], path), **{**told, "containers": tuple(found)})
        for name, found in ids.items()
    }
    names = [pod["metadata"]["name"] for pod, _ in pods]
    fault = PerNode("io-throttle", faults, {"path": path, "pods": names})
    nodes, refs = list(hosts.values()), [processes.ref_of(pod) for pod, _ in pods]
    return run.breaking.inject(lambda injections: [injections.on_hosts(fault, nodes, lease, refs)])


def delay(
    run: Run, where: str, path: str, read_ms: Any, write_ms: Any, volume: str, lease_s: Any
) -> Told:
    """See `aftershock.actions.storage.delay_io`."""
    _check_mapped(run, "io-delay", path)
    ms = [
        wording.number(f"io-delay: {way}", value)
        for way, value in (("read_ms", read_ms), ("write_ms", write_ms))
    ]
    reads, writes = (round(one) for one in ms)
    return _break(run, where, path, lambda one: IoDelay(one, reads, writes, str(volume)), lease_s)


def delay_files(
    run: Run, where: str, path: str, read_ms: Any, read_only: Any, most_mib: Any, lease_s: Any
) -> Told:
    """See `aftershock.actions.storage.delay_files`."""
    ms = round(wording.number("file-delay: read_ms", read_ms))
    agreed = wording.truth("file-delay: read_only", read_only)
    most = wording.number("file-delay: most_mib", most_mib)
    return _break(run, where, path, lambda one: FileDelay(one, ms, agreed, most), lease_s)


def slow(run: Run, where: str, path: str, by: str, words: Mapping[str, Any], lease_s: Any) -> Told:
    """See `aftershock.actions.storage.slow_io`."""
    pressure = dict(words)
    delays = {name: pressure.pop(name) for name in ("read_ms", "write_ms")}
    if by == "dm-delay":
        return delay(run, where, path, **delays, volume=words["volume"], lease_s=lease_s)
    if by != "fio":
        raise InvalidFault(f"slow_io: by {by!r}: fio or dm-delay")
    if any(wording.number(f"slow_io: {name}", value) for name, value in delays.items()):
        raise InvalidFault("slow_io: read_ms and write_ms are dm-delay's: say by=dm-delay, or 0")
    return press(run, where, path, pressure, lease_s)


def fail(run: Run, where: str, path: str, words: Mapping[str, Any], lease_s: Any) -> Told:
    """See `aftershock.actions.storage.fail_io`."""
    _check_mapped(run, "io-errors", path)
    told: dict[str, Any] = {name: str(words[name]) for name in ("operation", "volume")}
    for name in ("up_s", "down_s"):
        value = wording.number(f"io-errors: {name}", words[name])
        if value != int(value):
            raise InvalidFault(f"io-errors: {name} {value:g}: whole seconds")
        told[name] = int(value)
    name = "file_system_may_break"
    told[name] = wording.truth(f"io-errors: {name}", words[name])
    return _break(run, where, path, lambda one: IoErrors(one, **told), lease_s)


def heal(run: Run, where: str) -> Told:
    """See `aftershock.actions.storage.heal_storage`."""
    return run.breaking.heal(where, kinds=STORAGE)


def look(run: Run, where: str, what: str, options: Mapping[str, Any]) -> Looks:
    """What another process on each host sees of a volume, by host; see the agent's `storage`."""
    nodes = run.target.inventory.select(where)
    channels = run.target.agents.channels(nodes)
    own = {node.name: {**options, "path": path_on(node, options["path"])} for node in nodes}
    told, errors = ask_all(
        channels, "storage", lambda name: {"what": what, "options": own[name]}, ASK_S
    )
    if errors:
        raise next(iter(errors.values()))
    return told


def latency(run: Run, where: str, path: str, samples: Any) -> Looks:
    """Host → percentiles of single direct reads and writes, in ms."""
    count = int(wording.number("samples", samples))
    told = look(run, where, "latency", {"path": path, "count": count, "longest_s": 10})
    return {
        host: {way: percentiles(one[f"{way}_ms"]) for way in ("read", "write")}
        for host, one in told.items()
    }


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """The nearest rank of p50, p90, p99 and the most of some times."""
    ranked = sorted(times)
    at = {p: ranked[max(0, math.ceil(p / 100 * len(ranked)) - 1)] for p in (50, 90, 99)}
    return {**{f"p{p}_ms": round(ms, 3) for p, ms in at.items()}, "max_ms": round(ranked[-1], 3)}


def percentile(run: Run, where: str, path: str, kind: str, rank: str, samples: Any) -> float:
    """One percentile, of the host where it is worst."""
    if kind not in ("read", "write"):
        raise InvalidInput(f"kind {kind!r}: read or write")
    told = latency(run, where, path, samples)
    return max(float(one[kind][rank]) for one in told.values())


def _break(run: Run, where: str, path: str, make: Callable[[str], Fault], lease_s: Any) -> Told:
    """One injection on all the hosts, with each one's own path."""
    nodes = run.target.inventory.select(where)
    lease = wording.number("lease_s", lease_s)
    faults = {node.name: make(path_on(node, path)) for node in nodes}
    fault = faults[nodes[0].name]
    if len(set(faults.values())) > 1:
        fault = PerNode(fault.name, faults, {"path": path})
    return run.breaking.inject(lambda injections: [injections.on_hosts(fault, nodes, lease)])


def _check_mapped(run: Run, kind: str, path: str) -> None:
    """The lab's own volumes are on device-mapper only where an experiment says so."""
    own = run.target.is_lab and str(path).startswith(f"{FOLDER}/")
    if own and not run.settings.volume_mapped:
        raise InvalidFault(
            f"{kind}: the lab's volumes are no device-mapper devices: set volume_mapped to true"
        )


def path_on(node: Node, path: str) -> str:
    """A path with the names of a node and its zone in it where it asks for them."""
    return str(path).replace("{zone}", node.zone).replace("{node}", node.name)
