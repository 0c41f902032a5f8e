"""The service's engines as each replica tells: its health, one token, and vLLM's own metrics.

Replicas are asked from their own hosts, past the gateway: pods of the target's selector on a
cluster, or one server a host, on `port` (0: what the pod declares, or 8000).
"""

from typing import Any

from aftershock import run as runs
from aftershock.run import replies

__all__ = ["hung_replicas", "replies_of_replicas"]


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
