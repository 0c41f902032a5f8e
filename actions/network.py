"""Break the network between hosts."""

from typing import Any

from aftershock import run as runs

__all__ = ["heal_partition", "partition_zone"]


def partition_zone(zone: str, lease_s: float = 120.0, peers: str = "") -> dict[str, Any]:
    """Drop everything between a zone's nodes and the rest, both ways, at one instant.

    `lease_s`: seconds after which each host heals by itself. `peers`: comma-separated prefixes
    (IPv4 or IPv6) to cut the zone from; everything outside the zone by default. Returns the
    injection: packets dropped on each host, what a witness outside the zone still reaches, and how
    far apart the hosts were cut, in ms.
    """
    return runs.current().partition_zone(zone, float(lease_s), peers)


def heal_partition(zone: str) -> dict[str, Any]:
    """Order the heal of this run's partitions of a zone. Idempotent."""
    return runs.current().heal_zone(zone, kinds=("partition",))
