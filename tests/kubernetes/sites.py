"""Where destructive tests run: the lab's API, or a genuine cluster that one was told of.

AFTERSHOCK_TEST_KUBECONFIG names a kubeconfig whose current context allows destructive tests (each
has a namespace of its own, deleted after it); AFTERSHOCK_TEST_IMAGE an image with `sleep` that its
nodes have or can pull.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aftershock.capacity import Choice
from aftershock.capacity.base import ApiFault
from aftershock.cluster import Cluster, Pod
from aftershock.cluster.places import nodes_of
from aftershock.cluster.pods import listed
from aftershock.inventory import FromApi, Node
from aftershock.lab.kubernetes.authorization import Rights

from .conftest import Lab, until

GENUINE = os.environ.get("AFTERSHOCK_TEST_KUBECONFIG")
IMAGE = os.environ.get("AFTERSHOCK_TEST_IMAGE", "busybox:1.36")
PATIENCE_S = 90.0 if GENUINE else 10.0
WEB = Choice("app=web")
DEPLOY = Path(__file__).parents[2] / "deploy"

Manifest = dict[str, Any]


def played(fault: ApiFault) -> dict[str, Any]:
    """A fault's life up to its evidence."""
    fault.check()
    fault.arm()
    fault.fire()
    fault.observe()
    return fault.to_dict()


