"""The node agents' pods as the Kubernetes API has them: made, waited for, and taken away."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from aftershock.cluster.access import find
from aftershock.errors import AftershockError, HostUnreachable, InvalidInput, Unsupported
from aftershock.hosts.execing import reason_of
from aftershock.inventory import NodePod

RUN_LABEL = "aftershock/run"
# Whoever picks pods to kill must leave these alone.
LABELS = {"app.kubernetes.io/managed-by": "aftershock", "app.kubernetes.io/name": "node-agent"}
SELECTOR = ",".join(f"{key}={value}" for key, value in LABELS.items())
_TIMEOUT_S = 10.0
_LOOK_S = 0.1
_HOPELESS = (
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)
# What the pod itself runs: until no agent has been in it for a while.
_MAIN = """
import os, sys, time
mark, idle_s, last = sys.argv[1].encode(), float(sys.argv[2]), time.monotonic()
while time.monotonic() - last < idle_s:
    time.sleep(min(5, idle_s / 4))
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid(): continue
        try:
            with open("/proc/%s/environ" % name, "rb") as file: there = file.read().split(b"\\0")
        except OSError: continue
        if b"AFTERSHOCK_AGENT_POD=" + mark in there: last = time.monotonic()
"""


@dataclass(frozen=True, slots=True)
class ConfigMap:
    """The owner of a run's pods."""

    name: str
    uid: str


