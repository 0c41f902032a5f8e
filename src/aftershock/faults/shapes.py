"""Shapes of partitions between groups, as Jepsen names them: who can't hear whom. Pure.

Groups are zones or nodes, by name. A shape maps each group to those whose packets it doesn't get:
dropped on the receiving side, so a one-way shape is as easy as a symmetric one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from aftershock.errors import InvalidFault

Deaf = Mapping[str, frozenset[str]]
SHAPES = ("halves", "isolate", "bridge", "ring", "one-way")


def shape(kind: str, groups: Sequence[str], seed: int, first: str = "") -> Deaf:
    """A shape by its name; `first` is who is isolated, or is the bridge, where one is meant.

    `halves`: two parts, the smaller one first. `isolate`: one against the rest. `bridge`: halves
    that both still reach one between them. `ring`: each hears a majority, and no two the same one.
    `one-way`: the smaller half doesn't hear the other, which hears everybody. All chance comes from
    `seed`. `InvalidFault` where there are too few groups for the shape.
    """
    if kind not in SHAPES:
        raise InvalidFault(f"shape {kind!r}: one of {', '.join(SHAPES)}")
    if len(set(groups)) != len(groups):
        raise InvalidFault("shape: a group is named twice")
    if first and first not in groups:
        raise InvalidFault(f"shape: no group {first!r}, only {', '.join(groups)}")
    least = {"bridge": 3, "ring": 3}.get(kind, 2)
    if len(groups) < least:
        raise InvalidFault(f"shape {kind}: it needs {least} groups at least, not {len(groups)}")
    order = list(groups)
    random.Random(seed).shuffle(order)
    if first:
        order.remove(first)
        order.insert(0, first)
    if kind == "isolate":
        return parts([order[:1], order[1:]])
    if kind == "bridge":
        rest = order[1:]
        return {**parts(_halves(rest)), order[0]: frozenset()}
    if kind == "ring":
        return _ring(order)
    small, large = _halves(order)
    if kind == "one-way":
        deaf = dict.fromkeys(small, frozenset(large))
        return {**deaf, **dict.fromkeys(large, frozenset())}
    return parts([small, large])


def parts(groups: Sequence[Sequence[str]]) -> Deaf:
    """Complete parts: nobody hears anybody outside of their own."""
    everyone = [name for part in groups for name in part]
    return {name: frozenset(everyone) - frozenset(part) for part in groups for name in part}


def _halves(order: Sequence[str]) -> tuple[list[str], list[str]]:
    middle = len(order) // 2
    return list(order[:middle]), list(order[middle:])


def _ring(order: Sequence[str]) -> Deaf:
    """Everyone hears the next few around a ring on both sides, a bare majority with themselves."""
    count = len(order)
    majority = count // 2 + 1
    back = (majority - 1) // 2
    heard = {
        name: frozenset(order[(place - back + step) % count] for step in range(majority))
        for place, name in enumerate(order)
    }
    return {name: frozenset(order) - heard[name] for name in order}
