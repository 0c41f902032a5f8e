"""What Kubernetes says of the target."""

from aftershock import run as runs

__all__ = ["ready_replicas"]


def ready_replicas(zone: str = "") -> int:
    """How many replicas of the service are ready, in a zone or in all."""
    return runs.current().ready_replicas(zone)
