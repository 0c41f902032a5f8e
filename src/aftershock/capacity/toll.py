"""What a run's injections have taken of an owner's pods, of those that are there now.

An owner's share is of the pods that serve. A pod that is gone counts until as many are ready as
were before, one under a fault or on a lost node until the heal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from aftershock.cluster.api import Pod

_FEW = 5


@dataclass(frozen=True, slots=True)
class Toll:
    """What of one owner is taken.

    `held`: UIDs of pods under a fault, or on a lost node, with the fault's kind. `ended`: pods that
    were ended, each with what ended it, the last one last. `scaled`: replicas that are asked for no
    more; `by_scale` says so. `most`: how many were ready at once, at most.
    """

    held: Mapping[str, str] = field(default_factory=dict)
    ended: tuple[tuple[Pod, str], ...] = ()
    scaled: int = 0
    by_scale: str = ""
    most: int = 0

    def lost(self, own: Sequence[Pod], chosen: Collection[str] = ()) -> tuple[int, int]:
        """How many would not serve if the chosen, by UID, were broken, too; and of how many.

        `own`: the owner's pods that are there.
        """
        runs = [pod for pod in own if pod.runs]
        broken = {pod.uid for pod in runs if pod.uid in self.held or pod.uid in chosen}
        leaving = self._leaving(own)
        missing = self._missing(runs, broken)
        of = max(self.most, len(runs)) + leaving
        return min(of, len(broken) + missing + self.scaled + leaving), of

    def _missing(self, runs: Sequence[Pod], broken: Collection[str]) -> int:
        """How many of those that were ended nobody has replaced."""
        there = sum(pod.ready or pod.uid in broken for pod in runs)
        return min(len(self.ended), max(0, self.most - there - self.scaled))

    def _leaving(self, own: Sequence[Pod]) -> int:
        """How many others are on their way out."""
        ours = {pod.uid for pod, _ in self.ended}
        gone = sum(pod.terminating and not pod.over and pod.uid not in ours for pod in own)
        return max(0, gone - self.scaled)

    def told(self, own: Sequence[Pod]) -> str:
        """What took how many, for the sentence of a refusal; nothing if nothing did."""
        runs = [pod for pod in own if pod.runs]
        held = [(pod.name, self.held[pod.uid]) for pod in runs if pod.uid in self.held]
        missing = self._missing(runs, {pod.uid for pod in runs if pod.uid in self.held})
        ended = [(pod.name, why) for pod, why in self.ended[len(self.ended) - missing :]]
        by: dict[str, list[str]] = {}
        for name, why in (*held, *ended):
            by.setdefault(why, []).append(name)
        parts = [f"{why}: {few(names)}" for why, names in by.items()]
        parts += [self.by_scale] if self.scaled else []
        count = len(held) + missing + self.scaled
        return f"{count} are taken already ({'; '.join(parts)})" if parts else ""


Tolls = Mapping[str, Toll]  # by owner
Taken = Callable[[str, Sequence[Pod]], Tolls]  # of a namespace, and of all its pods


def nothing_taken(namespace: str, everyone: Sequence[Pod]) -> Tolls:
    """Where there is no run, nothing was taken before."""
    return {}


def few(names: Collection[str]) -> str:
    """Names, but not too many."""
    first = sorted(names)[:_FEW]
    more = len(names) - len(first)
    return f"{', '.join(first)}{f' and {more} more' if more else ''}"
