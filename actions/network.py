"""Break the network between hosts: cut it, or spoil what goes through it.

`where` names zones and nodes of the target, with commas; `all` means every node. `peers` names whom
their traffic is with: zones, nodes, prefixes (IPv4 or IPv6) and host names, which are resolved once
and recorded; everybody by default. `direction` is seen from the hosts: `egress` is what they send,
`ingress` what they get, or `both`. `traffic` narrows it further and lifts protections:
`protocols` ("tcp,udp"), `peer_ports` and `local_ports` ("443,8000-8010"), `spare` (who is left
alone, in the words of `peers`), `hook` ("auto", "tcx", "clsact"), and the truths `cut_controller`,
`cut_gateway`, `cut_metadata` and `allow_rdma`. Shares are from 0 to 1. `lease_s`: seconds after
which each host heals by itself, whatever became of us.

Each action fires on all its hosts at one instant and returns its injections with their evidence.
It raises `InvalidFault` and `InvalidInput` for what makes no sense, `Unsupported` where a host
can't, both before anything is touched, and `NotApplied` when not every host could be armed.
"""

from typing import Any

from aftershock import run as runs

__all__ = [
    "corrupt_packets",
    "degrade_network",
    "delay_packets",
    "drop_dns_queries",
    "duplicate_packets",
    "heal_network",
    "heal_partition",
    "limit_bandwidth",
    "lose_packets",
    "partition_network",
    "partition_shape",
    "partition_zone",
    "reorder_packets",
    "reset_connections",
]

_NOTHING: dict[str, Any] = {}


def partition_zone(zone: str, lease_s: float = 120.0, peers: str = "") -> dict[str, Any]:
    """Drop everything between a zone's nodes and the rest, both ways, at one instant.

    `lease_s`: seconds after which each host heals by itself. `peers`: comma-separated prefixes
    (IPv4 or IPv6), zones, nodes or host names to cut the zone from; everything outside the zone by
    default. Returns the injection: packets dropped on each host, what a witness outside the zone
    still reaches, and how far apart the hosts were cut, in ms.
    """
    return runs.current().breaking.partition_zone(zone, lease_s, peers)


def heal_partition(zone: str) -> dict[str, Any]:
    """Order the heal of this run's partitions of a zone. Idempotent."""
    return runs.current().breaking.heal_zone(zone, kinds=("partition",))


def heal_network(where: str = "all") -> dict[str, Any]:
    """Order the heal of every network fault of this run on some hosts. Idempotent.

    A fault that is on other hosts too is left alone. Returns which injections were reverted.
    """
    return runs.current().breaking.heal(where)


