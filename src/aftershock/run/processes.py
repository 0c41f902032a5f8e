"""Faults on processes in pods and of nodes: killed, frozen, silenced."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aftershock.capacity.containers import Target
from aftershock.cluster import Cluster
from aftershock.cluster.permissions import Permission, require
from aftershock.errors import AftershockError, InvalidInput, Unsupported
from aftershock.evidence import Piece
from aftershock.faults.base import Fault, PerNode
from aftershock.faults.freeze import Freeze
from aftershock.inventory import Node, PodRef
from aftershock.run import wording
from aftershock.run.injecting import Injected, Injections
from aftershock.run.places import pods_of

if TYPE_CHECKING:
    from aftershock.run.session import Run

_LATE_S = 13.0  # of the 10 s between two renewals
_SILENT_S = 40.0
_OTHERS = 3  # nodes whose leases are looked at beside
PERMISSIONS = (Permission("get", "leases", "kube-node-lease", "coordination.k8s.io"),)
Told = dict[str, Any]
Pods = list[tuple[Mapping[str, Any], Node]]


def kill_containers(run: Run, where: str, container: str, times: Any, every_s: Any) -> Told:
    """See `aftershock.actions.kubernetes.kill_containers`."""
    pods = _meant(run, where)
    targets = [
        Target(host, pod["metadata"]["uid"], pod["metadata"]["name"], name)
        for pod, host in pods
        if (name := container_of(pod, container))
    ]
    how = {
        "times": int(wording.number("times", times)),
        "every_s": wording.number("every_s", every_s),
        "seed": run.settings.seed,
    }

    def make(injections: Injections) -> list[Injected]:
        injections.check_pods([ref_of(pod) for pod, _ in pods])
        return [injections.containers(targets, **how)]

    return run.breaking.inject(make)


def freeze_containers(run: Run, where: str, container: str, lease_s: float) -> Told:
    """See `aftershock.actions.kubernetes.freeze_containers`."""
    pods = _meant(run, where)
    ids: dict[str, list[str]] = {}
    for pod, host in pods:
        ids.setdefault(host.name, []).append(id_of(pod, container_of(pod, container)))
    faults: dict[str, Fault] = {host: Freeze(tuple(found)) for host, found in ids.items()}
    fault = PerNode("freeze", faults, {"pods": [pod["metadata"]["name"] for pod, _ in pods]})
    hosts = {host.name: host for _, host in pods}
    lease = wording.number("lease_s", lease_s)
    cluster = run.target.cluster
    assert cluster
    outside = _Readiness(cluster, pods).pieces

    refs = [ref_of(pod) for pod, _ in pods]

    def make(injections: Injections) -> list[Injected]:
        return [injections.processes(fault, list(hosts.values()), lease, outside, pods=refs)]

    return run.breaking.inject(make)


def silence_nodes(run: Run, where: str, program: str, lease_s: float) -> Told:
    """See `aftershock.actions.kubernetes.silence_nodes`."""
    nodes = run.target.inventory.select(where)
    faults: dict[str, Fault] = {
        node.name: Freeze(named=(program,), takes_channel=bool(node.agent)) for node in nodes
    }
    fault = PerNode("freeze", faults, {"program": program})
    lease = wording.number("lease_s", lease_s)
    if run.target.cluster is None:
        raise Unsupported("this target has no Kubernetes API to see a node's silence by")
    outside = Leases(run.target.cluster, nodes, run.target.inventory.nodes)

    def make(injections: Injections) -> list[Injected]:
        injections.check_where(nodes, [fault])
        return [injections.processes(fault, nodes, lease, outside.pieces, _SILENT_S)]

    return run.breaking.inject(make)


def _meant(run: Run, where: str) -> Pods:
    return pods_of(run.target.inventory, run.target.cluster, where)


def ref_of(pod: Mapping[str, Any]) -> PodRef:
    """A pod as nothing else can become it."""
    meta = pod["metadata"]
    return PodRef(meta["namespace"], meta["name"], meta["uid"])


def container_of(pod: Mapping[str, Any], asked: str) -> str:
    """The container's name; where a pod has several, it must be said."""
    names: list[str] = [one["name"] for one in pod["spec"]["containers"]]
    if asked in names or (not asked and len(names) == 1):
        return asked or names[0]
    told = f"has no container {asked!r}" if asked else "has several containers"
    raise InvalidInput(f"pod {pod['metadata']['name']} {told}: name one of {', '.join(names)}")


def id_of(pod: Mapping[str, Any], container: str) -> str:
    """The ID of a running container of a pod, without its scheme."""
    for one in pod["status"].get("containerStatuses") or ():
        if one["name"] == container and "running" in (one.get("state") or {}):
            return str(one["containerID"]).rpartition("//")[2]
    raise InvalidInput(
        f"pod {pod['metadata']['name']}: its container {container} does not run: wait until it does"
    )


class Leases:
    """Nodes' leases, which their kubelets renew every 10 s: silent is one that isn't renewed.

    That shows sooner than a node's Ready condition, which takes some 50 s. `everyone`: the other
    nodes; while nobody's lease is renewed it is the API that is silent, and proves nothing.
    """

    def __init__(
        self, cluster: Cluster, nodes: Sequence[Node], everyone: Sequence[Node] = ()
    ) -> None:
        require(cluster, PERMISSIONS)
        self._cluster = cluster
        self._names = {one.name: one.in_cluster for one in nodes}
        others = [one.in_cluster for one in everyone if one.name not in self._names]
        self._others = others[:_OTHERS]
        names = [*self._names.values(), *self._others]
        self._renewed = {name: cluster.renewed(name) for name in names}
        self._since = dict.fromkeys(names, time.monotonic())

    def pieces(self) -> Mapping[str, Piece]:
        """A piece a host; one that is not late yet proves nothing."""
        try:
            ages = {name: self._age_s(name) for name in self._renewed}
        except AftershockError as error:  # blind is not silent
            return {host: Piece("silent", host, None, str(error)) for host in self._names}
        deaf = bool(self._others) and min(ages[name] for name in self._others) > _LATE_S
        told = {}
        for host, name in self._names.items():
            seen = f"its lease was not renewed for {ages[name]:.0f} s"
            seen += ", and nobody else's" if deaf else ""
            late = True if ages[name] > _LATE_S and not deaf else None
            told[host] = Piece("silent", host, late, seen)
        return told

    def _age_s(self, name: str) -> float:
        now, at = self._cluster.renewed(name), time.monotonic()
        if now != self._renewed[name]:
            self._renewed[name], self._since[name] = now, at
        return at - self._since[name]


class _Readiness:
    """What the API tells of frozen pods: a probe that asks them fails, sooner or later."""

    def __init__(self, cluster: Cluster, pods: Pods) -> None:
        self._cluster = cluster
        self._uids: dict[str, set[str]] = {}
        for pod, host in pods:
            self._uids.setdefault(host.name, set()).add(pod["metadata"]["uid"])

    def pieces(self) -> Mapping[str, Piece]:
        """A piece a host; that all are ready still proves nothing: a probe takes its time."""
        unready = {
            pod["metadata"]["uid"]
            for pod in self._cluster.described("")
            if not _is_ready(pod["status"].get("conditions") or ())
        }
        told = {}
        for host, uids in self._uids.items():
            count = len(uids & unready)
            seen = f"{count} of {len(uids)} pods are not ready"
            told[host] = Piece("unready", host, True if count == len(uids) else None, seen)
        return told


def _is_ready(conditions: Iterable[Mapping[str, Any]]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
