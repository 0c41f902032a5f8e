"""What we ask of a Kubernetes API: pods by node, their end, and cordons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aftershock.cluster.access import find
from aftershock.cluster.calls import under_way
from aftershock.cluster.refusals import refused, unreached

ZONE_LABEL = "topology.kubernetes.io/zone"
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as it was when looked at.

    `owner` is whoever replaces it, such as `Deployment/web`; `spared` says why it is none to kill.
    """

    name: str
    namespace: str
    uid: str
    node: str
    ready: bool
    terminating: bool
    over: bool = False
    owner: str = ""
    labels: tuple[str, ...] = ()
    spared: str = ""

    @property
    def runs(self) -> bool:
        """Whether it is neither over nor about to be."""
        return not self.over and not self.terminating


class Cluster:
    """One Kubernetes API, by a way in as `access.find` has it; None: the usual ones.

    `kubeconfig` is that way as text from then on, with its context: whoever keeps it comes to the
    same cluster. Without a namespace it is the context's. `emulated`: it is the lab's own, and what
    was done in it ends with the lab.
    """

    def __init__(
        self,
        kubeconfig: str | None,
        namespace: str = "",
        emulated: bool = False,
        context: str | None = None,
    ) -> None:
        # Imported here: it takes a quarter of a second that not every `chaos` call should pay.
        from kubernetes import client

        self.access = find(kubeconfig, context)
        self.kubeconfig = str(self.access)
        self.namespace = namespace or self.access.namespace
        self.emulated = emulated
        self.zone_label = ZONE_LABEL
        self.node_selector = ""  # which of its nodes are the target's
        self._client = client
        self._api = client.CoreV1Api(client.ApiClient(self.access.settings))
        self._zones: dict[str, str] = {}

    @property
    def api_client(self) -> Any:
        """The `kubernetes` client's way in, for those who ask what is not here."""
        return self._api.api_client

    def close(self) -> None:
        """Let go of the connections."""
        self._api.api_client.close()
        self._api.api_client.rest_client.pool_manager.clear()
        self.access.close()

    def pods(self, selector: str, nodes: Iterable[str] | None = None) -> list[Pod]:
        """The pods that match a label selector, on the given nodes only if any are given."""
        wanted = None if nodes is None else set(nodes)
        answer = self.call(self._api.list_namespaced_pod, self.namespace, label_selector=selector)
        found = [_pod(item) for item in answer.items]
        return [pod for pod in found if wanted is None or pod.node in wanted]

    def pods_on(self, node: str) -> list[tuple[Pod, list[dict[str, Any]]]]:
        """The pods of all namespaces on a node, each with its tolerations as plain data."""
        there = f"spec.nodeName={node}"
        answer = self.call(self._api.list_pod_for_all_namespaces, field_selector=there)
        plain: Any = self._api.api_client.sanitize_for_serialization
        return [(_pod(item), plain(item.spec.tolerations) or []) for item in answer.items]

    def renewed(self, node: str) -> str:
        """When a node's kubelet last renewed its lease, as the API has it; nothing where it never
        did."""
        api = self._client.CoordinationV1Api(self._api.api_client)
        lease = self.call(api.read_namespaced_lease, node, "kube-node-lease")
        return str(lease.spec.renew_time or "")

    def described(self, selector: str) -> list[dict[str, Any]]:
        """The pods that match a label selector as the API has them, as plain data."""
        answer = self.call(self._api.list_namespaced_pod, self.namespace, label_selector=selector)
        plain: Any = self._api.api_client.sanitize_for_serialization
        return [plain(item) for item in answer.items]

    def cordon(self, node: str) -> bool:
        """Make a node unschedulable; False if somebody else already had."""
        if self.is_cordoned(node):
            return False
        self.call(self._api.patch_node, node, {"spec": {"unschedulable": True}})
        return True

    def uncordon(self, node: str) -> None:
        """Make a node schedulable again."""
        self.call(self._api.patch_node, node, {"spec": {"unschedulable": None}})

    def node(self, name: str) -> dict[str, Any]:
        """A node as the API has it, as plain data."""
        found = self.call(self._api.read_node, name)
        plain: dict[str, Any] = self._api.api_client.sanitize_for_serialization(found)
        return {**plain, "spec": plain.get("spec") or {}}

    def patch_node(self, name: str, body: dict[str, Any]) -> bool:
        """Patch a node; False when it has changed since the version that the patch names."""
        answer = self.call(self._api.patch_node, name, body, conflict_is_fine=True)
        return answer is not None

    def is_cordoned(self, node: str) -> bool:
        """Whether a node is unschedulable."""
        return bool(self.call(self._api.read_node, node).spec.unschedulable)

    def zone_of_nodes(self, anew: bool = False) -> dict[str, str]:
        """Node → its zone, empty where it has none."""
        if anew or not self._zones:
            nodes = self.call(self._api.list_node).items
            self._zones = {
                node.metadata.name: (node.metadata.labels or {}).get(self.zone_label, "")
                for node in nodes
            }
        return self._zones

    def call(
        self,
        function: Any,
        *arguments: Any,
        gone_is_fine: bool = False,
        conflict_is_fine: bool = False,
        **named: Any,
    ) -> Any:
        """Call a method of the `kubernetes` client; `HostUnreachable` says what went wrong.

        `gone_is_fine`, `conflict_is_fine`: None is the answer then. An answer with an error is
        `Refused`, no answer or no entry `NoAccess`.
        """
        from urllib3.exceptions import HTTPError

        try:
            with under_way:
                return function(*arguments, **{"_request_timeout": TIMEOUT_S, **named})
        except self._client.ApiException as error:
            if gone_is_fine and error.status in (404, 409):
                return None
            if conflict_is_fine and error.status == 409:
                return None
            raise refused(function.__name__, error, self.access) from error
        except (HTTPError, OSError) as error:
            raise unreached(function.__name__, error, self.access) from error


def _pod(item: Any) -> Pod:
    conditions = item.status.conditions or []
    return Pod(
        name=item.metadata.name,
        namespace=item.metadata.namespace,
        uid=item.metadata.uid,
        node=item.spec.node_name or "",
        ready=any(c.type == "Ready" and c.status == "True" for c in conditions),
        terminating=item.metadata.deletion_timestamp is not None,
        over=item.status.phase in ("Succeeded", "Failed"),
    )
