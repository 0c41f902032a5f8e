"""PASS, FAIL or INCONCLUSIVE, with every reason that applies.

The word is that of the first stage, in the order of `_STAGES`, that has a reason. What would make a
pass untrue (no effect, no steady state, a generator off its schedule) comes before what the service
did wrong, but after what is certain: something of ours left behind, or an objective clearly missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aftershock.slo import enduring
from aftershock.slo.aftermath import Crossing, Losses
from aftershock.slo.recovery import BACK, GIVEN_UP, HOLDING, Recovery

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"
MISSING_SHARE = 0.01  # of the load, with workers that were lost
LAG_SHARE = 0.05  # of the objective's latency; a generator further behind measured itself
_FEW = (
    "fewer than 100 requests while it held after the recovery: too few for a 99th percentile; "
    "raise the load or the hold"
)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """All that decides a run.

    `injections`: one mapping each, of which these count: `bit` (its effect on the target was
    observed), `felt` (somebody beside us met it; None: nobody counted), `ordered` (it stayed until
    it was ordered to go), `reverted`, `clean` (the target is as it was; None: not known).
    `generator`: `scheduled`, `sent`, `dispatch_lag_p99_ms`, `not_sent`. `limit_ms` is
    the tolerated latency. `rto_objective_s` is the service's.
    """

    rto_objective_s: float
    limit_ms: float
    injections: Sequence[Mapping[str, Any]] = ()
    leftovers: Sequence[str] = ()
    steady_state_met: bool | None = None
    method_completed: bool = False
    recovery: Recovery | None = None
    failback: Recovery | None = None
    failback_expected: bool = True
    failback_unseen: Sequence[str] = ()
    capacity: Crossing = field(default_factory=Crossing)
    capacity_objective_s: float | None = None
    replacements: Sequence[Mapping[str, Any]] = ()
    detection: Crossing = field(default_factory=Crossing)
    losses: Losses | None = None
    goodput: Mapping[str, Any] = field(default_factory=dict)
    cliff: Mapping[str, Any] = field(default_factory=dict)
    soak: Mapping[str, Any] = field(default_factory=dict)
    generator: Mapping[str, Any] = field(default_factory=dict)
    interrupted_by: Sequence[str] = ()
    activity_errors: Sequence[str] = ()
    control_errors: Sequence[str] = ()
    quality: Mapping[str, Any] = field(default_factory=dict)
    target: str = "lab"
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reason:
    """What kept a run from PASS: a code for programs, the word it asks for, a sentence."""

    code: str
    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The word and all its reasons; the first reason gave the word."""

    word: str
    reasons: tuple[Reason, ...]

    @property
    def passed(self) -> bool:
        return self.word == PASS


Found = Iterator[tuple[str, str]]


def decide(facts: RunFacts) -> Verdict:
    """The first stage with a reason gives the word; reasons of all stages are listed."""
    reasons = tuple(
        Reason(code, word, text) for word, stage in _STAGES for code, text in stage(facts)
    )
    return Verdict(reasons[0].word if reasons else PASS, reasons)


def _left(facts: RunFacts) -> Found:
    for thing in facts.leftovers:
        yield "leftover", f"left behind: {thing}"
    for injection in facts.injections:
        if injection.get("clean") is False or injection.get("reverted") is False:
            yield "leftover", f"{_name(injection)} was not taken back cleanly"


def _missed(facts: RunFacts) -> Found:
    yield from enduring.missed(facts.soak, facts.rto_objective_s)
    if not _any_bit(facts) or facts.recovery is None:
        return
    found, objective = facts.recovery, facts.rto_objective_s
    if found.interval_s and found.interval_s[0] > objective:
        yield "rto_missed", f"service back in {_span(found)}, the objective is {objective:g} s"
    elif found.rto_s is None and (found.censored_s or 0.0) >= objective:
        yield "rto_missed", f"service not back within {found.censored_s:g} s"


