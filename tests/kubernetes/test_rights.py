"""The rights in deploy/: enough for what they are for, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock.capacity import (
    BlockedAutoscaler,
    Choice,
    Drain,
    PodEviction,
    PodKill,
    RepeatedKill,
    Scaled,
)
from aftershock.capacity.base import ApiFault
from aftershock.capacity.nodes import Cordon, Tainted
from aftershock.capacity.reaper import Reaper
from aftershock.cluster import Cluster, taints
from aftershock.cluster.lock import rights as lease_rights
from aftershock.cluster.permissions import NotPermitted, Permission, missing
from aftershock.cluster.places import probes, reads
from aftershock.cluster.workloads import parsed
from aftershock.errors import AftershockError
from aftershock.ledger import Ledger
from aftershock.run import processes

from .sites import DEPLOY, WEB, Site, namespace_of, played


def faults(cluster: Cluster, site: Site, folder: Path) -> dict[str, list[ApiFault]]:
    """Every fault of the API, by the file in deploy/ that grants it."""
    nodes, ledger = site.nodes(), Ledger("run")
    taint = taints.checked("NoExecute", "run")
    reaper = Reaper(cluster, ledger, "python")
    ledger.close()
    return {
        "rbac-pods.yaml": [
            PodKill(cluster, nodes, WEB),
            PodEviction(cluster, nodes, WEB),
            RepeatedKill(cluster, nodes, WEB),
        ],
        "rbac-nodes.yaml": [
            Cordon(cluster, nodes, ledger, reaper),
            Tainted(cluster, nodes, taint, ledger, reaper),
            Drain(cluster, nodes),
        ],
        "rbac-scale.yaml": [
            Scaled(cluster, parsed("Deployment/web", site.namespace), 1, ledger),
            Scaled(cluster, parsed("StatefulSet/web", site.namespace), 1, ledger),
            BlockedAutoscaler(cluster, parsed("Deployment/web", site.namespace), 1, ledger),
        ],
    }


def granted(documents: list[dict[str, Any]], namespace: str) -> set[Permission]:
    return {
        Permission(verb, resource, namespace_of(one, namespace), group)
        for one in documents
        if one["kind"] in ("Role", "ClusterRole")
        for rule in one["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("name", ["rbac-pods.yaml", "rbac-nodes.yaml", "rbac-scale.yaml"])
def test_the_rights_in_deploy_are_enough_and_no_more(site: Site, tmp_path: Path, name: str) -> None:
    documents = list(yaml.safe_load_all((DEPLOY / name).read_text()))
    kubeconfig = site.somebody(documents)
    cluster = Cluster(str(kubeconfig), site.namespace)
    try:
        needed = {
            one for fault in faults(cluster, site, tmp_path)[name] for one in fault.permissions()
        }
        if name == "rbac-pods.yaml":
            needed |= {*reads(site.namespace), *probes(site.namespace)}
            needed |= {*lease_rights(site.namespace)}
            needed.add(Permission("get", "namespaces", site.namespace))
        if name == "rbac-nodes.yaml":
            needed |= {*processes.PERMISSIONS}
        assert missing(cluster, needed) == []
        assert granted(documents, site.namespace) == needed, "more, or less, than is needed"
    finally:
        cluster.close()


def test_with_those_rights_pods_are_killed_and_nothing_else_is(site: Site, tmp_path: Path) -> None:
    site.deploy("web", 2)
    documents = list(yaml.safe_load_all((DEPLOY / "rbac-pods.yaml").read_text()))
    cluster = Cluster(str(site.somebody(documents)), site.namespace)
    nodes = site.nodes()
    try:
        assert played(PodKill(cluster, nodes, Choice("app=web", count=1)))["bit"]
        assert played(PodEviction(cluster, nodes, Choice("app=web", count=1)))["bit"]
        cordon = faults(cluster, site, tmp_path)["rbac-nodes.yaml"][0]
        with pytest.raises(
            NotPermitted, match=r"get nodes; .*patch nodes.*: grant it \(deploy/rbac"
        ):
            cordon.check()
        elsewhere = PodKill(cluster, nodes, WEB, namespace="default")
        with pytest.raises(NotPermitted, match="delete pods in namespace default"):
            elsewhere.check()
        with pytest.raises(AftershockError, match=r"403 .*cannot patch"):
            cluster.uncordon(nodes[0].name)
    finally:
        cluster.close()
