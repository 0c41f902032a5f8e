"""Which pods are to go: a pure choice from what was seen, by a seed, within limits."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import floor

from aftershock.capacity.toll import Toll, Tolls
from aftershock.cluster.api import Pod
from aftershock.cluster.pods import by_owner
from aftershock.errors import InvalidFault, InvalidInput
from aftershock.inventory import Limits

_ENOUGH = 5
_NO_TOLL: Tolls = {}


class NothingMatches(InvalidInput):
    """No pod is what was asked for; nothing was touched."""


class TooMuch(InvalidFault):
    """More would be broken than the target's limits allow; nothing was touched."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which pods, of those on some nodes; what is left out doesn't matter.

    `selector`: a label selector. `name`: a pod's name, or a pattern with `*`. `owner`: such as
    `Deployment/web`, or `web`. `count`: so many; `share`: such a share of those that match, rounded
    down, one at least; neither: all. `max_owner_share`: of one owner's pods no more than such a
    share goes, with those that are going already. `seed` decides which.
    """

    selector: str = ""
    name: str = ""
    owner: str = ""
    count: int = 0
    share: float = 0.0
    max_owner_share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 0 or self.count != int(self.count):
            raise InvalidFault(f"count is {self.count}: a whole number, 0 for no limit")
        if not 0 <= self.share <= 1:
            raise InvalidFault(f"share is {self.share:g}: from 0 to 1, 0 for no limit")
        if self.count and self.share:
            raise InvalidFault("count and share both say how many: give one of them")
        if not 0 < self.max_owner_share <= 1:
            raise InvalidFault(f"max_owner_share is {self.max_owner_share:g}: above 0, up to 1")

    def to_dict(self) -> dict[str, str | int | float]:
        """What was asked for, without what was not."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        left_out = {"max_owner_share": 1.0}
        return {
            name: value for name, value in plain.items() if value and value != left_out.get(name)
        }

    def __str__(self) -> str:
        told = (self.selector, self.name and f"name {self.name}", self.owner)
        return ", ".join(word for word in told if word) or "any label"


def choose(
    choice: Choice,
    matching: Sequence[Pod],
    everyone: Iterable[Pod],
    zones: Mapping[str, str],
    tolls: Tolls = _NO_TOLL,
) -> list[Pod]:
    """The pods to go. `matching`: those that the selector found, `everyone` the whole namespace.

    `tolls`: what is taken of each owner already.

    `zones` has the nodes that may be chosen from, each with its zone. A pod that is on its way out
    is never chosen, nor one that is over, or ours. `NothingMatches` says what there is instead.
    """
    named = [pod for pod in matching if _is_meant(choice, pod)]
    there = [pod for pod in named if pod.node in zones]
    found = [pod for pod in there if pod.runs and not pod.spared]
    if not found:
        raise NothingMatches(_why_none(choice, list(everyone), named, there, sorted(zones)))
    wanted = len(found)
    if choice.count:
        wanted = choice.count
    elif choice.share:
        wanted = max(1, floor(choice.share * len(found) + 1e-9))
    if wanted > len(found):
        raise NothingMatches(f"{wanted} pods are asked for, and {len(found)} match {choice}")
    # By node first: pods' names are drawn anew by every replica set, the nodes stay.
    found.sort(key=lambda pod: (pod.node, pod.name))
    random.Random(choice.seed).shuffle(found)
    chosen = _within_shares(found, wanted, choice.max_owner_share, everyone, tolls)
    if not chosen:
        raise TooMuch(
            f"max_owner_share {choice.max_owner_share:g} leaves none of {len(found)} pods that "
            f"match {choice}{_told_of(found, everyone, tolls)}: raise it"
        )
    return sorted(chosen, key=lambda pod: (pod.node, pod.name))


def _is_meant(choice: Choice, pod: Pod) -> bool:
    if choice.name and not fnmatchcase(pod.name, choice.name):
        return False
    owner = choice.owner.lower()
    return not owner or owner in (pod.owner.lower(), pod.owner.partition("/")[2].lower())