def _unproven(facts: RunFacts) -> Found:
    if facts.steady_state_met is not True:
        yield "no_steady_state", "the steady state was not met before the fault"
    if not facts.injections:
        yield "no_effect", "no fault was injected"
    for injection in facts.injections:
        if injection.get("bit") is not True:
            yield "no_effect", f"{_name(injection)} had no effect on the target"
        if injection.get("felt") is False:
            yield (
                "not_felt",
                f"{_name(injection)}: nobody but Aftershock itself met it while it held",
            )
        for host, why in (injection.get("escaped") or {}).items():
            fault = injection.get("fault", "a fault")
            yield "no_effect", f"{fault}: {host} joined what is lost and was not cut off: {why}"
        if injection.get("ordered") is not True or injection.get("healed_early"):
            yield "healed_early", f"{_name(injection)} was healed before it was ordered to go"
        if "clean" not in injection or injection["clean"] is None:
            yield "cleanness_unknown", f"{_name(injection)}: not known whether its target is clean"
    for name in facts.interrupted_by[:1]:
        yield "interrupted", f"the run was interrupted by {name}"
    if not facts.method_completed:
        yield "method_cut_short", "the experiment's method did not run to its end"
    for error in facts.control_errors:
        yield "control_failed", f"Aftershock's own control failed: {error}"


def _unmeasured(facts: RunFacts) -> Found:
    yield from _off_schedule(facts)
    if facts.recovery is None:
        yield "not_measured", "the recovery was not measured"
    else:
        yield from _unsure(facts, facts.recovery)
    yield from _capacity_unsure(facts)
    yield from _cliff_unsure(facts.cliff)
    yield from enduring.unmeasured(facts.soak, facts.rto_objective_s)
    if facts.quality.get("unmeasured"):
        yield "quality_unmeasured", f"answers' quality: {facts.quality['unmeasured']}"
    if facts.failback_expected and facts.failback is None:
        yield "failback_unmeasured", "the fail-back after the heal was not measured"
    elif facts.failback and facts.failback_expected and not facts.failback.final:
        yield "failback_unmeasured", "the run ended before the fail-back had held"


def _unsure(facts: RunFacts, found: Recovery) -> Found:
    objective = facts.rto_objective_s
    if not found.enough_samples:
        yield "few_samples", _FEW
    for source, start, end in found.gaps:
        span = found.interval_s or (0.0, end)
        if start <= objective <= end or (start < span[1] and end > span[0] and start < objective):
            yield "gap", f"no samples of {source} from {start:g} to {end:g} s after the effect"
    if found.interval_s and found.interval_s[0] <= objective < found.interval_s[1]:
        yield "straddles", f"{_span(found)} straddles the objective of {objective:g} s"
    if found.state != BACK and not _is_missed(facts):
        yield "not_held", _how_far(found)


def _off_schedule(facts: RunFacts) -> Found:
    allowed = LAG_SHARE * facts.limit_ms
    lag = facts.generator.get("dispatch_lag_p99_ms")
    if lag is None or not facts.generator.get("sent"):
        yield "no_load", "the load generator sent nothing"
    elif lag > allowed:
        text = f"the load generator was off its schedule: p99 {lag:g} ms, {allowed:g} ms allowed"
        yield "off_schedule", text + _ran_out(facts.generator)
    if unsent := facts.generator.get("not_sent"):
        text = f"{unsent} requests were due but never sent"
        yield "off_schedule", text + _ran_out(facts.generator)
    missing, due = (facts.generator.get(name) or 0 for name in ("missing", "scheduled"))
    if missing > MISSING_SHARE * (due + missing):
        lost, workers = (facts.generator.get(name) for name in ("workers_lost", "workers"))
        share = 100 * missing / (due + missing)
        gone = f"{lost} of {workers} workers of the load were lost" if lost else "workers went away"
        yield "worker_lost", f"{gone}: {share:.1f} % of its requests went missing"


def _ran_out(generator: Mapping[str, Any]) -> str:
    found = [str(one["text"]) for one in generator.get("ran_out") or ()]
    return ": " + ("; ".join(found) or "no resource was seen to run out")


