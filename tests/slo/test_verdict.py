"""The verdict's order, and that a PASS is never untrue."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.slo.aftermath import Crossing, Losses
from aftershock.slo.document import FIELDS, SCHEMA_VERSION, document, write
from aftershock.slo.recovery import BACK, ENDED, GIVEN_UP, HOLDING, Recovery
from aftershock.slo.verdict import FAIL, INCONCLUSIVE, PASS, RunFacts, decide

CUT = {
    "fault": "partition",
    "hosts": ["a1", "a2"],
    "bit": True,
    "ordered": True,
    "reverted": True,
    "clean": True,
}
RECOVERY = Recovery(0, BACK, rto_s=1.9, error_s=0.05, held_s=16, decided_by="health")
GOOD = RunFacts(
    rto_objective_s=15,
    limit_ms=1000,
    injections=[CUT],
    steady_state_met=True,
    method_completed=True,
    recovery=RECOVERY,
    failback=Recovery(40, BACK, rto_s=2.2, error_s=0.1),
    generator={"scheduled": 5000, "sent": 5000, "dispatch_lag_p99_ms": 3.0, "not_sent": 0},
    losses=Losses(5912, 61, 4, 2, {"refused": 61}),
    seed=7,
)

BREAKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a leftover": (FAIL, "leftover", {"leftovers": ["veth a1"]}),
    "not clean": (FAIL, "leftover", {"injections": [{**CUT, "clean": False}]}),
    "not reverted": (FAIL, "leftover", {"injections": [{**CUT, "reverted": False}]}),
    "too late": (FAIL, "rto_missed", {"recovery": replace(RECOVERY, rto_s=16.0)}),
    "never": (
        FAIL,
        "rto_missed",
        {"recovery": Recovery(0, GIVEN_UP, censored_s=30)},
    ),
    "no effect": (INCONCLUSIVE, "no_effect", {"injections": [{**CUT, "bit": False}]}),
    "nobody met it": (INCONCLUSIVE, "not_felt", {"injections": [{**CUT, "felt": False}]}),
    "a node that joined": (
        INCONCLUSIVE,
        "no_effect",
        {"injections": [{**CUT, "escaped": {"node-a-3": "no agent"}}]},
    ),
    "no fault": (INCONCLUSIVE, "no_effect", {"injections": []}),
    "healed early": (INCONCLUSIVE, "healed_early", {"injections": [{**CUT, "ordered": False}]}),
    "clean?": (INCONCLUSIVE, "cleanness_unknown", {"injections": [{**CUT, "clean": None}]}),
    "not steady": (INCONCLUSIVE, "no_steady_state", {"steady_state_met": False}),
    "cut short": (INCONCLUSIVE, "method_cut_short", {"method_completed": False}),
    "interrupted": (INCONCLUSIVE, "interrupted", {"interrupted_by": ["SIGINT"]}),
    "control": (INCONCLUSIVE, "control_failed", {"control_errors": ["disk full"]}),
    "starved": (
        INCONCLUSIVE,
        "off_schedule",
        {"generator": {"sent": 5, "dispatch_lag_p99_ms": 50.1}},
    ),
    "unsent": (
        INCONCLUSIVE,
        "off_schedule",
        {"generator": {"sent": 5, "dispatch_lag_p99_ms": 1.0, "not_sent": 3}},
    ),
    "no load": (INCONCLUSIVE, "no_load", {"generator": {}}),
    "no recovery": (INCONCLUSIVE, "not_measured", {"recovery": None}),
    "few": (INCONCLUSIVE, "few_samples", {"recovery": replace(RECOVERY, enough_samples=False)}),
    "gap": (
        INCONCLUSIVE,
        "gap",
        {"recovery": replace(RECOVERY, gaps=(("health", 14.0, 16.0),))},
    ),
    "straddles": (INCONCLUSIVE, "straddles", {"recovery": replace(RECOVERY, rto_s=14.98)}),
    "not held": (INCONCLUSIVE, "not_held", {"recovery": replace(RECOVERY, state=HOLDING)}),
    "healed first": (
        INCONCLUSIVE,
        "not_held",
        {"recovery": Recovery(0, ENDED, censored_s=9.0)},
    ),
    "no fail-back": (INCONCLUSIVE, "failback_unmeasured", {"failback": None}),
    "capacity?": (INCONCLUSIVE, "capacity_unmeasured", {"capacity_objective_s": 60.0}),
    "relapse": (FAIL, "relapse", {"recovery": replace(RECOVERY, relapses_s=(9.0,))}),
    "fail-back failed": (
        FAIL,
        "failback_failed",
        {"failback": Recovery(40, GIVEN_UP, censored_s=30)},
    ),
    "quality": (FAIL, "quality_dropped", {"quality": {"dropped": "answers repeat"}}),
    "activity": (FAIL, "activity_failed", {"activity_errors": ["drain_nodes raised"]}),
    "capacity": (
        FAIL,
        "capacity_missed",
        {"capacity_objective_s": 30.0, "capacity": Crossing(censored_s=38)},
    ),
}


def test_all_good_passes_without_a_reason() -> None:
    assert decide(GOOD).word == PASS
    assert decide(GOOD).reasons == ()
    assert decide(GOOD).passed


@pytest.mark.parametrize("name", BREAKS)
def test_each_break_alone(name: str) -> None:
    word, code, changes = BREAKS[name]
    verdict = decide(replace(GOOD, **changes))
    assert (verdict.word, verdict.reasons[0].code) == (word, code), verdict.reasons


@given(st.lists(st.sampled_from(sorted(BREAKS)), min_size=1, max_size=6, unique=True))
def test_never_a_pass_when_anything_is_broken_and_no_reason_is_lost(names: list[str]) -> None:
    changes: dict[str, Any] = {}
    last_of_field: dict[str, str] = {}
    for name in names:
        changes.update(BREAKS[name][2])
        last_of_field.update(dict.fromkeys(BREAKS[name][2], name))
    verdict = decide(replace(GOOD, **changes))
    assert verdict.word != PASS
    assert verdict.word == verdict.reasons[0].word
    if changes.get("leftovers"):
        assert verdict.word == FAIL and verdict.reasons[0].code == "leftover"
    for name in names:
        _, code, own = BREAKS[name]
        effective = all(last_of_field[field] == name for field in own)
        hidden = code == "rto_missed" or (code == "capacity_unmeasured" and "capacity" in names)
        if effective and not hidden:
            assert code in {reason.code for reason in verdict.reasons}


@given(rto=st.floats(0, 40), error=st.floats(0.001, 3), objective=st.floats(1, 30))
def test_the_word_follows_the_whole_interval(rto: float, error: float, objective: float) -> None:
    found = replace(RECOVERY, rto_s=rto, error_s=error)
    word = decide(replace(GOOD, recovery=found, rto_objective_s=objective)).word
    low, high = max(rto - error, 0), rto + error
    expected = FAIL if low > objective else PASS if high <= objective else INCONCLUSIVE
    assert word == expected


@given(first=st.floats(0, 30), more=st.floats(0, 10))
def test_a_slower_recovery_is_never_judged_better(first: float, more: float) -> None:
    order = [PASS, INCONCLUSIVE, FAIL]

    def rank(rto: float) -> int:
        return order.index(decide(replace(GOOD, recovery=replace(RECOVERY, rto_s=rto))).word)

    assert rank(first + more) >= rank(first)


def test_a_missed_objective_without_an_effect_is_inconclusive() -> None:
    facts = replace(
        GOOD,
        injections=[{**CUT, "bit": False}],
        recovery=replace(RECOVERY, rto_s=20.0),
    )
    assert decide(facts).word == INCONCLUSIVE


def test_a_starved_generator_can_not_excuse_a_clear_miss() -> None:
    facts = replace(GOOD, recovery=Recovery(0, GIVEN_UP, censored_s=30), generator={})
    assert decide(facts).word == FAIL


def test_the_document_has_exactly_the_documented_fields(tmp_path: Path) -> None:
    for facts in (GOOD, RunFacts(rto_objective_s=15, limit_ms=1000)):
        content = document(facts, decide(facts))
        assert set(content) == set(FIELDS)
        assert content["schema_version"] == SCHEMA_VERSION
        write(tmp_path / "verdict.json", content)
        assert json.loads((tmp_path / "verdict.json").read_text()) == content
    assert not list(tmp_path.glob("*.tmp"))