def partition_network(
    where: str,
    peers: str = "",
    direction: str = "both",
    lease_s: float = 120.0,
    traffic: dict[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Drop packets between hosts and peers: all of them, one way only, or some ports only.

    See the module for `where`, `peers`, `direction`, `traffic` and `lease_s`. The hosts themselves
    go on hearing each other, unless `peers` names one of them.
    """
    return _break(where, {"partition": {}}, peers, direction, lease_s, traffic)


def partition_shape(
    where: str = "all",
    shape: str = "halves",
    groups: str = "zones",
    first: str = "",
    seed: int = 7,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Part zones or nodes from each other in one of Jepsen's shapes.

    `shape`: `halves`, `isolate` (one against the rest), `bridge` (halves that both reach one
    between them), `ring` (each hears a majority, no two the same one) or `one-way` (the smaller
    half doesn't hear the other). `groups`: whether `zones` or `nodes` are parted. `first`: who is
    isolated, or is the bridge; chosen by `seed` otherwise, as the rest is.
    """
    breaking = runs.current().breaking
    return breaking.shape(where, shape, groups, first, seed, lease_s)


def delay_packets(
    where: str,
    delay_ms: float,
    jitter_ms: float = 0.0,
    correlation: float = 0.0,
    distribution: str = "uniform",
    peers: str = "",
    direction: str = "both",
    lease_s: float = 120.0,
    traffic: dict[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Hold packets back for `delay_ms`, give or take `jitter_ms`, in each direction.

    `correlation` (a share): how much a packet's jitter follows the last one's. `distribution` of
    the jitter: uniform, normal, pareto or paretonormal. Needs netem in the hosts' kernel.
    """
    words = {
        "delay_ms": delay_ms,
        "jitter_ms": jitter_ms,
        "correlation": correlation,
        "distribution": distribution,
    }
    return _break(where, {"delay": words}, peers, direction, lease_s, traffic)


def lose_packets(
    where: str,
    share: float = 0.0,
    correlation: float = 0.0,
    p: float = 0.0,
    r: float = 0.0,
    loss_in_bad: float = 1.0,
    loss_in_good: float = 0.0,
    peers: str = "",
    direction: str = "both",
    lease_s: float = 120.0,
    traffic: dict[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Lose a share of the packets, by themselves, in correlated runs, or by Gilbert and Elliott.

    Either `share` (and `correlation`, a loss's lag-1 autocorrelation), or the model's chances a
    packet of turning bad (`p`) and good (`r`) and the shares lost in each state.
    """
    words = {
        "share": share,
        "correlation": correlation,
        "p": p,
        "r": r,
        "loss_in_bad": loss_in_bad,
        "loss_in_good": loss_in_good,
    }
    return _break(where, {"loss": words}, peers, direction, lease_s, traffic)


def duplicate_packets(
    where: str,
    share: float,
    correlation: float = 0.0,
    peers: str = "",
    direction: str = "both",
    lease_s: float = 120.0,
    traffic: dict[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Deliver a share of the packets twice. Needs netem in the hosts' kernel."""
    words = {"share": share, "correlation": correlation}
    return _break(where, {"duplicate": words}, peers, direction, lease_s, traffic)


def corrupt_packets(
    where: str,
    share: float,
    correlation: float = 0.0,
    peers: str = "",
    direction: str = "both",
    lease_s: float = 120.0,
    traffic: dict[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Flip a bit in a share of the packets. Needs netem in the hosts' kernel.

    What a checksum catches is lost; what none covers gets through damaged.
    """
    words = {"share": share, "correlation": correlation}
    return _break(where, {"corrupt": words}, peers, direction, lease_s, traffic)


def reorder_packets(
    where: str,
    share: float,
    delay_ms: float = 10.0,
    correlation: float = 0.0,
    gap: int = 0,
    peers: str = "",
    direction: str = "both",
    lease_s: float = 120.0,
    traffic: dict[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Send a share of the packets past the others, which are held back for `delay_ms`.

    `gap`: only every so-many-th packet may overtake. Needs netem in the hosts' kernel.
    """
    words = {"share": share, "delay_ms": delay_ms, "correlation": correlation, "gap": gap}
    return _break(where, {"reorder": words}, peers, direction, lease_s, traffic)


def limit_bandwidth(
    where: str,
    rate_kbit: float,
    burst_kb: float = 0.0,
    queue_ms: float = 50.0,
    peers: str = "",
    direction: str = "both",
    lease_s: float = 120.0,
    traffic: dict[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Let no more than `rate_kbit` through, in each direction of each device.

    `burst_kb` (thousands of bytes): what may pass at full speed after a pause; 10 ms of the rate by
    default. `queue_ms`: how long a packet may wait before it is dropped.
    """
    words = {"rate_kbit": rate_kbit, "burst_kb": burst_kb, "queue_ms": queue_ms}
    return _break(where, {"bandwidth": words}, peers, direction, lease_s, traffic)


def drop_dns_queries(
    where: str, peers: str = "", over_tls: bool = True, lease_s: float = 120.0
) -> dict[str, Any]:
    """Drop the hosts' DNS queries, to all resolvers or to `peers`; `over_tls`: port 853 as well.

    A resolver on the host itself goes on answering from its cache.
    """
    return _break(where, {"dns": {"over_tls": over_tls}}, peers, "egress", lease_s, _NOTHING)


def reset_connections(
    where: str,
    peers: str = "",
    every_s: float = 0.0,
    lease_s: float = 120.0,
    traffic: dict[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Reset the hosts' established TCP connections, once or every `every_s` seconds.

    What was reset stays reset. The kernel needs CONFIG_INET_DIAG_DESTROY.
    """
    return _break(where, {"reset": {"every_s": every_s}}, peers, "both", lease_s, traffic)


def degrade_network(
    where: str,
    delay_ms: float = 0.0,
    jitter_ms: float = 0.0,
    loss_share: float = 0.0,
    duplicate_share: float = 0.0,
    corrupt_share: float = 0.0,
    reorder_share: float = 0.0,
    rate_kbit: float = 0.0,
    peers: str = "",
    direction: str = "both",
    lease_s: float = 120.0,
    traffic: dict[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Spoil the same packets in several ways at once; what is 0 is left out.

    A fault for each way, as the actions for one of them make it; each has its own evidence.
    """
    asked = {
        "delay": {"delay_ms": delay_ms, "jitter_ms": jitter_ms},
        "loss": {"share": loss_share},
        "duplicate": {"share": duplicate_share},
        "corrupt": {"share": corrupt_share},
        "reorder": {"share": reorder_share},
        "bandwidth": {"rate_kbit": rate_kbit},
    }
    # A word that is no number is asked for too: it is refused with a sentence about it.
    kinds = {
        kind: words
        for kind, words in asked.items()
        if any(str(value) not in ("0", "0.0", "") for value in words.values())
    }
    return _break(where, kinds, peers, direction, lease_s, traffic)


def _break(
    where: str,
    kinds: dict[str, dict[str, Any]],
    peers: str,
    direction: str,
    lease_s: float,
    traffic: dict[str, Any],
) -> dict[str, Any]:
    breaking = runs.current().breaking
    return breaking.network(where, kinds, peers, direction, traffic, lease_s)
