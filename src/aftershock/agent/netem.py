"""Options of netem and tbf in the kernel's own layout (linux/pkt_sched.h).

netem's correlations are not what they say, in any kernel yet. Its generator makes each value from
the last one's share and a fresh one's rest. Such values bunch around the middle: of 25 % duplicates
with a correlation of 90 % less than one in a thousand is left. So the bound that values are
compared with is moved to where the asked share lies below it. And jitter is looked up by a value's
low bits, which have no correlation at all: see `_ring`.
"""

from __future__ import annotations

import random
import struct
from operator import mul
from statistics import NormalDist
from typing import Any, Dict, List, Mapping, Tuple

from .errors import Invalid
from .rtnl import attribute

_CORRELATIONS, _DISTRIBUTION, _REORDER, _CORRUPT, _LATENCY, _JITTER = 1, 2, 3, 4, 10, 11
_PARMS, _RATE64, _BURST = 1, 4, 6
_TABLE, _SCALE = 4096, 8192  # entries of a distribution; what one standard deviation is there
_COARSE = 512  # entries are enough to work out how much a table follows itself
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
    for name in _SHARES:
        if name.endswith("_correlation") and options[name] == 1:
            raise Invalid(f"netem {name} 1: the first packet's fate would be everyone's")
    gap = options["gap"] or (1 if options["reorder"] else 0)
    follow, table = _jitter(options)
    duplicate, duplicates_follow = _bound(options, "duplicate")
    fixed = (0, options["limit_packets"], 0, gap, duplicate, 0)
    parts = [struct.pack("=6I", *fixed)]
    parts.append(attribute(_CORRELATIONS, struct.pack("=3I", follow, 0, duplicates_follow)))
    for kind, name in ((_REORDER, "reorder"), (_CORRUPT, "corrupt")):
        if options[name]:
            parts.append(attribute(kind, struct.pack("=2I", *_bound(options, name))))
    for kind, name in ((_LATENCY, "delay_ms"), (_JITTER, "jitter_ms")):
        parts.append(attribute(kind, struct.pack("=q", round(options[name] * 1e6))))
    if table:
        parts.append(attribute(_DISTRIBUTION, struct.pack(f"={len(table)}h", *table)))
    return b"".join(parts)


def _share(value: float) -> int:
    return min(0xFFFFFFFF, round(value * (1 << 32)))


def _bound(options: Mapping[str, Any], name: str) -> Tuple[int, int]:
    """Below which value a packet is chosen, so that this share is; and the correlation."""
    share, correlation = options[name], options[name + "_correlation"]
    if correlation and 0 < share < 1:
        chance, value, values = random.Random(1), 0.5, []
        for _ in range(100_000):
            value = value * correlation + chance.random() * (1 - correlation)
            values.append(value)
        share = sorted(values)[int(share * len(values))]
    return _share(share), _share(correlation)


def _jitter(options: Mapping[str, Any]) -> Tuple[int, List[int]]:
    """A correlation for netem's generator, and the table that it looks jitter up in, if any."""
    shape, correlation = options["distribution"], options["delay_correlation"]
    if correlation and options["jitter_ms"]:
        return _ring(distribution(shape), correlation)
    return 0, distribution(shape) if shape != "uniform" else []


def _ring(table: List[int], correlation: float) -> Tuple[int, List[int]]:
    """Jitter that wanders: its place in the table is a value modulo the table's size.

    With a correlation a hair below 1 the next value lies within a step of the last one, so its
    place does, on a table that ends where it began: up on the even places, down on the odd ones.
    Each place is as likely as before. How wide the step is decides how much a packet's jitter
    follows the last one's. The values' drift to their middle shifts the step by up to its half, by
    where they began: we take the mean over that.
    """
    ring = table[::2] + table[::-2]
    coarse = ring[:: len(ring) // _COARSE]
    middle = sum(coarse) / _COARSE
    swings = [value - middle for value in coarse] * 2
    follows = [
        sum(map(mul, swings[:_COARSE], swings[shift : shift + _COARSE])) for shift in range(_COARSE)
    ]
    width = 1
    while width < _COARSE and _mean(follows, width) > correlation * follows[0]:
        width += 1
    return (1 << 32) - 1 - width * len(ring) // _COARSE, ring


def _mean(follows: List[float], width: int) -> float:
    """How much a place follows the last one, over all steps of a width and all shifts of it.

    A step is then the difference of two uniform chances, as wide as it: a triangle of chances.
    """
    weights = range(width - 1, 0, -1)
    total: float = follows[0] * width + 2 * sum(map(mul, follows[1:width], weights))
    return total / width**2


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
        "uniform": [2 * chance - 1 for chance in chances],
        "normal": normal,
        "pareto": pareto,
        "paretonormal": [0.25 * one + 0.75 * other for one, other in zip(normal, pareto)],
    }
    if name not in tables:
        raise Invalid(f"distribution {name!r}: {', '.join(tables)}")
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
