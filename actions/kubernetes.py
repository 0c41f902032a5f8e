"""Break what Kubernetes runs: kill pods, keep replacements off a zone's nodes."""

from typing import Any

from aftershock import run as runs

__all__ = ["cordon_zone", "kill_pods", "uncordon_zone"]


def kill_pods(zone: str, selector: str = "", grace_s: int = 0) -> dict[str, Any]:
    """Kill the pods of a zone through the Kubernetes API.

    `selector`: a label selector; the target's own by default. `grace_s`: seconds between the
    warning and the end, 0 for at once. Returns the injection: which pods, and whose UIDs are gone.
    Raises `HostUnreachable` when the API does not answer. A selector that matches nothing raises
    nothing; the run is then INCONCLUSIVE, since nothing was broken.
    """
    return runs.current().kill_pods(zone, selector, int(grace_s))


def cordon_zone(zone: str) -> dict[str, Any]:
    """Make a zone's nodes unschedulable, so that no replacement comes up there.

    Returns the injection. Nodes that somebody else had cordoned are left to them.
    """
    return runs.current().cordon_zone(zone)


def uncordon_zone(zone: str) -> dict[str, Any]:
    """Uncordon what this run cordoned in a zone. Idempotent."""
    return runs.current().heal_zone(zone, kinds=("cordon",))
