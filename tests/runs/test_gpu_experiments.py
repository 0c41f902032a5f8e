"""GPUs' experiments on the lab: is the fault felt, does the service come back, is it released?"""

import json
from typing import Any

import pytest

from .conftest import ROOT, ChaosRun
from .test_host_experiments import probed

pytestmark = [pytest.mark.root, pytest.mark.timeout(200)]
ALL_AT_ONCE = [
    "gpu-memory-pressure", "partition", "cordon", "taint", "pod-kill", "pod-kill", "io-pressure"
]  # fmt: skip


@pytest.mark.whole
def test_all_at_once_is_survived_by_what_is_left_and_the_rest_comes_back(
    chaos_run: ChaosRun,
) -> None:
    """A server finds too little GPU memory while a zone is lost and another's disk is busy."""
    outcome = chaos_run("compound-failure.json", before_s=3, hold_s=2, gpus_per_node=2)
    verdict = outcome.verdict
    assert (outcome.status, verdict["verdict"]) == (0, "PASS"), outcome.printed
    made = verdict["injections"]
    assert [one["fault"] for one in made] == ALL_AT_ONCE
    assert all(one["bit"] and one["ordered"] and one["clean"] for one in made), outcome.printed
    parts = [part for one in made for part in one.get("per_host", {}).values()]
    ends = [part["reverted_at_monotonic_s"] for part in parts if part.get("fired_at_monotonic_s")]
    assert max(one["fired_at_monotonic_s"] for one in made) < min(ends), "all were on together"
    pressed, cut, *_, killed, slowed = made
    assert [one["hosts"] for one in (pressed, cut, killed, slowed)] == [
        ["node-c-1"], ["node-a-1", "node-a-2"], ["node-c-1"], ["node-b-1", "node-b-2"]
    ]  # fmt: skip
    assert pressed["level"] == "emulated"
    names = {piece["name"] for piece in pressed["evidence"]["pieces"]}
    assert names >= {"gpu-pressed", "gpu-holder", "gpu-after", "kernel-log"}
    (starved,) = probed(outcome.journal, "It can't start for want of memory")
    assert starved["node"] == "node-c-1" and starved["exit_code"] == 1
    assert "Free memory on device cuda:0 (1.00/80.00 GiB)" in starved["message"]
    assert 0 < verdict["service_rto_s"] < 15 and verdict["requests_lost"] > 0
    assert verdict["capacity_rto_s"] is None, "not while the memory was taken"
    assert len(verdict["replacements"]) == 3


def test_what_gpu_memory_pressure_does_is_done_in_the_whole_run_of_all_at_once() -> None:
    """So it has none of its own. Its memory is released by what ends the other GPU experiments."""

    def steps(name: str) -> list[tuple[str, dict[str, Any]]]:
        method = json.loads((ROOT / "experiments" / name).read_text())["method"]
        return [(one["provider"]["func"], one["provider"].get("arguments", {})) for one in method]

    whole = dict(steps("compound-failure.json"))
    alone = dict(steps("gpu-memory-pressure.json"))
    assert alone.pop("heal_gpus") == dict(steps("gpu-loss.json"))["heal_gpus"]
    assert list(alone) == [func for func in whole if func in alone]
    for func, told in alone.items():
        assert whole[func].keys() <= told.keys(), func


@pytest.mark.whole
@pytest.mark.parametrize(("by", "seen"), [("freeze", "frozen"), ("cuda-lock", "cuda-locked")])
def test_an_engine_that_hangs_is_healthy_and_only_a_canary_finds_it(
    chaos_run: ChaosRun, by: str, seen: str
) -> None:
    outcome = chaos_run("gpu-hang.json", before_s=3, hold_s=2, by=by)
    verdict = outcome.verdict
    assert (outcome.status, verdict["verdict"]) == (0, "PASS"), outcome.printed
    assert 1 < verdict["service_rto_s"] < 15 and verdict["requests_lost"] > 0
    (injection,) = verdict["injections"]
    assert injection["bit"] and injection["ordered"] and injection["clean"], injection
    pieces = {piece["name"]: piece for piece in injection["evidence"]["pieces"]}
    assert set(pieces) == {"hung", seen} and pieces["hung"]["ok"] and pieces[seen]["ok"]
    assert injection["parameters"]["by"] == by and injection["level"] == "emulated"
    told = {one["node"]: one for one in probed(outcome.journal, "What each replica answers")}
    assert len(told) == 6 and [name for name, one in told.items() if one["hung"]] == ["node-a-1"]
    assert told["node-a-1"]["healthy"] and not told["node-a-1"]["token"]
    assert verdict["replacements"] == [], "Kubernetes never noticed"


@pytest.mark.whole
def test_a_lost_gpu_takes_its_server_with_it_until_it_is_there_again(chaos_run: ChaosRun) -> None:
    outcome = chaos_run("gpu-loss.json", before_s=3, hold_s=2)
    verdict = outcome.verdict
    assert (outcome.status, verdict["verdict"]) == (0, "PASS"), outcome.printed
    (injection,) = verdict["injections"]
    assert injection["bit"] and injection["ordered"] and injection["clean"], injection
    seen = {piece["name"]: piece["ok"] for piece in injection["evidence"]["pieces"]}
    assert seen.pop("kernel-log") is not False
    assert seen == {"cuda-failing": True, "xid-shown": True}
    (failed,) = probed(outcome.journal, "Model servers that fail")
    assert failed["node"] == "node-a-1" and "returned 46" in failed["message"]
    assert verdict["capacity_rto_s"] is None, "newcomers hear the same"
    assert verdict["gpu_level"] == "emulated"
    assert "GPUs: emulated level, a mock of the GPUs' driver was broken" in outcome.printed


@pytest.mark.whole
def test_the_kv_cache_runs_full_and_the_service_comes_back_by_itself(chaos_run: ChaosRun) -> None:
    outcome = chaos_run("kv-cache-exhaustion.json", before_s=3, hold_s=2, flood_hold_s=2)
    verdict = outcome.verdict
    assert (outcome.status, verdict["verdict"]) == (0, "PASS"), outcome.printed
    (injection,) = verdict["injections"]
    assert injection["fault"] == "kv-cache-exhaustion" and injection["bit"], injection
    full, short = injection["evidence"]["pieces"]
    assert full["ok"] and short["ok"] and "requests waited" in short["seen"]
    name = "P99 of the time to the first token, as the engines measure"
    assert 0 < probed(outcome.journal, name) < 1000
    assert probed(outcome.journal, "Requests that wait") < 100
