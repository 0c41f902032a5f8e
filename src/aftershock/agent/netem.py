"""Options of netem and tbf in the kernel's own layout (linux/pkt_sched.h)."""

from __future__ import annotations

import struct
from statistics import NormalDist
from typing import Any, Dict, List, Mapping, Tuple

from .errors import Invalid
from .rtnl import attribute

_CORRELATIONS, _DISTRIBUTION, _REORDER, _CORRUPT, _LATENCY, _JITTER = 1, 2, 3, 4, 10, 11
_PARMS, _RATE64, _BURST = 1, 4, 6
_TABLE, _SCALE = 4096, 8192  # entries of a distribution; what one standard deviation is there
_SHARES = (
    "delay_correlation",
    "duplicate",
    "duplicate_correlation",
    "corrupt",
    "corrupt_correlation",
    "reorder",
    "reorder_correlation",
)
_NETEM: Dict[str, Any] = {
    "delay_ms": 0.0,
    "jitter_ms": 0.0,
    "distribution": "uniform",
    "gap": 0,
    "limit_packets": 100_000,
    **dict.fromkeys(_SHARES, 0.0),
}
_TBF = ("rate_bit", "burst_bytes", "limit_bytes")


def encode(qdisc: Mapping[str, Any]) -> Tuple[str, bytes]:
    """A qdisc's kind and TCA_OPTIONS; Invalid for an option that it doesn't have."""
    options = {name: value for name, value in qdisc.items() if name != "kind"}
    if qdisc["kind"] == "netem":
        return "netem", _netem(options)
    if qdisc["kind"] == "tbf":
        return "tbf", _tbf(options)
    raise Invalid(f"qdisc {qdisc['kind']!r}: netem or tbf")


def _netem(given: Mapping[str, Any]) -> bytes:
    if unknown := set(given) - set(_NETEM):
        raise Invalid(f"netem has no {', '.join(sorted(unknown))}: it has {', '.join(_NETEM)}")
    options = {**_NETEM, **given}
    for name in _SHARES:
        if not 0 <= options[name] <= 1:
            raise Invalid(f"netem {name} {options[name]}: a share from 0 to 1")
    gap = options["gap"] or (1 if options["reorder"] else 0)
    fixed = (0, options["limit_packets"], 0, gap, _share(options["duplicate"]), 0)
    parts = [struct.pack("=6I", *fixed)]
    parts.append(_pair(_CORRELATIONS, options, "delay_correlation", None, "duplicate_correlation"))
    if options["reorder"]:
        parts.append(_pair(_REORDER, options, "reorder", "reorder_correlation"))
    if options["corrupt"]:
        parts.append(_pair(_CORRUPT, options, "corrupt", "corrupt_correlation"))
    for kind, name in ((_LATENCY, "delay_ms"), (_JITTER, "jitter_ms")):
        parts.append(attribute(kind, struct.pack("=q", round(options[name] * 1e6))))
    if options["distribution"] != "uniform":
        table = distribution(options["distribution"])
        parts.append(attribute(_DISTRIBUTION, struct.pack(f"={len(table)}h", *table)))
    return b"".join(parts)


def _pair(kind: int, options: Mapping[str, Any], *names: Any) -> bytes:
    shares = [_share(options[name]) if name else 0 for name in names]
    return attribute(kind, struct.pack(f"={len(shares)}I", *shares))


def _share(value: float) -> int:
    return min(0xFFFFFFFF, round(value * (1 << 32)))


def distribution(name: str) -> List[int]:
    """A table of netem's: how far from the mean, in jitters, at evenly spaced chances.

    Pareto has the shape 3, and mean 0 and deviation 1 as netem expects; paretonormal is a quarter
    normal and three quarters Pareto, as iproute2 mixes them.
    """
    chances = [(index + 0.5) / _TABLE for index in range(_TABLE)]
    normal = [NormalDist().inv_cdf(chance) for chance in chances]
    raw = [(1 - chance) ** (-1 / 3) for chance in chances]
    middle = sum(raw) / _TABLE
    spread = (sum((value - middle) ** 2 for value in raw) / _TABLE) ** 0.5
    pareto = [(value - middle) / spread for value in raw]
    tables = {
        "normal": normal,
        "pareto": pareto,
        "paretonormal": [0.25 * one + 0.75 * other for one, other in zip(normal, pareto)],
    }
    if name not in tables:
        raise Invalid(f"distribution {name!r}: uniform, {', '.join(tables)}")
    return [max(-32768, min(32767, round(value * _SCALE))) for value in tables[name]]


def _tbf(given: Mapping[str, Any]) -> bytes:
    if set(given) != set(_TBF):
        raise Invalid(f"tbf has {', '.join(_TBF)}, and nothing else")
    rate = int(given["rate_bit"]) // 8
    if rate < 1 or given["burst_bytes"] < 1 or given["limit_bytes"] < 1:
        raise Invalid("tbf: rate, burst and limit are more than 0")
    ethernet = 1
    spec = struct.pack("=BBHhHI", 0, ethernet, 0, 0, 0, min(rate, 0xFFFFFFFF))
    none = struct.pack("=BBHhHI", 0, 0, 0, 0, 0, 0)
    parms = spec + none + struct.pack("=3I", int(given["limit_bytes"]), 0, 0)
    parts = [attribute(_PARMS, parms), attribute(_BURST, struct.pack("=I", given["burst_bytes"]))]
    if rate > 0xFFFFFFFF:
        parts.append(attribute(_RATE64, struct.pack("=Q", rate)))
    return b"".join(parts)
