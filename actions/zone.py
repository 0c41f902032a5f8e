"""Lose a whole availability zone, and give it back."""

from typing import Any

from aftershock import run as runs

__all__ = ["fail_zone", "heal_everything", "heal_zone"]


def fail_zone(
    zone: str, lease_s: float = 120.0, selector: str = "", peers: str = ""
) -> dict[str, Any]:
    """Cut a zone off at one instant, block its capacity, then kill its pods.

    The partition comes first: a deletion tells the endpoints at once and would soften the fault.
    What comes up there all the same until the heal (pods that tolerate cordon and taint, or on a
    node that is added to the zone) is killed again within a second or two; the injection has it.
    `lease_s`: seconds after which each host heals by itself, whatever became of us. `selector`:
    which pods die; the target's own by default. `peers`: comma-separated prefixes to cut the zone
    from; everything outside the zone by default. Returns the injections with their evidence.
    Raises `InvalidInput` for an unknown zone and `NotApplied` when not every host could be armed.
    """
    return runs.current().breaking.fail_zone(zone, lease_s, selector, peers)


def heal_zone(zone: str) -> dict[str, Any]:
    """Order the heal of everything this run injected in a zone. Idempotent.

    Returns which injections were reverted, and whether each host is as it was.
    """
    return runs.current().breaking.heal_zone(zone)


def heal_everything() -> dict[str, Any]:
    """Order the heal of everything this run injected anywhere. Idempotent; for rollbacks."""
    return runs.heal_everything()
