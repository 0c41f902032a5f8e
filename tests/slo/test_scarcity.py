"""What ran out is what was measured, of the worst worker, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.slo.scarcity import ran_out
from aftershock.slo.verdict import RunFacts, decide

IDLE: dict[str, Any] = {"due": 1000, "descriptors_most": 40, "descriptors_limit": 1024}


def worker(**late: float) -> dict[str, Any]:
    return IDLE | {f"late_{name}": value for name, value in ({"wall_s": 2.0} | late).items()}


@pytest.mark.parametrize(
    ("report", "resource", "share", "said"),
    [
        (worker(ran_s=1.9), "worker_cpu", 0.95, "used 95 % of its processor: give it more load_pr"),
        (
            worker(ran_s=0.5, queued_s=1.0, busy_s=3.9, all_s=4.0),
            "machine_cpu", 0.5, "50 % of the time, and this machine's were 98 % busy",
        ),
        (worker(stolen_s=1.0, all_s=4.0), "stolen_cpu", 0.25, "hypervisor took 25 %"),
        (worker(stood_still_s=1.2), "event_loop", 0.6, "stood still 60 % of the time"),
        (worker(segments=500, retransmitted=20), "network", 0.04, "4.0 % of what was sent"),
        (IDLE | {"not_sent": 150, "out_of_descriptors": 150}, "descriptors", 0.05, "may have 1024"),
        (IDLE | {"not_sent": 150, "out_of_ports": 150}, "ports", 0.05, "ip_local_port_range"),
        (IDLE | {"not_sent": 300}, "requests_in_flight", 0.1, "5000 requests a worker were"),
    ],
)  # fmt: skip
def test_each_resource_is_told_by_name_with_its_mend(
    report: dict[str, Any], resource: str, share: float, said: str
) -> None:
    (found,) = ran_out([report, IDLE, worker(ran_s=0.4, segments=9000)], 5000)
    assert (found["resource"], found["share"]) == (resource, pytest.approx(share, abs=0.02))
    assert said in found["text"]
    generator = {"sent": 9, "dispatch_lag_p99_ms": 200.0, "ran_out": [found]}
    reasons = decide(RunFacts(15, 1000, generator=generator)).reasons
    (reason,) = [one for one in reasons if one.code == "off_schedule"]
    assert reason.text.startswith("the load generator was off its schedule: p99 200 ms, 50 ms")
    assert reason.text.endswith(found["text"]) and reason.word == "INCONCLUSIVE"


def test_what_nothing_explains_is_said_to_be_so() -> None:
    assert ran_out([worker(ran_s=0.5)]) == []
    facts = RunFacts(15, 1000, generator={"sent": 9, "dispatch_lag_p99_ms": 200.0})
    told = [reason.text for reason in decide(facts).reasons if reason.code == "off_schedule"]
    assert told[0].endswith("50 ms allowed: no resource was seen to run out")


@given(
    st.lists(
        st.fixed_dictionaries(
            {"due": st.integers(0, 10**6), "not_sent": st.integers(0, 100)},
            optional={
                f"late_{name}": st.floats(0, 1e4)
                for name in ("wall_s", "ran_s", "queued_s", "stood_still_s", "busy_s", "all_s")
            },
        ),
        max_size=5,
    )
)
def test_more_of_the_same_names_no_less(reports: list[dict[str, Any]]) -> None:
    """Workers are independent: one that is well hides none that is not."""
    found = {one["resource"] for one in ran_out(reports)}
    assert found == {one["resource"] for one in ran_out([*reports, IDLE])}
    assert found == {one["resource"] for one in ran_out(reports[::-1])}
