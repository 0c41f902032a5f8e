"""Many pods at once: listed in pages, deleted or evicted in parallel at a bounded rate."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aftershock.cluster.api import Cluster, Pod
from aftershock.cluster.refusals import Refused
from aftershock.errors import AftershockError

PAGE = 500
AT_ONCE = 16
PER_S = 200.0  # requests a second, so that a cluster's API has time for others, too
OURS = ("app.kubernetes.io/managed-by", "aftershock")
_MIRROR = "kubernetes.io/config.mirror"
_FEW = 8
_ENOUGH = 12  # digits of a digest that tell it from others
_TOO_MANY = 429

Plain = Mapping[str, Any]
Errors = dict[str, AftershockError]


def listed(cluster: Cluster, namespace: str = "", selector: str = "") -> list[Pod]:
    """The pods of a namespace, the cluster's own by default, that match a label selector."""
    return [pod_of(plain) for plain in _items(cluster, namespace or cluster.namespace, selector)]


def images(cluster: Cluster, selector: str) -> dict[str, str]:
    """Of each container of the pods that match: its images, by name and by what they are.

    A name such as `:latest` may stand for another image tomorrow, its ID doesn't; while one is
    rolled out there are several.
    """
    found: dict[str, set[str]] = {}
    for pod in _items(cluster, cluster.namespace, selector):
        for one in (pod.get("status") or {}).get("containerStatuses") or ():
            digest = one.get("imageID", "").rpartition(":")[2][:_ENOUGH]
            said = f"{one['image']} ({digest})" if digest else one["image"]
            found.setdefault(one["name"], set()).add(said)
    return {name: ", ".join(sorted(those)) for name, those in sorted(found.items())}


def on_nodes(cluster: Cluster, nodes: Iterable[str]) -> list[Pod]:
    """The pods of all namespaces on some nodes."""
    from kubernetes import client

    call = client.CoreV1Api(cluster.api_client).list_pod_for_all_namespaces
    fields = [f"spec.nodeName={node}" for node in nodes]
    return [
        pod_of(plain) for there in fields for plain in _pages(cluster, call, field_selector=there)
    ]


def _items(cluster: Cluster, namespace: str, selector: str) -> Iterator[Plain]:
    from kubernetes import client

    call = client.CoreV1Api(cluster.api_client).list_namespaced_pod
    return _pages(cluster, call, namespace, label_selector=selector)


def _pages(cluster: Cluster, call: Any, *arguments: Any, **chosen: Any) -> Iterator[Plain]:
    # As JSON: the client would make an object of a hundred fields of every pod.
    rest = None
    while True:
        more: dict[str, Any] = {"_continue": rest} if rest else {}
        answer = cluster.call(checked(call), *arguments, limit=PAGE, **chosen, **more)
        page = json.loads(answer.data)
        yield from page["items"]
        rest = page["metadata"].get("continue")
        if not rest:
            return


def checked(call: Any) -> Any:
    """The call, with its answer's body as it came; an error is raised as the client would."""
    from kubernetes.client import ApiException

    def ask(*arguments: Any, **named: Any) -> Any:
        answer = call(*arguments, _preload_content=False, **named)
        content = answer.data  # read whole, so that its connection is free again
        if answer.status >= 400:
            error = ApiException(status=answer.status, reason=answer.reason)
            error.body = content
            raise error
        return answer

    ask.__name__ = call.__name__
    return ask


def pod_of(plain: Plain) -> Pod:
    """A pod from the API's JSON."""
    meta, status = plain["metadata"], plain.get("status") or {}
    labels = meta.get("labels") or {}
    conditions = status.get("conditions") or ()
    return Pod(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        node=plain["spec"].get("nodeName") or "",
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
        terminating="deletionTimestamp" in meta,
        over=status.get("phase") in ("Succeeded", "Failed"),
        owner=_owner(meta, labels),
        labels=tuple(f"{name}={value}" for name, value in labels.items()),
        spared=_spared(meta, labels),
    )


def _owner(meta: Plain, labels: Plain) -> str:
    owners = meta.get("ownerReferences") or ()
    told = next((one for one in owners if one.get("controller")), None)
    if told is None:
        return f"Pod/{meta['name']}"
    # A deployment names its replica sets after itself and their hash: asking for them would take
    # one more permission.
    ending = f"-{labels.get('pod-template-hash', '')}"
    if told["kind"] == "ReplicaSet" and len(ending) > 1 and told["name"].endswith(ending):
        return f"Deployment/{told['name'].removesuffix(ending)}"
    return f"{told['kind']}/{told['name']}"


