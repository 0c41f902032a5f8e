"""The service's engines as each replica tells: its health, one token, and vLLM's own metrics.

Replicas are asked from their own hosts, past the gateway: pods of the target's selector on a
cluster, or one server a host, on `port` (0: what the pod declares, or 8000).
"""

from typing import Any

from aftershock import run as runs
from aftershock import vllm
from aftershock.run import engines, replies

__all__ = [
    "engine_latency_ms",
    "engine_share_within",
    "hung_replicas",
    "kv_cache_used_percent",
    "preemptions",
    "replies_of_replicas",
    "running_requests",
    "waiting_requests",
]


def replies_of_replicas(
    where: str = "all", timeout_s: float = 2.0, port: int = 0
) -> list[dict[str, Any]]:
    """Ask each replica for `/health` and for one token, at once.

    {replica, node, healthy, token, took_s, why, hung}: `hung` is one that answers `/health` and
    gives no token within `timeout_s`, as an engine whose GPU hangs does. Which a busy one may do,
    too: give it longer than its usual wait.
    """
    return replies.answers(runs.current(), where, port, timeout_s)


def hung_replicas(where: str = "all", timeout_s: float = 2.0, port: int = 0) -> int:
    """How many replicas answer `/health` and give no token; see `replies_of_replicas`."""
    return sum(one["hung"] for one in replies.answers(runs.current(), where, port, timeout_s))


def engine_latency_ms(
    what: str = "ttft",
    percent: float = 99.0,
    over_s: float = 10.0,
    where: str = "all",
    port: int = 0,
) -> float:
    """A percentile of `ttft`, `itl` or `e2e` as the engines measured it over a window, in ms.

    From vLLM's buckets, summed over the replicas, straight between a bucket's edges as Prometheus
    does. Raises `NoMeasurement` for a window without a request, and beyond the last edge. A request
    that hangs adds no sample: in an outage it is the clients' view that counts.
    """
    added = engines.added(runs.current(), what, over_s, where, port)
    return 1000 * vllm.percentile_s(added, percent)


def engine_share_within(
    threshold_s: float,
    what: str = "ttft",
    over_s: float = 10.0,
    where: str = "all",
    port: int = 0,
) -> float:
    """The share (0 to 1) of requests up to a threshold, as the engines measured over a window.

    `threshold_s` must be an edge of vLLM's buckets: `InvalidInput` lists them.
    """
    added = engines.added(runs.current(), what, over_s, where, port)
    return vllm.share_within(added, threshold_s)


def running_requests(where: str = "all", port: int = 0) -> float:
    """How many requests the engines work on now, over all replicas."""
    return engines.number(runs.current(), "running", where, port)


def waiting_requests(where: str = "all", port: int = 0) -> float:
    """How many requests wait in the engines' queues now, over all replicas."""
    return engines.number(runs.current(), "waiting", where, port)


def kv_cache_used_percent(where: str = "all", port: int = 0) -> float:
    """How full the fullest replica's KV cache is now, in percent."""
    return engines.fullest_percent(runs.current(), where, port)


def preemptions(over_s: float = 10.0, where: str = "all", port: int = 0) -> float:
    """How many sequences were preempted for want of KV cache, over a window and all replicas."""
    return engines.preemptions(runs.current(), over_s, where, port)
