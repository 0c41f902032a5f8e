"""Which resources the API serves, and how their paths are read."""

from __future__ import annotations

from dataclasses import dataclass

_ALL = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_STATUS = ("get", "patch", "update")


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object the API keeps."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    has_status: bool = False
    has_scale: bool = False
    has_generation: bool = False
    in_all: bool = False
    verbs: tuple[str, ...] = _ALL

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The plural as error messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def key(self) -> str:
        """Where its objects are stored."""
        return "events" if self.plural == "events" else f"{self.group}/{self.plural}"

    def subresources(self) -> dict[str, tuple[str, str, str, tuple[str, ...]]]:
        """Name → (group, version, kind, verbs)."""
        found: dict[str, tuple[str, str, str, tuple[str, ...]]] = {}
        if self.plural == "namespaces":
            found["finalize"] = ("", "", "Namespace", ("update",))
        if self.plural == "pods":
            found["eviction"] = ("policy", "v1", "Eviction", ("create",))
            found["exec"] = ("", "", "PodExecOptions", ("create", "get"))
            found["log"] = ("", "", "Pod", ("get",))
        if self.has_scale:
            found["scale"] = ("autoscaling", "v1", "Scale", _STATUS)
        if self.has_status:
            found["status"] = ("", "", self.kind, _STATUS)
        return found


def _apps(plural: str, kind: str, short: str, served: bool = False) -> Resource:
    return Resource(
        "apps",
        "v1",
        plural,
        kind,
        short=(short,),
        has_status=True,
        has_scale=served,
        has_generation=True,
        in_all=True,
    )


NAMESPACES = Resource(
    "",
    "v1",
    "namespaces",
    "Namespace",
    namespaced=False,
    short=("ns",),
    has_status=True,
    verbs=tuple(verb for verb in _ALL if verb != "deletecollection"),
)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False, short=("no",), has_status=True)
PODS = Resource(
    "", "v1", "pods", "Pod", short=("po",), has_status=True, has_generation=True, in_all=True
)
SERVICES = Resource("", "v1", "services", "Service", short=("svc",), has_status=True, in_all=True)
ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints", short=("ep",))
EVENTS = Resource("", "v1", "events", "Event", short=("ev",))
NEW_EVENTS = Resource("events.k8s.io", "v1", "events", "Event", short=("ev",))
DEPLOYMENTS = _apps("deployments", "Deployment", "deploy", served=True)
REPLICASETS = _apps("replicasets", "ReplicaSet", "rs", served=True)
DAEMONSETS = _apps("daemonsets", "DaemonSet", "ds")
STATEFULSETS = _apps("statefulsets", "StatefulSet", "sts", served=True)
SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", has_generation=True)
BUDGETS = Resource(
    "policy",
    "v1",
    "poddisruptionbudgets",
    "PodDisruptionBudget",
    short=("pdb",),
    has_status=True,
    has_generation=True,
)
JOBS = Resource("batch", "v1", "jobs", "Job", has_status=True, has_generation=True, in_all=True)
CRON_JOBS = Resource(
    "batch",
    "v1",
    "cronjobs",
    "CronJob",
    short=("cj",),
    has_status=True,
    has_generation=True,
    in_all=True,
)
AUTOSCALERS = Resource(
    "autoscaling",
    "v2",
    "horizontalpodautoscalers",
    "HorizontalPodAutoscaler",
    short=("hpa",),
    has_status=True,
    in_all=True,
)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")

SERVED: tuple[Resource, ...] = (
    Resource("", "v1", "configmaps", "ConfigMap", short=("cm",)),
    ENDPOINTS,
    EVENTS,
    NAMESPACES,
    NODES,
    PODS,
    Resource("", "v1", "secrets", "Secret"),
    Resource("", "v1", "serviceaccounts", "ServiceAccount", short=("sa",)),
    SERVICES,
    NEW_EVENTS,
    DAEMONSETS,
    DEPLOYMENTS,
    REPLICASETS,
    STATEFULSETS,
    AUTOSCALERS,
    BUDGETS,
    SLICES,
    LEASES,
    CRON_JOBS,
    JOBS,
)

_BY_PATH = {(r.group, r.version, r.plural): r for r in SERVED}
_BY_KIND = {(r.api_version, r.kind): r for r in SERVED}


def by_path(group: str, version: str, plural: str) -> Resource | None:
    """The resource of that path, if it is served."""
    return _BY_PATH.get((group, version, plural))


def by_kind(api_version: str, kind: str) -> Resource | None:
    """The resource of that kind, if it is served."""
    return _BY_KIND.get((api_version, kind))


def groups() -> dict[str, list[Resource]]:
    """Every named group with its resources, in the order in which they are served."""
    found: dict[str, list[Resource]] = {}
    for resource in SERVED:
        if resource.group:
            found.setdefault(resource.group, []).append(resource)
    return found