def _spared(meta: Plain, labels: Plain) -> str:
    if labels.get(OURS[0]) == OURS[1]:
        return "ours"
    if _MIRROR in (meta.get("annotations") or {}):
        return "static: its node would bring it back unharmed"
    return ""


def kill(cluster: Cluster, pods: Sequence[Pod], grace_s: int | None = 0) -> Errors:
    """Delete pods, each only if it is still the same one; what failed, by UID.

    `grace_s`: seconds between the warning and the end; None: what the pod itself has.
    """
    api, words = _api(cluster)

    def delete(pod: Pod) -> None:
        options = words.V1DeleteOptions(preconditions=words.V1Preconditions(uid=pod.uid))
        options.grace_period_seconds = grace_s
        cluster.call(
            api.delete_namespaced_pod, pod.name, pod.namespace, body=options, gone_is_fine=True
        )

    return at_once(delete, pods)


def evict(cluster: Cluster, pods: Sequence[Pod], grace_s: int | None = None) -> Errors:
    """Ask for pods to be evicted; what was refused, by UID: `is_budget` tells a budget's no."""
    api, words = _api(cluster)

    def ask(pod: Pod) -> None:
        options = words.V1DeleteOptions(preconditions=words.V1Preconditions(uid=pod.uid))
        options.grace_period_seconds = grace_s
        body = words.V1Eviction(
            metadata=words.V1ObjectMeta(name=pod.name, namespace=pod.namespace),
            delete_options=options,
        )
        place = (pod.name, pod.namespace)
        cluster.call(checked(api.create_namespaced_pod_eviction), *place, body, gone_is_fine=True)

    return at_once(ask, pods)


def is_budget(error: AftershockError) -> bool:
    """Whether it is a refusal for now: a PodDisruptionBudget's, or that of a busy API."""
    return isinstance(error, Refused) and error.status == _TOO_MANY


def at_once(call: Callable[[Pod], Any], pods: Sequence[Pod], per_s: float = PER_S) -> Errors:
    """Call it for each pod, several at a time, at most so many a second; errors by UID."""
    errors: Errors = {}
    began = time.monotonic()

    def one(place: int, pod: Pod) -> None:
        time.sleep(max(0.0, began + place / per_s - time.monotonic()))
        try:
            call(pod)
        except AftershockError as error:
            errors[pod.uid] = error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, range(len(pods)), pods))
    return errors


def still_there(cluster: Cluster, pods: Sequence[Pod]) -> list[Pod]:
    """Those of the pods whose UID can still be found, looked up anew."""
    if len(pods) <= _FEW:
        return [pod for pod in pods if _uid_now(cluster, pod) == pod.uid]
    uids: set[str] = set()
    for namespace in {pod.namespace for pod in pods}:
        # Without the selector: a pod that loses its label is not gone.
        uids |= {plain["metadata"]["uid"] for plain in _items(cluster, namespace, "")}
    return [pod for pod in pods if pod.uid in uids]


def _uid_now(cluster: Cluster, pod: Pod) -> str:
    api, _ = _api(cluster)
    answer = cluster.call(
        checked(api.read_namespaced_pod), pod.name, pod.namespace, gone_is_fine=True
    )
    return "" if answer is None else str(json.loads(answer.data)["metadata"]["uid"])


def wait_gone(
    cluster: Cluster,
    pods: Sequence[Pod],
    timeout_s: float,
    stop: Callable[[float], bool] | None = None,
) -> list[Pod]:
    """Wait until no pod has one of these UIDs any more; those that still are there.

    `stop` waits so many seconds in the place of sleep, and ends the waiting when it says True.
    """
    deadline, pause = time.monotonic() + timeout_s, 0.05
    left = list(pods)
    while left:
        left = still_there(cluster, left)
        if not left or time.monotonic() > deadline:
            break
        if stop is None:
            time.sleep(pause)
        elif stop(pause):
            break
        pause = min(2 * pause, 0.5)
    return left


def _api(cluster: Cluster) -> tuple[Any, Any]:
    from kubernetes import client

    return client.CoreV1Api(cluster.api_client), client


def namespaces(cluster: Cluster) -> list[str]:
    """The names of all namespaces; empty when we may not list them."""
    api, _ = _api(cluster)
    with contextlib.suppress(Refused):
        answer = cluster.call(checked(api.list_namespace))
        return [item["metadata"]["name"] for item in json.loads(answer.data)["items"]]
    return []


def by_owner(pods: Iterable[Pod]) -> dict[str, list[Pod]]:
    """Pods by whoever replaces them."""
    found: dict[str, list[Pod]] = {}
    for pod in pods:
        found.setdefault(pod.owner, []).append(pod)
    return found
