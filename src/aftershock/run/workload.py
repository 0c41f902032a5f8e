"""What Kubernetes says of the target's workload, for probes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from aftershock.cluster import autoscaling, readings, room
from aftershock.cluster.lives import Life
from aftershock.cluster.rest import Rest
from aftershock.cluster.watch import LOST
from aftershock.errors import AftershockError, InvalidInput
from aftershock.run.judging import T_EFFECT
from aftershock.run.replicas import Replicas
from aftershock.run.wording import number, truth
from aftershock.slo.capacity import counts
from aftershock.slo.objectives import NoMeasurement

if TYPE_CHECKING:
    from aftershock.run.session import Run

STAGES = ("deleted", "scheduled", "started", "ready")
LEAST_WATCHED_S = 1.0
LOOK_S = 0.3

Told = dict[str, Any]


class NotScaled(AftershockError):
    """An autoscaler did not scale in time."""


class NotFailing(AftershockError):
    """No container failed where one had to."""


class Workload:
    """What probes call. `Unsupported` on a target without Kubernetes, whatever is asked."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._rest: Rest | None = None

    def close(self) -> None:
        """Let go of the connections."""
        if self._rest is not None:
            self._rest.close()

    @property
    def rest(self) -> Rest:
        """The way to the target's API."""
        if self._rest is None:
            self._rest = Rest(self._run.breaking.injections.cluster)
        return self._rest

    @property
    def _replicas(self) -> Replicas:
        return self._run.watcher.replicas

    def ready_by_zone(self) -> dict[str, int]:
        """As the watch has it; `NoMeasurement` while it hears nothing."""
        watch = self._replicas.watch
        if watch.since is None or watch.problem is not None:
            why = watch.problem or "the pods were not listed yet"
            raise NoMeasurement(f"ready replicas: the watch over pods hears nothing ({why})")
        return watch.ready_by_zone()

    def ready_replicas(self, zone: str) -> int:
        """See `aftershock.probes.kubernetes.ready_replicas`."""
        self._known_zone(zone)
        ready = self.ready_by_zone()
        return ready.get(zone, 0) if zone else sum(ready.values())

    def _lives(self, zone: str) -> list[Life]:
        self.ready_by_zone()
        self._known_zone(zone)
        return [life for life in self._replicas.watch.lives() if not zone or life.zone == zone]

    def _known_zone(self, zone: str) -> None:
        if zone:
            self._run.target.inventory.in_zone(zone)

    def replacements(self) -> list[Told]:
        """Those since the first fault; `NoMeasurement` before there was one."""
        effect = self._run.timeline.marks.get(T_EFFECT)
        if effect is None:
            raise NoMeasurement("no fault was fired yet: nothing was replaced since")
        self.ready_by_zone()
        return self._replicas.replacements(effect)

    def slowest(self, stage: str) -> float:
        """See `aftershock.probes.kubernetes.slowest_replacement_s`."""
        if stage not in STAGES:
            raise InvalidInput(f"stage {stage!r}: there are {', '.join(STAGES)}")
        rows = [row for row in self.replacements() if row["pod"] or row["replaces"]]
        waiting = [row for row in rows if row[f"{stage}_s"] is None]
        if not rows:
            raise NoMeasurement("no replica was lost or replaced since the fault")
        if waiting:
            first = waiting[0]
            why = first["waits_for"] or f"not {stage} yet"
            name = first["pod"] or f"what is to replace {first['replaces']}"
            raise NoMeasurement(f"{len(waiting)} of {len(rows)} are not {stage}: {name}: {why}")
        return float(max(row[f"{stage}_s"] for row in rows))

    def restarts_per_minute(self, zone: str, window_s: float) -> float:
        """See `aftershock.probes.kubernetes.restarts_per_minute`."""
        window_s = number("window_s", window_s)
        if not window_s > 0:
            raise InvalidInput(f"window_s is {window_s:g}: give seconds, more than 0")
        lives = {life.uid for life in self._lives(zone)}
        watch, now = self._replicas.watch, time.monotonic()
        since = max(now - window_s, watch.since or now)
        if now - since < min(LEAST_WATCHED_S, window_s):
            raise NoMeasurement(f"restarts: watched for {now - since:.2f} s only")
        for gap in watch.gaps():
            if gap.kind == LOST and gap.end > since:
                raise NoMeasurement(f"restarts: {gap.end - gap.start:.1f} s were lost: {gap.why}")
        counted = [at for at, uid in list(watch.restarts) if at >= since and uid in lives]
        return 60 * len(counted) / (now - since)

    def oom_kills(self, zone: str) -> int:
        """See `aftershock.probes.kubernetes.oom_kills`."""
        return sum(life.oom_kills for life in self._lives(zone))

    def pending(self, selector: str) -> list[Told]:
        """See `aftershock.probes.kubernetes.pending_pods`."""
        return readings.pending(self.rest, selector or self._selector)

    def failing(self, selector: str, saying: str, within_s: Any, required: Any) -> list[Told]:
        """See `aftershock.probes.kubernetes.failing_pods`."""
        wait_s, needed = number("within_s", within_s), truth("required", required)
        until = time.monotonic() + wait_s
        while True:
            found = readings.failing(self.rest, selector or self._selector)
            meant = [one for one in found if saying.lower() in one["message"].lower()]
            if meant or time.monotonic() >= until:
                break
            time.sleep(LOOK_S)
        if needed and not meant:
            words = f" and says {saying!r}" if saying else ""
            raise NotFailing(f"no container fails{words} within {wait_s:g} s, though one should")
        return meant

    def endpoints(self, service: str) -> dict[str, dict[str, int]]:
        """See `aftershock.probes.kubernetes.endpoints_by_zone`."""
        return readings.endpoints_by_zone(self.rest, service)

    def ready_endpoints(self, service: str, zone: str) -> int:
        """See `aftershock.probes.kubernetes.ready_endpoints`."""
        self._known_zone(zone)
        found = self.endpoints(service)
        return sum(count["ready"] for name, count in found.items() if not zone or name == zone)

    def node_conditions(self, zone: str) -> Told:
        """See `aftershock.probes.kubernetes.node_conditions`."""
        return readings.node_conditions(self.rest, zone)

    def headroom(self, budget: str) -> Told:
        """See `aftershock.probes.kubernetes.disruption_budgets`."""
        return readings.disruption_headroom(self.rest, budget)

    def without_zone(self, zone: str, selector: str) -> Told:
        """See `aftershock.probes.kubernetes.room_without_zone`."""
        return room.without_zone(self.rest, zone, selector or self._selector)

    @property
    def _selector(self) -> str:
        return self._run.target.inventory.selector

    def autoscaler(self, name: str) -> Told:
        """See `aftershock.probes.kubernetes.autoscaler`."""
        return autoscaling.autoscaler(self.rest, name)

    def scaled(self, name: str, to_at_least: int, within_s: float, required: bool) -> Told:
        """See `aftershock.probes.kubernetes.autoscaler_scaled`."""
        least, within_s = number("to_at_least", to_at_least), number("within_s", within_s)
        required = truth("required", required)
        told = self._scaled(name, int(least), within_s)
        with self._run.noting("scaling.json"):
            self._run.folder.write_json("scaling.json", told)
        said = f"{told['from']} → {told['to']} replicas"
        if "decided_s" in told:
            said += f": wanted after {told['decided_s']:.1f} s ± {told['decided_error_s']:.2f}"
        if told["scaled"]:
            said += f", ready after {told['ready_s']:.1f} s"
        self._run.console.say("scaled" if told["scaled"] else "NOT scaled", said)
        if required and not told["scaled"]:
            seen = ", ".join(
                f"{m['name']} {m['value']} of {m['target']:g}" for m in told["metrics"]
            )
            raise NotScaled(f"not scaled within {within_s:g} s ({said}; {seen})")
        return told

    def _scaled(self, name: str, to_at_least: int, within_s: float) -> Told:
        asked = time.monotonic()
        since = self._run.timeline.marks.get(T_EFFECT, asked)
        first = self.autoscaler(name)
        before = [count for at, count in counts(self._run.timeline) if at < since]
        had = int(before[-1]) if before else first["current"]
        wanted = to_at_least or had + 1
        if wanted > first["most"]:
            raise InvalidInput(
                f"{first['name']} scales to {first['most']} at most, {wanted} are waited for"
            )
        told: Told = {"scaled": False, "from": had, "to": first["desired"]}
        told["metrics"] = first["metrics"]
        is_first = True
        for low, at, state in autoscaling.follow(self.rest, first["name"], asked + within_s):
            told |= {"to": state["desired"], "metrics": state["metrics"]}
            if state["desired"] >= wanted:
                # What it already wants when first looked at it may have wanted since then.
                told |= _moment("decided", since, since if is_first else low, at)
                told |= self._came(state["desired"], since, asked + within_s)
                return told
            is_first = False
        return told

    def _came(self, desired: int, since: float, until: float) -> Told:
        """When so many replicas were ready, as the watch tells, at once or later."""
        watch = self._replicas.watch
        while time.monotonic() < until:
            if watch.problem is None and sum(watch.ready_by_zone().values()) >= desired:
                ready = sorted(self._ready_moments())
                came = [at for at in ready if at >= since]
                at = came[-1] if came else time.monotonic()
                return {"scaled": True, "ready_s": round(at - since, 3)}
            time.sleep(0.05)
        self.ready_by_zone()  # that it is deaf still would be why
        return {"scaled": False}

    def _ready_moments(self) -> list[float]:
        lives = self._replicas.watch.lives()
        return [life.became_ready for life in lives if life.serves and life.became_ready]


def _moment(name: str, since: float, low: float, high: float) -> Told:
    middle, error = (low + high) / 2 - since, (high - low) / 2
    return {f"{name}_s": round(max(middle, 0.0), 3), f"{name}_error_s": round(error, 3)}
