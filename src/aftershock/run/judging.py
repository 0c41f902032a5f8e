"""From a run's timeline and injections to what its verdict is made of."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from math import inf
from typing import TYPE_CHECKING, Any

from aftershock.slo import aftermath
from aftershock.slo.capacity import capacity
from aftershock.slo.goodput import goodput
from aftershock.slo.recovery import Recovery, Terms, assess
from aftershock.slo.verdict import RunFacts

if TYPE_CHECKING:
    from aftershock.run.session import Run

T_EFFECT, T_HEALED = "t_effect", "t_healed"
T_DISTURBED = "t_disturbed"  # what is usual was before this, where it is not t_effect
# An activity's error as Chaos Toolkit keeps it: the names of its types stand before the sentence.
_TYPES = re.compile(r"^(?:(?:chaoslib|aftershock)(?:\.\w+)+: )+")
PACKAGES = ("aftershock", "chaostoolkit", "chaostoolkit-lib", "locust", "kubernetes", "pyroute2")


def terms(run: Run) -> Terms:
    """What counts as back in this run."""
    return Terms(objective_s=run.settings.rto_objective_s, hold_s=run.settings.hold_s)


def failback_terms(run: Run) -> Terms:
    """What counts as failed back in this run."""
    return Terms(objective_s=run.settings.failback_objective_s, hold_s=run.settings.hold_s)


def service_recovery(run: Run, now: float) -> Recovery | None:
    """How the service stands, counted from the first firing; None before there was one."""
    marks = run.timeline.marks
    if T_EFFECT not in marks:
        return None
    healed = marks.get(T_HEALED, inf)
    return assess(
        run.timeline,
        run.levels,
        terms(run),
        marks[T_EFFECT],
        now=now,
        until=healed,
        steady_until=marks.get(T_DISTURBED),
    )


def failback(run: Run, now: float) -> Recovery | None:
    """How the way back to golden levels stands; None before the heal was ordered."""
    marks = run.timeline.marks
    if T_EFFECT not in marks or T_HEALED not in marks:
        return None
    zones = run.breaking.injections.zones
    return aftermath.fail_back(
        run.timeline,
        run.levels,
        failback_terms(run),
        marks[T_HEALED],
        now=now,
        t_effect=marks[T_EFFECT],
        zones=zones,
    )


def facts(run: Run, journal: Mapping[str, Any], interrupted_by: list[str]) -> RunFacts:
    """All that decides, as far as the run came; the load has stopped by now."""
    marks, now = run.timeline.marks, run.timeline.horizon()
    effect = marks.get(T_EFFECT)
    injections = [injection.to_dict() for injection in run.breaking.made]
    seen: dict[str, Any] = {}
    if effect is not None:
        again = until_broken_again(injections, marks.get(T_HEALED), now)
        seen = {
            "recovery": _final(run.recovery) or service_recovery(run, now),
            "failback": _final(run.failback) or failback(run, now),
            "failback_unseen": aftermath.unseen(
                run.timeline, effect, run.breaking.injections.zones
            ),
            "capacity": capacity(run.timeline, effect, marks.get(T_HEALED), again),
            "replacements": run.watcher.replacements(effect),
            "detection": aftermath.time_to_detect(run.timeline, effect),
            "losses": aftermath.losses(run.timeline, effect, now, run.levels.limit_s),
        }
    begun, over = effect, marks.get(T_HEALED)
    if T_DISTURBED in marks:
        begun, over = marks[T_DISTURBED], effect
    measured = goodput(run.timeline, run.levels.goodput_ms, begun, over, now)
    return RunFacts(
        rto_objective_s=run.settings.rto_objective_s,
        limit_ms=run.levels.limit_s * 1000,
        injections=injections,
        # Of what can't be healed there is no coming back: dead pods are replaced as they die.
        failback_expected=any(not one.get("momentary") for one in injections) or not injections,
        steady_state_met=steady_state_met(journal),
        method_completed=method_completed(journal),
        capacity_objective_s=run.settings.capacity_rto_objective_s or run.levels.capacity_rto_s,
        generator=run.load.stats().as_dict(),
        goodput=measured,
        cliff=run.cliff,
        soak=run.soak,
        # The lab's engine gives the same answer at temperature 0; others may promise less.
        quality=run.load.quality(begun, over, run.target.is_lab or run.settings.quality_exact),
        activity_errors=activity_errors(journal),
        interrupted_by=interrupted_by,
        target=run.target.name,
        seed=run.settings.seed,
        versions=versions() | run.target.service_versions,
        title=run.title,
        run=run.told,
        **seen,
    )


def until_broken_again(
    injections: Sequence[Mapping[str, Any]], healed: float | None, now: float
) -> float:
    """When something was fired after the first heal, as a soak does it; else now."""
    fired: list[float | None] = [one["fired_at_monotonic_s"] for one in injections]
    later = [at for at in fired if at is not None and healed is not None and at > healed]
    return min([now, *later])


def steady_state_met(journal: Mapping[str, Any]) -> bool | None:
    """Whether Chaos Toolkit found the steady state before the method; None: it never looked."""
    before = (journal.get("steady_states") or {}).get("before")
    return None if not before else bool(before.get("steady_state_met"))


def method_completed(journal: Mapping[str, Any]) -> bool:
    """Whether every activity of the method was played."""
    method = (journal.get("experiment") or {}).get("method") or []
    return len(journal.get("run") or []) >= len(method) and bool(method)


def activity_errors(journal: Mapping[str, Any]) -> list[str]:
    """What activities raised, and a steady state that was not met afterwards."""
    runs = [*(journal.get("run") or []), *(journal.get("rollbacks") or [])]
    errors = [
        f"{run['activity']['name']}: {_last_line(run.get('exception'))}"
        for run in runs
        if run.get("status") != "succeeded" and run.get("exception")
    ]
    after = (journal.get("steady_states") or {}).get("after")
    if after and not after.get("steady_state_met"):
        failed = after["probes"][-1]["activity"]["name"] if after.get("probes") else "?"
        errors.append(f"the steady state was not met afterwards: {failed}")
    during = (journal.get("steady_states") or {}).get("during") or []
    if missed := sum(not state.get("steady_state_met") for state in during if state):
        errors.append(f"the steady state was missed {missed} times during the method")
    return errors


def versions() -> dict[str, str]:
    """What ran."""
    found = {"python": platform.python_version(), "kernel": os.uname().release}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _final(found: Recovery | None) -> Recovery | None:
    return found if found and found.final else None


def _last_line(exception: Any) -> str:
    lines = exception if isinstance(exception, list) else [str(exception or "no reason given")]
    text = "".join(lines).strip().splitlines()
    return _TYPES.sub("", text[-1]) if text else "no reason given"
