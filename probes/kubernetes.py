"""What Kubernetes says of the target.

Every probe raises `Unsupported` on a target without Kubernetes, `HostUnreachable` when its API does
not answer or refuses (with its reason), `InvalidInput` for a zone, service, budget or autoscaler
that isn't there (with those that are), and `NoMeasurement` for what can't be known right now. None
returns None or NaN. What says `watched` comes from the run's own watch over pods, not from a look.
"""

from typing import Any

from aftershock import run as runs

__all__ = [
    "autoscaler",
    "autoscaler_scaled",
    "disruption_budgets",
    "disruption_headroom",
    "endpoints_by_zone",
    "failing_pod_count",
    "failing_pods",
    "node_conditions",
    "nodes_ready",
    "oom_kills",
    "pending_pod_count",
    "pending_pods",
    "ready_endpoints",
    "ready_replicas",
    "ready_replicas_by_zone",
    "replacements",
    "restarts_per_minute",
    "room_without_zone",
    "slowest_replacement_s",
    "zone_can_be_lost",
]


def ready_replicas(zone: str = "") -> int:
    """How many replicas are ready and not terminating, in a zone or in all; watched."""
    return runs.current().workload.ready_replicas(zone)


def ready_replicas_by_zone() -> dict[str, int]:
    """Zone → ready replicas; watched."""
    return runs.current().workload.ready_by_zone()


def replacements() -> list[dict[str, Any]]:
    """Every replica lost since the first fault and what came for it; watched.

    Each is {pod, replaces, node, zone, deleted_s, scheduled_s, started_s, ready_s, waits_for,
    late}. Seconds count from the first firing; None: not yet. `waits_for` is the scheduler's
    reason. `late` names stages that fell into a gap of the watch: no later than told.
    """
    return runs.current().workload.replacements()


def slowest_replacement_s(stage: str = "ready") -> float:
    """Seconds from the first fault until the last lost replica's replacement reached a stage.

    `stage`: scheduled, started or ready (or deleted, for the loss itself). Raises `NoMeasurement`
    while one of them has not reached it, with the scheduler's reason, and when none was lost.
    """
    return runs.current().workload.slowest(stage)


def restarts_per_minute(zone: str = "", window_s: float = 60.0) -> float:
    """Container restarts a minute over the last window, of a zone's replicas or of all; watched.

    Over less than the window while the run is younger. Raises `NoMeasurement` when the watch lost a
    part of it.
    """
    return runs.current().workload.restarts_per_minute(zone, window_s)


def oom_kills(zone: str = "") -> int:
    """How often a container of the service ended as OOMKilled; watched.

    In a zone or in all, since the run began, and the last such end that a pod already had then. A
    process that the kernel kills inside a container which lives on is not among them.
    """
    return runs.current().workload.oom_kills(zone)


def pending_pods(selector: str = "") -> list[dict[str, Any]]:
    """Pods that wait, with the reason: {pod, node, why, message}.

    Without a node, `message` is the scheduler's ("0/6 nodes are available: …"); with one, its
    container's (`ImagePullBackOff`, …). `selector`: the target's own by default.
    """
    return runs.current().workload.pending(selector)


def pending_pod_count(selector: str = "") -> int:
    """How many pods wait for a node or a start."""
    return len(runs.current().workload.pending(selector))


def failing_pods(
    selector: str = "", saying: str = "", within_s: float = 0.0, required: bool = False
) -> list[dict[str, Any]]:
    """Containers that ended in failure and are not ready again, as soon as there are any.

    {pod, node, container, why, restarts, exit_code, message}. `saying`: only those whose last
    message has these words; it is kept where the container's terminationMessagePolicy is
    FallbackToLogsOnError. They are waited for `within_s` seconds at most; then the list is empty,
    or `NotFailing` is raised where it is `required`, which fails the run.
    """
    return runs.current().workload.failing(selector, saying, within_s, required)


def failing_pod_count(selector: str = "", saying: str = "", within_s: float = 0.0) -> int:
    """How many containers fail so; see `failing_pods`."""
    return len(runs.current().workload.failing(selector, saying, within_s, False))


def endpoints_by_zone(service: str = "") -> dict[str, dict[str, int]]:
    """Zone → {ready, serving, terminating, not_ready}, from a service's EndpointSlices.

    `serving` also counts pods that still answer while they terminate. Each pod counts once. By
    default the namespace's only service with endpoints.
    """
    return runs.current().workload.endpoints(service)


def ready_endpoints(service: str = "", zone: str = "") -> int:
    """How many pods a service sends requests to, in a zone or in all."""
    return runs.current().workload.ready_endpoints(service, zone)


def node_conditions(zone: str = "") -> dict[str, Any]:
    """Node → {zone, ready, conditions, unschedulable, taints}, of a zone or of all.

    `conditions`: type → true, false, or null where the node has gone silent (Unknown).
    """
    return runs.current().workload.node_conditions(zone)


def nodes_ready(zone: str = "") -> int:
    """How many nodes are ready and take new pods, in a zone or in all."""
    nodes = runs.current().workload.node_conditions(zone).values()
    return sum(node["ready"] and not node["unschedulable"] for node in nodes)


def disruption_budgets() -> dict[str, Any]:
    """PodDisruptionBudget → {allowed, healthy, desired, expected}, in the target's namespace."""
    return runs.current().workload.headroom("")


def disruption_headroom(budget: str = "") -> int:
    """How many pods may be evicted now: by one PodDisruptionBudget, or by the tightest of all."""
    found = runs.current().workload.headroom(budget)
    return min(int(one["allowed"]) for one in found.values())


def room_without_zone(zone: str, selector: str = "") -> dict[str, Any]:
    """Whether the other zones could take a zone's replicas: a look before anything is broken.

    Asks what the scheduler would (requests of CPU, memory and nvidia.com/gpu, the nodes' limit of
    pods, cordons, taints, readiness, node selectors, required node affinity) against what already
    runs there, in every namespace. Returns {fits, pods, placed: {pod: node}, left: {pod: why},
    free: {zone: {resource: amount}}, not_asked}; `not_asked` names what it leaves out.
    """
    return runs.current().workload.without_zone(zone, selector)


def zone_can_be_lost(zone: str, selector: str = "") -> bool:
    """Whether the other zones have room for all of a zone's replicas; see `room_without_zone`."""
    return bool(runs.current().workload.without_zone(zone, selector)["fits"])


def autoscaler(name: str = "") -> dict[str, Any]:
    """A HorizontalPodAutoscaler now; the namespace's only one by default.

    {name, target, least, most, current, desired, metrics: [{name, value, target}], conditions,
    last_scale}; a metric that it can't read has the value null.
    """
    return runs.current().workload.autoscaler(name)


def autoscaler_scaled(
    name: str = "", to_at_least: int = 0, within_s: float = 60.0, required: bool = False
) -> dict[str, Any]:
    """Wait until an autoscaler has scaled up and the replicas are ready; did it, how fast, to what.

    `to_at_least`: replicas; 0: one more than now. Returns {scaled, from, to, decided_s,
    decided_error_s, ready_s, metrics}: seconds from the first fault (or load step) of the run, or
    from this call where there was none, until it wanted so many and until so many were ready, both
    from watches. `scaled` is false when that did not come within `within_s`; that fails the run by
    a `NotScaled` where it is `required`. Also in the run's folder, as scaling.json.
    """
    return runs.current().workload.scaled(name, to_at_least, within_s, required)
