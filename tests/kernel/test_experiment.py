"""An experiment from its command to its verdict, on a kernel that has netem."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.runs.conftest import ROOT, Outcome, command

pytestmark = [pytest.mark.root, pytest.mark.survival]
CGROUPS = "/sys/fs/cgroup"
GPU = {"gpu_utilisation_percent": 95, "gpu_memory_used_percent": 95}
# A guest has one slow CPU for all zones, the load and the agents.
LEVELS = {
    "target": "the lab on a guest kernel",
    "service_rto_s": 60,
    "golden": {"p99_latency_ms": 8000, "error_rate": 0.01, "served_share": 0.5, **GPU},
    "tolerated": {"p99_latency_ms": 10000, "error_rate": 0.02, "served_share": 0.4, **GPU},
}


@pytest.mark.one_kernel
@pytest.mark.timeout(400)
def test_packets_that_are_late_reach_the_verdict(tmp_path: Path) -> None:
    (delay,) = passed("network-degradation.json", tmp_path)["injections"]
    assert delay["fault"] == "delay" and delay["hosts"] == ["node-a-1", "node-a-2"]
    assert delay["bit"] and delay["clean"] and delay["ordered"], delay
    slower = [piece for piece in delay["evidence"]["pieces"] if piece["name"] == "slower"]
    assert len(slower) == 2 and all(piece["ok"] for piece in slower), slower


@pytest.mark.one_kernel("tcx")  # whose dm-flakey can let reads alone fail
@pytest.mark.timeout(400)
def test_reads_that_fail_reach_the_verdict(tmp_path: Path, cgroups: None) -> None:
    before = devices()
    verdict = passed("storage-errors.json", tmp_path)
    errors, kill = verdict["injections"]
    assert errors["fault"] == "io-errors" and errors["hosts"] == ["node-a-1"]
    assert errors["bit"] and errors["clean"] and errors["ordered"] and kill["bit"], errors
    pieces = errors["evidence"]["pieces"]
    assert any("a read: EIO" in piece["seen"] and piece["ok"] for piece in pieces), pieces
    assert any(piece["name"] == "after" for piece in pieces), pieces
    ready = [one["ready_s"] for one in verdict["replacements"] if one["ready_s"] is not None]
    healed = errors["per_host"]["node-a-1"]["reverted_at_monotonic_s"]
    healed_s = healed - errors["fired_at_monotonic_s"]
    assert ready and min(ready) > healed_s, "none can load its weights before"
    assert devices() == before


@pytest.mark.one_kernel
@pytest.mark.timeout(400)
def test_reads_that_are_late_reach_the_verdict(tmp_path: Path, cgroups: None) -> None:
    before = devices()
    exactly = {"by": "dm-delay", "read_ms": 50, "volume_mapped": True, "where": "node-a-1"}
    verdict = passed("storage-latency.json", tmp_path, **exactly)
    delay, kill = verdict["injections"]
    assert delay["fault"] == "io-delay" and delay["hosts"] == ["node-a-1"]
    assert delay["bit"] and delay["clean"] and delay["ordered"] and kill["bit"], delay
    (replacement,) = verdict["replacements"]
    took = replacement["ready_s"] - replacement["started_s"]
    assert took > 1.0 + 24 * 0.05, "a second to start, and a wait for each MiB at the least"
    assert devices() == before


@pytest.mark.one_kernel
@pytest.mark.timeout(800)
def test_files_that_are_late_make_a_pass_only_where_somebody_opens_them(
    tmp_path: Path, cgroups: None
) -> None:
    before = devices()
    told = {"volume_mib": 128, "read_ms": 50}
    verdict = passed(opening(tmp_path, "kill_pods"), tmp_path, **told)
    late, kill = verdict["injections"]
    assert late["fault"] == "file-delay" and late["felt"] and kill["bit"], late
    assert late["bit"] and late["clean"] and late["ordered"], late
    (replacement,) = verdict["replacements"]
    assert replacement["ready_s"] - replacement["started_s"] > 1.0 + 24 * 0.05, replacement
    unmet = played(opening(tmp_path), tmp_path, **told)
    (late,) = unmet.verdict["injections"]
    assert late["bit"] and late["felt"] is False, late
    assert unmet.verdict["verdict"] == "INCONCLUSIVE" and unmet.codes == {"not_felt"}
    assert "file-delay on node-a-1: nobody but Aftershock itself met it" in unmet.reasons
    assert devices() == before


def opening(tmp_path: Path, *kept: str) -> Path:
    """storage-latency.json with late files in the place of a slow disk; `kept` of what follows."""
    experiment = json.loads((ROOT / "experiments" / "storage-latency.json").read_text())
    method = {one["provider"]["func"]: one for one in experiment["method"]}
    slow = method["slow_io"]
    slow["provider"]["func"] = "delay_files"
    slow["provider"]["arguments"] = {
        "where": "node-a-1",
        "path": "${path}",
        "read_ms": "${read_ms}",
        "read_only": True,
        "lease_s": "${lease_s}",
    }
    more = ("service_recovered", "heal_storage", "failed_back")
    experiment["method"] = [slow, *(method[name] for name in (*kept, *more))]
    path = tmp_path / "late-files.json"
    path.write_text(json.dumps(experiment))
    return path


@pytest.fixture
def cgroups() -> Iterator[None]:
    """A hierarchy of version 2, which the lab's volumes want, where the kernel has none yet."""
    if any(Path(CGROUPS).iterdir()):
        yield
        return
    subprocess.run(["mount", "-t", "cgroup2", "none", CGROUPS], check=True)
    yield
    subprocess.run(["umount", CGROUPS], check=True)


def devices() -> str:
    """Device-mapper's devices, and loop devices."""
    words = (["dmsetup", "ls"], ["losetup", "--list"])
    return "".join(subprocess.check_output(one, text=True) for one in words)


def passed(experiment: str | Path, tmp_path: Path, **more: Any) -> dict[str, Any]:
    """The verdict of a run that passes and leaves nothing."""
    outcome = played(experiment, tmp_path, **more)
    assert (outcome.status, outcome.verdict["verdict"]) == (0, "PASS"), outcome.printed
    assert not outcome.verdict["leftovers"]
    return outcome.verdict


def played(experiment: str | Path, tmp_path: Path, **more: Any) -> Outcome:
    """A run, on a machine that is slow; once more where it was too busy for one."""
    outcome = play(experiment, tmp_path, **more)
    return play(experiment, tmp_path, **more) if outcome.was_disturbed else outcome


def play(experiment: str | Path, tmp_path: Path, **more: Any) -> Outcome:
    """A run."""
    levels = tmp_path / "levels.yaml"
    levels.write_text(yaml.safe_dump(LEVELS))
    told = {"levels": levels, "load_rps": 12, "before_s": 5, "hold_s": 12, "grace_s": 60, **more}
    done = subprocess.run(
        command(experiment, {**told, "lease_s": 200, "rto_objective_s": 60}),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=360,
        check=False,
    )
    latest = Path(os.environ["AFTERSHOCK_JOURNAL"]) / "latest"
    assert latest.exists(), done.stdout
    return Outcome(done.returncode, done.stdout, latest.resolve())
