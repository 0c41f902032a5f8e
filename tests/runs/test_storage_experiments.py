"""Storage's experiments on the lab: a zone's own volume is slow or full, and what comes of it."""

import shutil
from typing import Any

import pytest

from .conftest import ChaosRun

pytestmark = [pytest.mark.root, pytest.mark.whole, pytest.mark.timeout(200)]


@pytest.mark.skipif(not shutil.which("fio"), reason="there is no fio: apt-get install fio")
def test_a_replica_that_starts_from_a_busy_disk_takes_longer(chaos_run: ChaosRun) -> None:
    outcome = chaos_run("storage-latency.json", volume_mib_s=40)
    verdict = outcome.verdict
    assert (outcome.status, verdict["verdict"]) == (0, "PASS"), outcome.printed
    pressure, kill = verdict["injections"]
    ended_well(pressure, "io-pressure", ["node-a-1", "node-a-2"])
    assert kill["bit"], kill
    before, during, after = latencies(outcome.journal)
    assert max(p50(during)) > 2 * max(p50(before)) and max(p50(after)) < max(p50(during))
    for host in pressure["per_host"].values():
        assert host["seen"][0]["fio"]["read"]["p99_ms"] > 0
    (replacement,) = verdict["replacements"]
    took = replacement["ready_s"] - replacement["started_s"]
    assert took > 1.0 + 2 * 24 / 40, "a second to start, and 24 MiB at half of 40 MiB/s at most"


def latencies(journal: dict[str, Any]) -> list[dict[str, Any]]:
    """What the probes of latency said, in order."""
    runs = [run for run in journal["run"] if "latency" in run["activity"]["name"]]
    return [run["output"] for run in runs]


def p50(told: dict[str, Any]) -> list[float]:
    return [one["read"]["p50_ms"] for one in told.values()]


def test_a_full_disk_of_a_zone(chaos_run: ChaosRun) -> None:
    outcome = chaos_run("disk-full.json")
    assert (outcome.status, outcome.verdict["verdict"]) == (0, "PASS"), outcome.printed
    (injection,) = outcome.verdict["injections"]
    ended_well(injection, "disk-full", ["node-a-1", "node-a-2"])
    seen = [piece["seen"] for piece in injection["evidence"]["pieces"]]
    assert sum("/dev/shm/volumes/az-a" in one for one in seen) == 2
    assert sum("ENOSPC" in one for one in seen) == 2


def ended_well(injection: dict[str, Any], fault: str, hosts: list[str]) -> None:
    assert (injection["fault"], injection["hosts"]) == (fault, hosts)
    assert injection["bit"] and injection["ordered"] and injection["clean"], injection