def _within_shares(
    found: Sequence[Pod], wanted: int, share: float, everyone: Iterable[Pod], tolls: Tolls
) -> list[Pod]:
    if share == 1:
        return list(found[:wanted])
    allowed = {
        owner: _allowed(pods, share, tolls.get(owner, Toll()))
        for owner, pods in by_owner(everyone).items()
    }
    chosen: list[Pod] = []
    for pod in found:
        if len(chosen) < wanted and allowed.get(pod.owner, 1) > 0:
            allowed[pod.owner] = allowed.get(pod.owner, 1) - 1
            chosen.append(pod)
    return chosen


def _allowed(pods: Sequence[Pod], share: float, toll: Toll) -> int:
    """How many more of an owner's pods may go."""
    lost, of = toll.lost(pods)
    return floor(share * of + 1e-9) - lost


def _told_of(found: Iterable[Pod], everyone: Iterable[Pod], tolls: Tolls) -> str:
    owners = {pod.owner for pod in found}
    told = [
        f"{owner}: {said}"
        for owner, own in by_owner(everyone).items()
        if owner in owners and (said := tolls.get(owner, Toll()).told(own))
    ]
    return "".join(f" ({one})" for one in told)


def check_owners(
    chosen: Sequence[Pod], everyone: Iterable[Pod], limits: Limits, tolls: Tolls = _NO_TOLL
) -> None:
    """`TooMuch` when more of one owner's pods would go than the limits allow.

    `tolls`: what is taken of each owner already; what is can be broken in another way, too.
    """
    all_of, share = by_owner(everyone), limits.max_owner_share
    for owner, pods in by_owner(chosen).items():
        own, toll = all_of.get(owner, pods), tolls.get(owner, Toll())
        before, of = toll.lost(own)
        lost, _ = toll.lost(own, {pod.uid for pod in pods})
        most = floor(share * of + 1e-9)
        if lost <= max(before, most) or owner.startswith("Pod/"):
            continue
        would = f"{len(pods)} of the {of} pods of {owner} would go"
        allows, mend = str(max(0, most - before)), ""
        if told := toll.told(own):
            would, allows = f"{would}, {told}", f"{most} at once"
            mend = "heal it or wait until they are ready again, "
        raise TooMuch(
            f"{would}, and max_owner_share {share:g} allows {allows}: {mend}choose fewer (count, "
            "share, max_owner_share), or raise it in the inventory's limits"
        )


def check_namespace(namespace: str, limits: Limits) -> None:
    """`TooMuch` for a namespace that is never touched."""
    if namespace in limits.never:
        raise TooMuch(
            f"namespace {namespace} is never touched: name another, or take it out of the "
            "inventory's limits (never)"
        )


def _why_none(
    choice: Choice,
    everyone: Sequence[Pod],
    named: Sequence[Pod],
    there: Sequence[Pod],
    nodes: Sequence[str],
) -> str:
    if there:
        why = sorted({_why_spared(pod) for pod in there})
        return f"no pod that matches {choice} can be chosen: {'; '.join(why)}"
    if named:
        on = ", ".join(sorted({pod.node or "no node yet" for pod in named}))
        few = ", ".join(nodes) if len(nodes) <= _ENOUGH else f"any of {len(nodes)} nodes"
        return f"{len(named)} pods match {choice}, but none on {few}: they are on {on}"
    labels = Counter(label for pod in everyone for label in pod.labels)
    told = ", ".join(label for label, _ in labels.most_common(_ENOUGH)) or "no labels at all"
    owners = ", ".join(sorted(by_owner(everyone))[:_ENOUGH])
    if not everyone:
        return f"no pod matches {choice}: the namespace has no pods"
    return (
        f"no pod matches {choice}: the namespace has {len(everyone)} pods, of {owners}, with "
        f"labels such as {told}"
    )


def _why_spared(pod: Pod) -> str:
    if pod.spared:
        return f"{pod.name} is {pod.spared}"
    return f"{pod.name} is {'over' if pod.over else 'on its way out already'}"
