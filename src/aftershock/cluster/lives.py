"""The lives of pods, from their objects as an API tells them: the few fields that are of use.

Times are our own (CLOCK_MONOTONIC, seconds): when something was first *heard of*. None: not yet, or
it was so when the pod was first seen.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Life:
    """One pod. `owner` is its controller's UID; `lost` is when it last stopped being of use."""

    uid: str
    name: str
    owner: str = ""
    node: str = ""
    zone: str = ""
    phase: str = ""
    why_pending: str = ""
    ready: bool = False
    running: bool = False
    terminating: bool = False
    restarts: int = 0
    oom_kills: int = 0
    restarted: bool = False  # in place, since `lost`
    created: float | None = None
    scheduled: float | None = None
    started: float | None = None
    became_ready: float | None = None  # since `lost`
    first_ready: float | None = None
    lost: float | None = None
    gone: float | None = None
    _ends: tuple[str, ...] = ()  # container runs whose end by the OOM killer was counted

    @property
    def serves(self) -> bool:
        """Ready, and not on its way out."""
        return self.ready and not self.terminating and self.gone is None


def born(pod: Mapping[str, Any], at: float, is_news: bool) -> Life:
    """A pod seen for the first time; `is_news`: it was created just now."""
    meta = pod["metadata"]
    owners = meta.get("ownerReferences") or ()
    life = Life(
        uid=meta["uid"],
        name=meta["name"],
        owner=next((sys.intern(o["uid"]) for o in owners if o.get("controller")), ""),
        created=at if is_news else None,
    )
    _take(life, pod, at, is_news)
    return life


def seen(life: Life, pod: Mapping[str, Any], at: float) -> int:
    """Take in a pod's new state; how many container restarts are new."""
    before = life.restarts
    _take(life, pod, at, True)
    return max(0, life.restarts - before)


def died(life: Life, at: float) -> None:
    """The pod is gone from the API."""
    if life.serves or life.lost is None:
        life.lost = at
    life.gone = at
    life.terminating = True


def _take(life: Life, pod: Mapping[str, Any], at: float, is_news: bool) -> None:
    status, now = pod.get("status") or {}, at if is_news else None
    served, restarts = life.serves, life.restarts
    life.phase = sys.intern(status.get("phase") or "")
    _take_place(life, pod, status, now)
    _take_containers(life, status, now)
    life.ready = any(
        c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ()
    )
    if "deletionTimestamp" in pod["metadata"] and not life.terminating:
        life.terminating = True
        if not served and life.lost is None:
            life.lost = now
    if served and not life.serves:
        life.lost, life.became_ready = now, None
        life.restarted = life.restarts > restarts
    if life.serves and not served:
        life.became_ready = now
        life.first_ready = life.first_ready or now


def _take_place(
    life: Life, pod: Mapping[str, Any], status: Mapping[str, Any], now: float | None
) -> None:
    node = (pod.get("spec") or {}).get("nodeName") or ""
    if node and not life.node:
        life.node, life.scheduled = sys.intern(node), now
    refusals = (
        c.get("message") or c.get("reason") or ""
        for c in status.get("conditions") or ()
        if c["type"] == "PodScheduled" and c["status"] == "False"
    )
    life.why_pending = "" if node else sys.intern(next(refusals, ""))


def _take_containers(life: Life, status: Mapping[str, Any], now: float | None) -> None:
    containers = status.get("containerStatuses") or ()
    running = bool(containers) and all("running" in (c.get("state") or {}) for c in containers)
    restarts = sum(c.get("restartCount") or 0 for c in containers)
    if restarts > life.restarts:
        life.restarted = True
    if running and (not life.running or restarts > life.restarts):
        life.started = now
    life.running, life.restarts = running, restarts
    for container in containers:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            end = state.get("terminated") or {}
            if end.get("reason") == "OOMKilled":
                _count_oom(life, f"{container['name']}/{end.get('finishedAt')}")


def _count_oom(life: Life, end: str) -> None:
    if end not in life._ends:
        life.oom_kills += 1
        life._ends = (*life._ends[-7:], end)
