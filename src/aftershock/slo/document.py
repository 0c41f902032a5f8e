"""`verdict.json`: what a run leaves for people's tools. `FIELDS` says what each field means."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from aftershock.slo.realness import least_real
from aftershock.slo.verdict import RunFacts, Verdict

SCHEMA_VERSION = 1
# Fields are only added within a version; a change of meaning raises it.
FIELDS = {
    "schema_version": "the version of this table",
    "verdict": "PASS, FAIL or INCONCLUSIVE; everything but PASS exits non-zero",
    "reasons": "list of {code, word, text}: all that kept it from PASS; the first gave the word",
    "target": "the target's name, `lab` for the embedded one",
    "rto_objective_s": "the service has to be back within so many seconds",
    "service_rto_s": "from the first fault's firing to the service's return, while the fault was "
    "active; 0: nothing went bad; null: it did not return (see service_rto_censored_s)",
    "service_rto_error_s": "half of its 95 % interval",
    "service_rto_censored_s": "the service was not back within so many seconds, else null",
    "service_state": "back, holding, failing, waiting, given_up or ended (see slo/recovery.py)",
    "decided_by": "the source of samples that was back last (health, canary, load, windows)",
    "held_s": "how long the service was watched after its return",
    "first_bad_s": "from the firing to the first request that went bad",
    "relapses_s": "when it failed again after it had been back, seconds after the firing",
    "failback_rto_s": "from the heal until golden levels hold and the zone carries its share",
    "failback_rto_error_s": "half of its 95 % interval",
    "failback_unseen": "zones whose share of the traffic nobody tells: golden levels alone count",
    "capacity_rto_s": "from the firing until as many replicas were ready as before, or null",
    "capacity_error_s": "half of the stretch in which it was",
    "capacity_censored_s": "capacity did not return in so many seconds while the fault held",
    "capacity_after_heal_s": "and was back so many seconds after the heal",
    "capacity_objective_s": "what capacity_rto_s must meet; null: it does not decide",
    "capacity_gaps": "list of [from_s, to_s, kind]: replicas could not be watched; late: what "
    "changed is known, its moment is not; lost: nor is what came and went",
    "replacements": "list of lost replicas and what came for them: pod, replaces, node, zone, "
    "same_pod (none came, the lost one is back), "
    "deleted_s (when the lost one stopped to serve), scheduled_s, started_s, ready_s (after the "
    "firing, null: not seen), waits_for (the "
    "scheduler's reason), late (stages in a gap: no later than told)",
    "time_to_detect_s": "from the firing until the gateway counted a server as down, or null",
    "time_to_detect_error_s": "half of the time between the two polls that told it",
    "requests_total": "requests of the load from the firing to the end",
    "requests_lost": "of them (and of those in flight at the firing) never answered soundly",
    "requests_slow": "answered, but later than tolerated",
    "streams_cut": "failed after their first token",
    "failed_by_kind": "failed requests by kind",
    "goodput": "limits (ms), and for before, during and after the fault: requests that were due, "
    "met (within all limits), share and rps of these; empty where nothing was measured",
    "cliff": "of a load that was stepped up, rates in requests/s: knee_rps [held, broke], knee_why"
    ", collapse_rps, capacity_rps and capacity_error_rps (good answers), saturated, not_seen, "
    "shedding_rps, generator_ended_rps, at_least_rps, steps; empty where it was not",
    "soak": "of a load that was held: lasts_s, planned, rounds (each fault's at_s, fault, zone, "
    "rto_s, failback_s, …), drift (list of name, percent_per_h, low, high, the same three of the "
    "later half, confidence, points, hours, level and word: none, settled, drift, unsure), "
    "most_drift_percent_per_h; empty where it was not",
    "quality": "golden prompts: before, during, after {answers, bad, questions (those with a known "
    "answer), right (of these), kinds, by_replica, by_family}, exact, prompts, unanswered, dropped "
    "and unmeasured (sentences), worst; empty if not asked",
    "lowest_throughput_rps": "good answers a second in the worst window",
    "gaps": "list of [source, from_s, to_s]: stretches without samples",
    "per_source": "each source's own counts and recovery time",
    "gpu_level": "how real what was broken on GPUs was: emulated, telemetry, driver, hardware; the "
    "least of all (see slo/realness.py); null: no GPU was",
    "injections": "list of faults: fault, hosts, failed_hosts (host: why it went on without it), "
    "joined (host that came later: when it was cut off, seconds), escaped (host: why not), "
    "fired_at, evidence, skew_ms, bit, felt (false: nobody but us met it; null: not counted), "
    "ordered, reverted, clean",
    "leftovers": "what of ours was still there after the run",
    "generator": "how the load did: scheduled, sent, dispatch_lag_p99_ms, …; ran_out: list of "
    "{resource, share, text}, what it had too little of while it was late",
    "steady_state_met": "whether golden levels held before the fault",
    "seed": "what all chance in the run came from",
    "versions": (
        "of Aftershock, Python, Chaos Toolkit, Locust and the kernel; on a cluster, the images of "
        "the service's containers when the run began, with their digests"
    ),
    "title": "the experiment's",
    "run": "what it was told: experiment, started_at, command, directory, environment (variables "
    "that the experiment reads), variables (every setting as it was used), levels, zones (of each "
    "node)",
}


def document(facts: RunFacts, verdict: Verdict) -> dict[str, Any]:
    """The content of verdict.json; its keys are those of FIELDS."""
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": verdict.word,
        "reasons": [{"code": r.code, "word": r.word, "text": r.text} for r in verdict.reasons],
        "target": facts.target,
        **_recovery(facts),
        **_aftermath(facts),
        "injections": [dict(injection) for injection in facts.injections],
        "gpu_level": least_real(facts.injections),
        "leftovers": list(facts.leftovers),
        "generator": dict(facts.generator),
        "steady_state_met": facts.steady_state_met,
        "seed": facts.seed,
        "versions": dict(facts.versions),
        "title": facts.title,
        "run": dict(facts.run),
    }


def _recovery(facts: RunFacts) -> dict[str, Any]:
    found = facts.recovery
    return {
        "rto_objective_s": facts.rto_objective_s,
        "service_rto_s": found and found.rto_s,
        "service_rto_error_s": found and found.error_s,
        "service_rto_censored_s": found and found.censored_s,
        "service_state": found and found.state,
        "decided_by": found and found.decided_by,
        "held_s": found and found.held_s,
        "first_bad_s": found and found.first_bad_s,
        "relapses_s": list(found.relapses_s) if found else [],
        "lowest_throughput_rps": found and found.lowest_rps,
        "gaps": [list(gap) for gap in found.gaps] if found else [],
        "per_source": {k: dict(v) for k, v in found.per_source.items()} if found else {},
    }


def _aftermath(facts: RunFacts) -> dict[str, Any]:
    lost = facts.losses
    return {
        "failback_rto_s": facts.failback and facts.failback.rto_s,
        "failback_rto_error_s": facts.failback and facts.failback.error_s,
        "failback_unseen": list(facts.failback_unseen),
        "capacity_rto_s": facts.capacity.rto_s,
        "capacity_error_s": facts.capacity.error_s,
        "capacity_censored_s": facts.capacity.censored_s,
        "capacity_after_heal_s": facts.capacity.after_heal_s,
        "capacity_objective_s": facts.capacity_objective_s,
        "capacity_gaps": [list(gap) for gap in facts.capacity.gaps],
        "replacements": [dict(one) for one in facts.replacements],
        "time_to_detect_s": facts.detection.rto_s,
        "time_to_detect_error_s": facts.detection.error_s,
        "requests_total": lost and lost.requests_total,
        "requests_lost": lost and lost.requests_lost,
        "requests_slow": lost and lost.requests_slow,
        "streams_cut": lost and lost.streams_cut,
        "failed_by_kind": dict(lost.failed_by_kind) if lost else {},
        "goodput": dict(facts.goodput),
        "cliff": dict(facts.cliff),
        "soak": dict(facts.soak),
        "quality": dict(facts.quality),
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a reader never sees half a verdict."""
    draft = path.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