class Site:
    """One namespace of a cluster, and how tests look at it by a client of their own."""

    def __init__(self, kubeconfig: Path, namespace: str, lab: Lab | None, folder: Path) -> None:
        from kubernetes import client, config

        self.kubeconfig, self.namespace, self.lab = kubeconfig, namespace, lab
        self._folder = folder
        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings)
        self.client = client.ApiClient(settings)
        self.core = client.CoreV1Api(self.client)
        self.cluster = Cluster(str(kubeconfig), namespace)
        self.core.create_namespace({"metadata": {"name": namespace}})
        self._clean = contextlib.ExitStack()

    def close(self) -> None:
        self._clean.close()
        self.cluster.close()
        if GENUINE:
            self.core.delete_namespace(self.namespace)
        self.client.rest_client.pool_manager.clear()

    def nodes(self) -> list[Node]:
        """The nodes with a zone; agentless."""
        return list(nodes_of(self.cluster, FromApi()))

    def pods(self, selector: str = "") -> list[Pod]:
        return listed(self.cluster, self.namespace, selector)

    def ready(self, name: str) -> list[Pod]:
        return [pod for pod in self.pods(f"app={name}") if pod.ready and pod.runs]

    def deploy(
        self,
        name: str,
        replicas: int,
        grace_s: int = 2,
        wait: bool = True,
        stubborn: bool = False,
    ) -> None:
        """Pods that sleep, spread over the zones, and ready; stubborn ones hear no SIGTERM."""
        from kubernetes import client

        labels = {"app": name}
        container = {"name": "sleep", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}
        deaf = ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]
        container |= {"command": deaf if stubborn else ["sleep", "1000"]}  # type: ignore[dict-item]
        spread = {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": labels},
        }
        pod = {"containers": [container], "terminationGracePeriodSeconds": grace_s}
        pod |= {"topologySpreadConstraints": [spread]}  # type: ignore[dict-item]
        template = {"metadata": {"labels": labels}, "spec": pod}
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        body = {"metadata": {"name": name, "labels": labels}, "spec": spec}
        client.AppsV1Api(self.client).create_namespaced_deployment(self.namespace, body)
        if wait:
            until(lambda: len(self.ready(name)) == replicas, PATIENCE_S)

    def budget(self, name: str, least: int) -> None:
        """A PodDisruptionBudget that is known to its controller."""
        from kubernetes import client

        policy = client.PolicyV1Api(self.client)
        spec = {"minAvailable": least, "selector": {"matchLabels": {"app": name}}}
        policy.create_namespaced_pod_disruption_budget(
            self.namespace, {"metadata": {"name": name}, "spec": spec}
        )

        def healthy() -> bool:
            found = policy.read_namespaced_pod_disruption_budget(name, self.namespace)
            return bool(found.status and (found.status.current_healthy or 0) >= least)

        until(healthy, PATIENCE_S)

    def scale(self, name: str, replicas: int) -> None:
        from kubernetes import client

        client.AppsV1Api(self.client).patch_namespaced_deployment_scale(
            name, self.namespace, {"spec": {"replicas": replicas}}
        )

    def somebody(self, documents: list[Manifest]) -> Path:
        """The kubeconfig of a service account with just these Roles and ClusterRoles."""
        path = self._folder / f"kubeconfig-{uuid.uuid4().hex[:6]}"
        if self.lab:
            rules: dict[str, list[Any]] = {}
            for one in documents:
                if one["kind"] in ("Role", "ClusterRole"):
                    rules.setdefault(namespace_of(one, self.namespace), []).extend(one["rules"])
            rights = Rights("system:serviceaccount:aftershock:aftershock", rules)
            return self.lab.server.write_kubeconfig(path, self.namespace, rights=rights)
        return self._account(path, documents)

    def _namespaces(self) -> set[str]:
        return {item.metadata.name for item in self.core.list_namespace().items}

    def _without(self, namespace: str) -> None:
        """Gone before the next test looks whether it is there."""
        self.core.delete_namespace(namespace)
        until(lambda: namespace not in self._namespaces(), PATIENCE_S)

    def _account(self, path: Path, documents: list[Manifest]) -> Path:
        from kubernetes import client

        rbac = client.RbacAuthorizationV1Api(self.client)
        name = f"aftershock-test-{uuid.uuid4().hex[:6]}"
        self.core.create_namespaced_service_account(self.namespace, {"metadata": {"name": name}})
        who = [{"kind": "ServiceAccount", "name": name, "namespace": self.namespace}]
        # Bindings of our own: those in the file are for another account.
        roles = [one for one in documents if one["kind"] in ("Role", "ClusterRole")]
        for number, one in enumerate(roles):
            kind, place = one["kind"], namespace_of(one, self.namespace)
            if place and place not in self._namespaces():
                self.core.create_namespace({"metadata": {"name": place}})
                self._clean.callback(self._without, place)
            role = f"{name}-{number}"  # a file may have several for one namespace
            body = {"metadata": {"name": role}, "rules": one.get("rules")}
            binding = {
                "metadata": {"name": role},
                "subjects": who,
                "roleRef": {"kind": kind, "name": role, "apiGroup": "rbac.authorization.k8s.io"},
            }
            if kind == "Role":
                rbac.create_namespaced_role(place, body)
                self._clean.callback(rbac.delete_namespaced_role, role, place)
                rbac.create_namespaced_role_binding(place, binding)
                self._clean.callback(rbac.delete_namespaced_role_binding, role, place)
            else:
                rbac.create_cluster_role(body)
                self._clean.callback(rbac.delete_cluster_role, role)
                rbac.create_cluster_role_binding(binding)
                self._clean.callback(rbac.delete_cluster_role_binding, role)
        token = self.core.create_namespaced_service_account_token(
            name, self.namespace, {"spec": {}}
        )
        plain = json.loads(json.dumps(self.cluster.access.content))
        plain["users"][0]["user"] = {"token": token.status.token}
        plain["contexts"][0]["context"]["namespace"] = self.namespace
        path.write_text(json.dumps(plain))
        time.sleep(1)  # until the authorizer has heard of it
        return path


def namespace_of(document: Manifest, site: str) -> str:
    """Where a Role of deploy/ grants something; a ClusterRole does everywhere."""
    named = str(document.get("metadata", {}).get("namespace", ""))
    return site if document["kind"] == "Role" and named in ("", "NAMESPACE") else named


@contextlib.contextmanager
def site_in(folder: Path) -> Iterator[Site]:
    """A site of its own, and nothing of it afterwards."""
    namespace = f"aftershock-test-{uuid.uuid4().hex[:8]}"
    lab = None if GENUINE else Lab(folder)
    place = Path(GENUINE).expanduser().absolute() if GENUINE else folder / "kubeconfig"
    site = Site(place, namespace, lab, folder)
    try:
        yield site
    finally:
        site.close()
        if lab:
            lab.down()
