"""What a cluster's API lets us do, thing by thing, and the file in deploy/ that grants the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from aftershock.capacity import reaper
from aftershock.cluster import Cluster, lock, places
from aftershock.cluster.permissions import Permission, missing
from aftershock.inventory import Inventory

Rights = tuple[Permission, ...]
_LEASES = "coordination.k8s.io"
_PODS, _NODES, _SCALE, _AGENTS = (
    f"deploy/{name}.yaml" for name in ("rbac-pods", "rbac-nodes", "rbac-scale", "node-agent")
)


@dataclass(frozen=True, slots=True)
class Ability:
    """Something that can be done through the API. `lacks`: the rights that are not there."""

    name: str
    wants: tuple[Permission, ...]
    granted_by: str
    lacks: tuple[Permission, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "ok": not self.lacks,
            "lacks": [str(one) for one in self.lacks],
            "granted_by": self.granted_by,
        }

    def lines(self) -> list[str]:
        """For a terminal."""
        if not self.lacks:
            return [f"  ✓ {self.name}"]
        verbs: dict[Permission, list[str]] = {}
        for one in self.lacks:
            verbs.setdefault(replace(one, verb=""), []).append(one.verb)
        lacks = "; ".join(f"{', '.join(some)}{what}" for what, some in verbs.items())
        return [f"  ✗ {self.name}: not allowed: {lacks}", f"    → grant it: {self.granted_by}"]


def abilities(target: Inventory, namespace: str) -> list[Ability]:
    """All that a target may be asked for: what its agents take, only where it has some by pods."""
    held = reaper.PERMISSIONS if target.reaper_image not in ("", "none") else ()
    spaces = {node.agent.namespace for node in target.nodes if node.agent}
    return [
        Ability("find nodes and pods", tuple(places.reads(namespace)), _PODS),
        Ability("kill pods", _some("get list delete", "pods", namespace), _PODS),
        Ability("evict pods", _some("create", "pods/eviction", namespace), _PODS),
        Ability("keep other runs away", tuple(lock.rights(namespace)), _PODS),
        Ability("probes of the cluster", tuple(places.probes(namespace)), _PODS),
        Ability("cordon and taint nodes", (*_some("get patch", "nodes"), *held), _NODES),
        Ability("NoExecute taints, and room for a lost zone", _some("list", "pods"), _NODES),
        Ability("drain nodes", (*_some("list", "pods"), *_some("create", "pods/eviction")), _NODES),
        Ability("see silent nodes", _some("get", "leases", "kube-node-lease", _LEASES), _NODES),
        Ability("scale workloads", (*_scales(namespace), *held), _SCALE),
        *(Ability(f"agents in {space}", _agents(space), _AGENTS) for space in sorted(spaces)),
    ]


def examine(cluster: Cluster, target: Inventory) -> list[Ability]:
    """Ask for all of them (SelfSubjectAccessReview); nothing is changed."""
    found = abilities(target, cluster.namespace)
    lacking = set(missing(cluster, [right for one in found for right in one.wants]))
    return [
        replace(one, lacks=tuple(right for right in one.wants if right in lacking)) for one in found
    ]


def _some(verbs: str, resource: str, namespace: str = "", group: str = "") -> Rights:
    return tuple(Permission(verb, resource, namespace, group) for verb in verbs.split())


def _scales(namespace: str) -> Rights:
    kinds: Sequence[str] = ("deployments/scale", "statefulsets/scale")
    return (
        *(right for kind in kinds for right in _some("get patch", kind, namespace, "apps")),
        *_some("get list patch", "horizontalpodautoscalers", namespace, "autoscaling"),
        *_some("list", "pods", namespace),
    )


def _agents(namespace: str) -> Rights:
    return (
        *_some("get list create delete", "pods", namespace),
        *_some("get create", "pods/exec", namespace),
        *_some("create delete", "configmaps", namespace),
        *_some("get", "nodes"),
        *_some("get", "endpoints"),
        *_some("get", "leases", "", _LEASES),
    )
