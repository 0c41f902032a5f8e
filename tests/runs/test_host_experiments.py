"""Hosts' experiments on the lab: does the service come back by itself, when, at what cost?"""

from typing import Any

import pytest

from tests.agent.cgroups import require

from .conftest import ChaosRun

pytestmark = [pytest.mark.root, pytest.mark.whole, pytest.mark.timeout(200)]


def probed(journal: dict[str, Any], name: str) -> Any:
    (found,) = [one["output"] for one in journal["run"] if one["activity"]["name"] == name]
    return found


def test_a_service_that_ran_out_of_memory_comes_back_by_itself(chaos_run: ChaosRun) -> None:
    require()
    outcome = chaos_run("oom-recovery.json", before_s=3, hold_s=2)
    verdict = outcome.verdict
    assert (outcome.status, verdict["verdict"]) == (0, "PASS"), outcome.printed
    assert 0.3 < verdict["service_rto_s"] < 15 and verdict["requests_lost"] > 0
    assert 0 < verdict["capacity_rto_s"] < 60
    for injection in verdict["injections"]:
        assert injection["fault"] == "out-of-memory"
        assert injection["bit"] and injection["ordered"] and injection["clean"], injection
        seen = {piece["name"]: piece["ok"] for piece in injection["evidence"]["pieces"]}
        assert seen == {"oom-killed": True, "gone": True}
    assert probed(outcome.journal, "OOM kills so far") == 0
    assert probed(outcome.journal, "OOM kills since then") >= 6
