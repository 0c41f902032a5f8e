"""What we ask of a Kubernetes API: pods by node, their end, cordons, and ready replicas by zone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aftershock.errors import HostUnreachable

ZONE_LABEL = "topology.kubernetes.io/zone"
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as it was when looked at."""

    name: str
    namespace: str
    uid: str
    node: str
    ready: bool
    terminating: bool


class Cluster:
    """One Kubernetes API, reached through a kubeconfig file.

    `emulated`: it is the lab's own, and what was done in it ends with the lab.
    """

    def __init__(self, kubeconfig: str, namespace: str, emulated: bool = False) -> None:
        # Imported here: it takes a quarter of a second that not every `chaos` call should pay.
        from kubernetes import client, config
        from urllib3.util import Retry

        settings = client.Configuration()
        load: Any = config.load_kube_config
        try:
            load(config_file=kubeconfig, client_configuration=settings)
        except config.ConfigException as error:
            raise HostUnreachable(
                f"the kubeconfig {kubeconfig} can't be used: {error}: name another"
            ) from None
        settings.retries = Retry(2, backoff_factor=0.1)
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self.emulated = emulated
        self._client = client
        self._api = client.CoreV1Api(client.ApiClient(settings))
        self._zones: dict[str, str] = {}

    def close(self) -> None:
        """Let go of the connections."""
        self._api.api_client.close()
        self._api.api_client.rest_client.pool_manager.clear()

    def pods(self, selector: str, nodes: Iterable[str] | None = None) -> list[Pod]:
        """The pods that match a label selector, on the given nodes only if any are given."""
        wanted = None if nodes is None else set(nodes)
        answer = self._call(self._api.list_namespaced_pod, self.namespace, label_selector=selector)
        found = [_pod(item) for item in answer.items]
        return [pod for pod in found if wanted is None or pod.node in wanted]

    def kill(self, pods: Sequence[Pod], grace_s: int = 0) -> None:
        """Delete pods; each only if it is still the same one (UID precondition)."""
        for pod in pods:
            options = self._client.V1DeleteOptions(
                grace_period_seconds=grace_s,
                preconditions=self._client.V1Preconditions(uid=pod.uid),
            )
            self._call(
                self._api.delete_namespaced_pod,
                pod.name,
                pod.namespace,
                body=options,
                gone_is_fine=True,
            )

    def wait_gone(self, pods: Sequence[Pod], timeout_s: float = 10.0) -> list[Pod]:
        """Wait until no pod has one of these UIDs any more; return those that still are there."""
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self._call(self._api.list_namespaced_pod, self.namespace)
            there = {item.metadata.uid for item in answer.items}
            left = [pod for pod in pods if pod.uid in there]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.05)

    def cordon(self, node: str) -> bool:
        """Make a node unschedulable; False if somebody else already had."""
        if self.is_cordoned(node):
            return False
        self._call(self._api.patch_node, node, {"spec": {"unschedulable": True}})
        return True

    def uncordon(self, node: str) -> None:
        """Make a node schedulable again."""
        self._call(self._api.patch_node, node, {"spec": {"unschedulable": None}})

    def is_cordoned(self, node: str) -> bool:
        """Whether a node is unschedulable."""
        return bool(self._call(self._api.read_node, node).spec.unschedulable)

    def ready_by_zone(self, selector: str) -> dict[str, int]:
        """Ready, not terminating replicas in each zone; a zone without any is there with 0."""
        pods = self.pods(selector)
        zones = self._zone_of_nodes()
        count = Counter(dict.fromkeys(zones.values(), 0))
        count.update(
            zones[pod.node]
            for pod in pods
            if pod.ready and not pod.terminating and pod.node in zones
        )
        return dict(count)

    def _zone_of_nodes(self) -> dict[str, str]:
        if not self._zones:
            nodes = self._call(self._api.list_node).items
            self._zones = {
                node.metadata.name: (node.metadata.labels or {}).get(ZONE_LABEL, "")
                for node in nodes
            }
        return self._zones

    def _call(
        self, function: Any, *arguments: Any, gone_is_fine: bool = False, **named: Any
    ) -> Any:
        from urllib3.exceptions import HTTPError

        try:
            return function(*arguments, _request_timeout=TIMEOUT_S, **named)
        except self._client.ApiException as error:
            if gone_is_fine and error.status in (404, 409):
                return None
            raise HostUnreachable(
                f"the Kubernetes API refused {function.__name__}: {error.status} {error.reason}"
            ) from error
        except (HTTPError, OSError) as error:
            raise HostUnreachable(
                f"the Kubernetes API does not answer {function.__name__} "
                f"({type(error).__name__}): check the kubeconfig {self.kubeconfig}"
            ) from error


def _pod(item: Any) -> Pod:
    conditions = item.status.conditions or []
    return Pod(
        name=item.metadata.name,
        namespace=item.metadata.namespace,
        uid=item.metadata.uid,
        node=item.spec.node_name or "",
        ready=any(c.type == "Ready" and c.status == "True" for c in conditions),
        terminating=item.metadata.deletion_timestamp is not None,
    )