def manifest(way: NodePod, title: str, run: str, owner: ConfigMap | None) -> dict[str, Any]:
    """A node's agent pod."""
    meta: dict[str, Any] = {"name": title, "labels": {**LABELS, RUN_LABEL: run}}
    if owner:
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name, "uid": owner.uid}
        meta["ownerReferences"] = [reference]
    container = {
        "name": "agent",
        "image": way.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [way.python, "-I", "-S", "-c", _MAIN, title, str(way.idle_s)],
        "env": [{"name": "AFTERSHOCK_AGENT_POD", "value": title}],
        "securityContext": {"privileged": True, "runAsUser": 0, "runAsGroup": 0},
    }
    spec = {
        "nodeName": way.node,  # no scheduler is asked, so a cordoned node takes it
        "tolerations": [{"operator": "Exists"}],
        "hostNetwork": True,
        "hostPID": True,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": way.lifetime_s,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


class PodsApi:
    """What we ask of a cluster for them. Any thread may ask."""

    def __init__(self, way: NodePod) -> None:
        from kubernetes import client

        self._access = find(way.kubeconfig, way.context)
        settings = self._access.settings
        settings.connection_pool_maxsize = 16
        self.client: Any = client.ApiClient(settings)
        self._namespace, self._kubeconfig = way.namespace, way.kubeconfig
        self._core = client.CoreV1Api(self.client)
        self._client = client

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()
        self.client.rest_client.pool_manager.clear()
        self._access.close()

    def admit(self, pod: dict[str, Any], name: str) -> None:
        """Ask whether the cluster takes such a pod, without making it."""
        node = pod["spec"]["nodeName"]
        if not pod["spec"]["containers"][0]["image"]:
            raise InvalidInput(f"{name}: no image for the node's agent: name one that has Python")
        status, said = self._try(self._core.read_node, node)
        if status == 404:
            raise InvalidInput(f"{name}: the cluster has no node {node!r}: see `kubectl get nodes`")
        create = self._core.create_namespaced_pod
        status, said = self._try(create, self._namespace, pod, dry_run="All")
        if status:
            raise self._refused(name, "a privileged pod", status, said)

    def own(self, title: str, run: str, name: str) -> ConfigMap:
        """Make the object that the pods belong to."""
        meta = {"name": title, "labels": {**LABELS, RUN_LABEL: run}}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
        status, made = self._try(self._core.create_namespaced_config_map, self._namespace, body)
        if status:
            raise self._refused(name, "a ConfigMap", status, made)
        return ConfigMap(title, made.metadata.uid)

    def runs(self, title: str) -> bool:
        """Whether a pod is there, and can be gone into."""
        status, pod = self._try(self._core.read_namespaced_pod, title, self._namespace)
        return not status and _is_running(pod)

    def start(self, pod: dict[str, Any], way: NodePod, name: str) -> None:
        """Make a pod and wait until it runs."""
        status, made = self._try(self._core.create_namespaced_pod, self._namespace, pod)
        if status:
            raise self._refused(name, "a privileged pod", status, made)
        title, until = pod["metadata"]["name"], time.monotonic() + way.timeout_s
        while not _is_running(made):
            if why := _hopeless(made):
                raise Unsupported(
                    f"{name}: the agent's pod {self._namespace}/{title} can't run: {why}: is "
                    f"{way.image!r} an image that the node can have, and has it {way.python}?"
                )
            if time.monotonic() > until:
                raise HostUnreachable(
                    f"{name}: the agent's pod {self._namespace}/{title} does not run after "
                    f"{way.timeout_s:g} s ({_state(made)}): is the node's kubelet there?"
                )
            time.sleep(_LOOK_S)
            status, made = self._try(self._core.read_namespaced_pod, title, self._namespace)
            if status:
                raise HostUnreachable(f"{name}: the agent's pod {title} was taken away: {made}")

    def remove(self, title: str) -> None:
        """Take a pod away that has ended, so that its name is free."""
        self._try(self._core.delete_namespaced_pod, title, self._namespace, grace_period_seconds=0)
        until = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < until:
            if self._try(self._core.read_namespaced_pod, title, self._namespace)[0] == 404:
                return
            time.sleep(_LOOK_S)

    def sweep(self, run: str, owner: str, within_s: float) -> int:
        """Take a run's pods and their owner away, and see that they are gone; how many there were.

        A pod whose kubelet does not end it in time (its node is down) is taken out of the API at
        the end: a kubelet that comes back ends what the API no longer has.
        """
        there = count = self._listed(run)
        self._delete_all(run, 1)
        until = time.monotonic() + within_s
        while (there := self._listed(run)) and time.monotonic() < until:
            time.sleep(_LOOK_S)
        if there:
            self._delete_all(run, 0)
        status, said = self._try(self._core.delete_namespaced_config_map, owner, self._namespace)
        if status not in (0, 404) or (left := self._listed(run)):
            what = said if status not in (0, 404) else f"{left} pods are still there"
            raise HostUnreachable(f"node agents in {self._namespace}: not all deleted: {what}")
        return count

    def servers(self) -> set[str]:
        """The API servers' own addresses, where they may be asked for."""
        status, found = self._try(self._core.read_namespaced_endpoints, "kubernetes", "default")
        subsets = (found.subsets or ()) if not status else ()
        return {address.ip for subset in subsets for address in subset.addresses or ()}

    def _listed(self, run: str) -> int:
        among = f"{SELECTOR},{RUN_LABEL}={run}"
        listing = self._core.list_namespaced_pod
        status, found = self._try(listing, self._namespace, label_selector=among)
        if status:
            raise HostUnreachable(f"node agents in {self._namespace}: not to be listed: {found}")
        return len(found.items)

    def _delete_all(self, run: str, grace_s: int) -> None:
        among = f"{SELECTOR},{RUN_LABEL}={run}"
        listing = self._core.list_namespaced_pod
        status, found = self._try(listing, self._namespace, label_selector=among)
        for pod in found.items if not status else ():
            delete, name = self._core.delete_namespaced_pod, pod.metadata.name
            self._try(delete, name, self._namespace, grace_period_seconds=grace_s)

    def _try(self, function: Any, *arguments: Any, **named: Any) -> tuple[int, Any]:
        """0 and the answer, or the status and what the server said."""
        from urllib3.exceptions import HTTPError

        try:
            return 0, function(*arguments, _request_timeout=_TIMEOUT_S, **named)
        except self._client.ApiException as error:
            return int(error.status or 500), reason_of(error.body, str(error.reason))
        except (HTTPError, OSError) as error:
            raise HostUnreachable(
                f"the Kubernetes API does not answer {function.__name__} "
                f"({type(error).__name__}): check the kubeconfig {self._kubeconfig}"
            ) from error

    def _refused(self, name: str, what: str, status: int, said: str) -> AftershockError:
        where = self._namespace
        if "PodSecurity" in said:
            mend = (
                "name a namespace that lets privileged pods in (kubectl label namespace "
                f"{where} pod-security.kubernetes.io/enforce=privileged)"
            )
        elif status == 403:
            mend = f"let this user create it in {where} (deploy/ has a Role)"
        else:
            mend = "name another namespace, or make it"
        return Unsupported(f"{name}: the cluster refuses {what} ({status}: {said}): {mend}")


def _is_running(pod: Any) -> bool:
    told = pod.status.container_statuses or ()
    return pod.metadata.deletion_timestamp is None and any(one.state.running for one in told)


def _hopeless(pod: Any) -> str:
    """Why a pod will never run, or nothing."""
    if pod.status.phase in ("Failed", "Succeeded"):
        return f"it ended at once ({_state(pod)})"
    for one in pod.status.container_statuses or ():
        if one.state.waiting and one.state.waiting.reason in _HOPELESS:
            return f"{one.state.waiting.reason}: {one.state.waiting.message or ''}".strip()
    return ""


def _state(pod: Any) -> str:
    words = [pod.status.phase or "Pending", pod.status.reason, pod.status.message]
    for one in pod.status.container_statuses or ():
        for state in (one.state.waiting, one.state.terminated):
            words += [state.reason, state.message] if state else []
    return ", ".join(word for word in words if word)
