"""Workloads scaled, and their autoscalers held still, through the Kubernetes API.

Both are taken back exactly: the replicas and bounds that were there, unless somebody else has
changed them meanwhile, whose change then stands and is told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aftershock.capacity.choosing import NothingMatches, TooMuch, check_namespace
from aftershock.capacity.held import HeldChange, take_back
from aftershock.capacity.reaper import Reaper
from aftershock.capacity.toll import Toll
from aftershock.cluster import Cluster, pods, workloads
from aftershock.cluster.permissions import Permission
from aftershock.cluster.pods import by_owner
from aftershock.cluster.workloads import Bounds, Scale, Workload
from aftershock.errors import InvalidFault, InvalidInput, NotApplied
from aftershock.evidence import Piece
from aftershock.inventory import Limits
from aftershock.ledger import Ledger, undoes

_SEEN_S = 30.0
_LOOK_S = 0.1
_MOST = 10_000


class WorkloadFault(HeldChange):
    """What changes how many replicas a workload has, or may have."""

    def __init__(
        self,
        cluster: Cluster,
        workload: Workload,
        ledger: Ledger,
        reaper: Reaper | None = None,
        lease_s: float = 120.0,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(cluster, (), ledger, reaper, lease_s)
        self.workload = workload
        self.limits = limits or Limits(max_owner_share=1.0)
        self.others = ""  # what somebody else made of it meanwhile

    def to_dict(self) -> dict[str, Any]:
        """As every injection; its place is the workload, no node."""
        return {**super().to_dict(), "hosts": [str(self.workload)], "of": "workload"}

    def _told(self) -> dict[str, Any]:
        told = {"workload": str(self.workload), "namespace": self.workload.namespace}
        return {**told, **({"left_to_others": self.others} if self.others else {})}


class Scaled(WorkloadFault):
    """Another number of replicas, until the heal.

    With an autoscaler that isn't blocked, what that makes of it is the service's own answer.
    """

    kind = "scale"

    def __init__(self, cluster: Cluster, workload: Workload, replicas: int, *more: Any) -> None:
        super().__init__(cluster, workload, *more)
        if not 0 <= replicas <= _MOST:
            raise InvalidFault(f"replicas is {replicas}: from 0 to {_MOST}")
        self.replicas = replicas
        self.before: Scale | None = None
        self._governed = False

    def permissions(self) -> list[Permission]:
        """To read and change its scale, and to see who scales it and which pods it has."""
        space = self.workload.namespace
        scale = f"{self.workload.plural}/scale"
        return [
            *(Permission(verb, scale, space, "apps") for verb in ("get", "patch")),
            Permission("list", "horizontalpodautoscalers", space, "autoscaling"),
            Permission("list", "pods", space),
            *super().permissions(),
        ]

    def parameters(self) -> dict[str, Any]:
        """From how many replicas to how many."""
        before = self.before.replicas if self.before else None
        return {**self._told(), "before": before, "replicas": self.replicas}

    def touches(self) -> list[str]:
        """The workload, and both numbers."""
        before = self.before.replicas if self.before else "?"
        space = self.workload.namespace
        return [f"scale {space}/{self.workload} from {before} to {self.replicas} replicas"]

    def check(self) -> None:
        """Refuse a namespace or a loss beyond the limits, and a change that is none."""
        check_namespace(self.workload.namespace, self.limits)
        super().check()
        self.before = before = workloads.scale_of(self.cluster, self.workload)
        if self.replicas == before.replicas:
            raise NothingMatches(
                f"{self.workload} has {before.replicas} replicas already: say another number"
            )
        self._check_loss(before.replicas)

    def _check_loss(self, replicas: int) -> None:
        everyone = pods.listed(self.cluster, self.workload.namespace)
        toll = self.taken(self.workload.namespace, everyone).get(str(self.workload), Toll())
        own = by_owner(everyone).get(str(self.workload), [])
        taken, of = toll.lost([pod for pod in own if pod.runs])
        lost, allowed = replicas - self.replicas, self.limits.max_owner_share
        if lost > 0 and lost + taken > allowed * max(replicas, of) + 1e-9:
            told = toll.told(own)
            raise TooMuch(
                f"{lost} of the {replicas} replicas of {self.workload} would go"
                f"{f', {told}' if told else ''}, and max_owner_share {allowed:g} allows less: "
                f"{'heal it first, ' if told else ''}ask for more, or raise it in the inventory's "
                "limits"
            )

    @property
    def lost(self) -> int:
        """How many replicas it takes away, as long as it does."""
        return 0 if self.reverted or not self.before else max(0, self._was - self.replicas)

    @property
    def told(self) -> str:
        """From how many replicas to how many, in words."""
        return f"{self.kind}: {self._was} to {self.replicas} replicas"

    def arm(self) -> None:
        """Look how many there are now; then as all."""
        self.before = workloads.scale_of(self.cluster, self.workload)
        self._governed = workloads.bounds_of(self.cluster, self.workload) is not None
        super().arm()

    def change(self) -> dict[str, Any]:
        """The path of the scale, what is asked for, and what was."""
        change = {"kind": self.kind, "paths": [self.workload.path], "set": self.replicas}
        return {**change, "replicas": self._was}

    def undo(self) -> dict[str, Any]:
        """Which workload, what was asked for, and what is to be again."""
        kind, name = self.workload.kind, self.workload.name
        place = {"kind": kind, "name": name, "of": self.workload.namespace}
        return {**place, "set": self.replicas, "replicas": self._was}

    def put(self) -> None:
        """Ask for the number."""
        if not workloads.rescale(self.cluster, self.workload, self._was, self.replicas):
            raise NotApplied(f"somebody else scaled {self.workload} meanwhile: try again")

    def observe(self) -> dict[str, Any]:
        """Whether as many pods are there, those on their way out left out; counted anew."""
        selector = self.before.selector if self.before else ""
        until = time.monotonic() + _SEEN_S
        while True:
            found = pods.listed(self.cluster, self.workload.namespace, selector)
            there = sum(pod.runs for pod in found)
            ok = there == self.replicas
            if ok or time.monotonic() > until:
                break
            time.sleep(_LOOK_S)
        seen = f"{there} pods are there, {self._was} were asked for before"
        self.pieces = [Piece("scaled", str(self.workload), ok, seen)]
        return self.evidence

    def take_off(self) -> list[str]:
        """Ask for as many as before."""
        if self.fired_at is None and self.before is None:
            return []
        now, left = _restored(self.cluster, self.workload, self.replicas, self._was)
        if now != self.replicas and self.fired_at is not None:
            self._healed_early = self._healed_early or not self._governed
            if now != self._was:
                self.others = "it is gone" if now is None else f"{now} replicas"
        return left

    @property
    def _was(self) -> int:
        return self.before.replicas if self.before else self.replicas


class BlockedAutoscaler(WorkloadFault):
    """An autoscaler whose least and most are one number: it holds that, whatever its metrics say.

    `replicas`: the number; None: as many as are asked for now. Kubernetes itself has no switch for
    an autoscaler but to scale its target to 0.
    """

    kind = "autoscaler-block"

    def __init__(
        self, cluster: Cluster, workload: Workload, replicas: int | None, *more: Any
    ) -> None:
        super().__init__(cluster, workload, *more)
        self.replicas = replicas
        self.before: Bounds | None = None

    def permissions(self) -> list[Permission]:
        """To read and change the autoscaler, and to read the scale."""
        space = self.workload.namespace
        own = [
            Permission(verb, "horizontalpodautoscalers", space, "autoscaling")
            for verb in ("get", "list", "patch")
        ]
        reads = Permission("get", f"{self.workload.plural}/scale", space, "apps")
        return [*own, reads, *super().permissions()]

    def parameters(self) -> dict[str, Any]:
        """Which autoscaler, its bounds before, and the number that it is held at."""
        before = self.before
        bounds = {"autoscaler": before.name, "before": before.plain()} if before else {}
        return {**self._told(), **bounds, "replicas": self.replicas}

    def touches(self) -> list[str]:
        """The autoscaler, its bounds, and the number."""
        name = self.before.name if self.before else "?"
        return [f"hold autoscaler {self.workload.namespace}/{name} at {self.replicas} replicas"]

    def check(self) -> None:
        """Refuse a namespace that is never touched, and a workload without an autoscaler."""
        check_namespace(self.workload.namespace, self.limits)
        super().check()
        self._settle()

    def arm(self) -> None:
        """Look which bounds there are now; then as all."""
        self._settle()
        super().arm()

    def _settle(self) -> None:
        self.before = workloads.bounds_of(self.cluster, self.workload)
        if self.before is None:
            raise InvalidInput(f"no autoscaler of autoscaling/v2 scales {self.workload}")
        if self.replicas is None:
            self.replicas = workloads.scale_of(self.cluster, self.workload).replicas
        if not self.replicas:
            raise InvalidFault(
                f"{self.workload} is scaled to 0, where no autoscaler acts: there is none to block"
            )

    def change(self) -> dict[str, Any]:
        """The path of the autoscaler, what it is given, and what it had."""
        before, set_ = self._bounds()
        path = f"/apis/autoscaling/v2/namespaces/{self.workload.namespace}"
        paths = [f"{path}/horizontalpodautoscalers/{before.name}"]
        return {"kind": self.kind, "paths": paths, "set": set_.plain(), "bounds": before.plain()}

    def undo(self) -> dict[str, Any]:
        """Which autoscaler, and both bounds."""
        before, set_ = self._bounds()
        place = {"name": before.name, "of": self.workload.namespace}
        return {**place, "set": set_.plain(), "bounds": before.plain()}

    def put(self) -> None:
        """Make both bounds the number."""
        before, set_ = self._bounds()
        if not workloads.rebound(self.cluster, self.workload.namespace, before, set_):
            raise NotApplied(f"somebody else changed autoscaler {before.name} meanwhile: try again")

    def observe(self) -> dict[str, Any]:
        """Whether both bounds are the number now, read back."""
        _, set_ = self._bounds()
        now = workloads.bounds_of(self.cluster, self.workload)
        held = now is not None and now.plain() == set_.plain()
        seen = f"{set_.name} scales from {now.least} to {now.most}" if now else "it is gone"
        self.pieces = [Piece("held", str(self.workload), held, seen)]
        return self.evidence

    def take_off(self) -> list[str]:
        """Give it the bounds that it had."""
        if self.before is None:
            return []
        before, set_ = self._bounds()
        now, left = _unblocked(self.cluster, self.workload.namespace, set_, before)
        if self.fired_at is not None and (now is None or now.plain() != set_.plain()):
            self._healed_early = True
            if now is not None and now.plain() != before.plain():
                self.others = f"{now.least} to {now.most} replicas"
        return left

    def _bounds(self) -> tuple[Bounds, Bounds]:
        assert self.before and self.replicas
        return self.before, Bounds(self.before.name, self.replicas, self.replicas)


def _restored(
    cluster: Cluster, workload: Workload, ours: int, was: int
) -> tuple[int | None, list[str]]:
    """Ask for as many as before, if it is ours that is asked for; what was, and what is left."""
    try:
        now = workloads.scale_of(cluster, workload).replicas
        if now == ours:
            workloads.rescale(cluster, workload, ours, was)
        left = ours != was and workloads.scale_of(cluster, workload).replicas == ours
    except InvalidInput:  # the workload is gone
        return None, []
    return now, [str(workload)] if left else []


def _unblocked(
    cluster: Cluster, namespace: str, ours: Bounds, was: Bounds
) -> tuple[Bounds | None, list[str]]:
    """Give the bounds back, if they are ours; what they were, and what is left."""
    now = workloads.bounds_by_name(cluster, namespace, ours.name)
    if now is not None and now.plain() == ours.plain() != was.plain():
        workloads.rebound(cluster, namespace, ours, was)
        after = workloads.bounds_by_name(cluster, namespace, ours.name)
        if after is not None and after.plain() == ours.plain():
            return now, [ours.name]
    return now, []


@undoes("scale")
def undo_scale(undo: Mapping[str, Any]) -> str:
    """Take a dead run's change of scale back (for `recover`); returns a sentence about it."""
    workload = Workload(undo["kind"], undo["name"], undo["of"])
    numbers = undo["set"], undo["replicas"]
    done = f"{workload} has {undo['replicas']} replicas again, unless somebody chose otherwise"
    return take_back(
        undo, "scale", str(workload), lambda one: _restored(one, workload, *numbers)[1], done
    )


@undoes("autoscaler-block")
def undo_block(undo: Mapping[str, Any]) -> str:
    """Let an autoscaler scale again that a dead run held (for `recover`)."""
    ours, was = (
        Bounds(undo["name"], told["minReplicas"], told["maxReplicas"])
        for told in (undo["set"], undo["bounds"])
    )
    done = f"autoscaler {ours.name} scales from {was.least} to {was.most} again"
    mend = lambda one: _unblocked(one, undo["of"], ours, was)[1]  # noqa: E731
    return take_back(undo, "block", f"autoscaler {ours.name}", mend, done)
