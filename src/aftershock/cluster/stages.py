"""What became of lost replicas, stage by stage: deleted → scheduled → started → ready."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aftershock.cluster.lives import Life
from aftershock.cluster.watch import Gap


@dataclass(frozen=True, slots=True)
class Replacement:
    """One replica's way back; times are seconds after the fault, None: not seen.

    `replaces` is the pod that was lost, `pod` the one that came, which may have the same name; one
    of them is empty where there was no other. `same_pod`: they are one, whose containers were
    restarted in place, or which was unready for a while. `deleted_s` is when the lost one stopped
    to serve. `late` names the stages that fell into a gap of the watch: they came no later than
    told, and no earlier than the gap's beginning.
    """

    pod: str
    replaces: str
    node: str
    zone: str
    same_pod: bool = False
    deleted_s: float | None = None
    scheduled_s: float | None = None
    started_s: float | None = None
    ready_s: float | None = None
    waits_for: str = ""
    late: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "late": list(self.late)}


def replacements(
    lives: Iterable[Life], since: float, gaps: Sequence[Gap] = ()
) -> list[Replacement]:
    """The replicas that were lost after `since`, and those that came for them, in order of time.

    A controller names no predecessor: within an owner the first lost goes with the first created.
    A name that comes again (a StatefulSet's) goes with itself.
    """
    lost: dict[str, list[Life]] = defaultdict(list)
    came: dict[str, list[Life]] = defaultdict(list)
    found = []
    for life in lives:
        if life.created is not None and life.created >= since:
            came[life.owner or life.name].append(life)
        if life.lost is not None and life.lost >= since:
            if life.terminating or life.gone is not None:
                lost[life.owner or life.name].append(life)
            else:
                found.append(_row(life, life, since, gaps))
    for owner in {**lost, **came}:
        for old, new in _pairs(lost[owner], came[owner]):
            found.append(_row(old, new, since, gaps))
    return sorted(found, key=lambda row: (_first(row), row.pod, row.replaces))


def _pairs(lost: list[Life], came: list[Life]) -> list[tuple[Life | None, Life | None]]:
    left = sorted(lost, key=lambda life: life.lost or 0.0)
    pairs: list[tuple[Life | None, Life | None]] = []
    for new in sorted(came, key=lambda life: life.created or 0.0):
        before = [old for old in left if old.uid != new.uid and (old.lost or 0) <= _born(new)]
        old = next((one for one in before if one.name == new.name), next(iter(before), None))
        if old is not None:
            left.remove(old)
        pairs.append((old, new))
    return pairs + [(old, None) for old in left]


def _born(life: Life) -> float:
    return (life.created or 0.0) + 0.5  # the two are told in either order


def _first(row: Replacement) -> float:
    known = [t for t in (row.deleted_s, row.scheduled_s, row.started_s, row.ready_s) if t]
    return min(known, default=0.0)


def _row(old: Life | None, new: Life | None, since: float, gaps: Sequence[Gap]) -> Replacement:
    at = {"deleted": old.lost if old else None}
    if new is not None and (new is not old or new.restarted):
        at |= {"scheduled": new.scheduled, "started": new.started}
    if new is not None:
        # One that came is lost, too, when its zone is broken again.
        at["ready"] = new.became_ready or (None if new is old else new.first_ready)
    after = {name: t for name, t in at.items() if t is not None and t >= since}
    told = {f"{name}_s": round(t - since, 4) for name, t in after.items()}
    place = new or old
    assert place is not None
    return Replacement(
        pod=new.name if new else "",
        replaces=old.name if old else "",
        node=place.node,
        zone=place.zone,
        same_pod=new is old,
        waits_for=new.why_pending if new and not new.ready else "",
        late=tuple(name for name, t in after.items() if any(g.start < t <= g.end for g in gaps)),
        **told,
    )