def _misbehaved(facts: RunFacts) -> Found:
    found = facts.recovery
    for moment in found.relapses_s if found else ():
        yield "relapse", f"the service failed again {moment:g} s after the fault began"
    if facts.failback_expected and facts.failback and facts.failback.state == GIVEN_UP:
        yield "failback_failed", f"no fail-back within {facts.failback.censored_s:g} s of the heal"
    if facts.failback_expected and facts.failback and facts.failback.relapses_s:
        yield "failback_failed", "the service failed again after the heal"
    if facts.quality.get("dropped"):
        yield "quality_dropped", facts.quality["dropped"]
    for error in facts.activity_errors:
        yield "activity_failed", f"an activity failed: {error}"
    yield from enduring.misbehaved(facts.soak)
    yield from _capacity_missed(facts)
    wanted, knee = facts.cliff.get("at_least_rps"), facts.cliff.get("knee_rps")
    if wanted and knee and knee[1] <= wanted:
        yield "knee_missed", f"the knee is below {knee[1]:g} requests/s, wanted {wanted:g}"


def _cliff_unsure(cliff: Mapping[str, Any]) -> Found:
    """A climb that the generator ended, or a knee on both sides of what is wanted."""
    wanted, knee = cliff.get("at_least_rps"), cliff.get("knee_rps")
    ended = cliff.get("generator_ended_rps")
    if cliff and not knee and ended:
        said = f"the load generator could not keep up with {ended:g} requests/s"
        yield "cliff_unmeasured", f"no knee was found: {said}; give it more load_processes"
    elif wanted and knee and knee[0] < wanted < knee[1]:
        yield "knee_straddles", f"the knee, {knee[0]:g} to {knee[1]:g}, straddles {wanted:g}"
    elif wanted and cliff and not knee and max(s["rate_rps"] for s in cliff["steps"]) < wanted:
        yield "cliff_unmeasured", f"{wanted:g} requests/s were wanted, and never offered"


def _capacity_unsure(facts: RunFacts) -> Found:
    objective, found = facts.capacity_objective_s, facts.capacity
    if not objective:
        return
    if found == Crossing():
        yield "capacity_unmeasured", "ready replicas were never watched"
    for start, end, kind in found.gaps:
        if kind == "lost" and (start <= objective <= end or start <= 0 <= end):
            over = "the capacity objective" if start > 0 else "the fault's beginning"
            said = f"replicas could not be watched from {start:g} to {end:g} s, across {over}"
            yield "capacity_gap", said
    span = found.interval_s
    if span and span[0] <= objective < span[1]:
        straddles = f"between {span[0]:.3f} and {span[1]:.3f} s"
        yield (
            "capacity_straddles",
            f"capacity came back {straddles}, the objective is {objective:g} s",
        )
    elif found.censored_s is not None and found.censored_s < objective:
        held = f"not back in the {found.censored_s:g} s that it was watched while the fault held"
        yield "capacity_unsure", f"capacity was {held}, the objective is {objective:g} s"


def _capacity_missed(facts: RunFacts) -> Found:
    objective, found = facts.capacity_objective_s, facts.capacity
    if not objective:
        return
    if found.censored_s is not None and found.censored_s >= objective:
        held = f"not back within {found.censored_s:g} s while the fault held"
        yield "capacity_missed", f"capacity {held}, the objective is {objective:g} s"
    elif found.interval_s and found.interval_s[0] > objective:
        yield "capacity_missed", f"capacity back in {found.rto_s:g} s, wanted {objective:g} s"


_STAGES: tuple[tuple[str, Callable[[RunFacts], Found]], ...] = (
    (FAIL, _left),
    (FAIL, _missed),
    (INCONCLUSIVE, _unproven),
    (INCONCLUSIVE, _unmeasured),
    (FAIL, _misbehaved),
)


def _any_bit(facts: RunFacts) -> bool:
    return any(injection.get("bit") is True for injection in facts.injections)


def _is_missed(facts: RunFacts) -> bool:
    return any(True for _ in _missed(facts))


def _name(injection: Mapping[str, Any]) -> str:
    return on_hosts(str(injection.get("fault", "a fault")), injection.get("hosts") or ())


def on_hosts(fault: str, hosts: Sequence[str]) -> str:
    """A fault and where it is: named hosts while they are few, else how many."""
    few = ", ".join(hosts) if len(hosts) <= 4 else f"{len(hosts)} nodes"
    return f"{fault} on {few}" if few else fault


def _span(found: Recovery) -> str:
    return f"{found.rto_s:.3f} s ± {found.error_s:.3f}"


def _how_far(found: Recovery) -> str:
    if found.state == HOLDING or found.rto_s is not None:
        return f"service was back, but watched for {found.held_s:g} s only"
    return "the run ended before the service was back"
