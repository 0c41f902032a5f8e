"""An experiment from its command to its verdict, on a kernel that has netem."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.runs.conftest import Outcome, command

pytestmark = [pytest.mark.root, pytest.mark.survival]
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
    levels = tmp_path / "levels.yaml"
    levels.write_text(yaml.safe_dump(LEVELS))
    told = {"levels": levels, "load_rps": 12, "before_s": 5, "hold_s": 12, "grace_s": 60}
    done = subprocess.run(
        command("network-degradation.json", {**told, "lease_s": 200, "rto_objective_s": 60}),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=360,
        check=False,
    )
    latest = Path(os.environ["AFTERSHOCK_JOURNAL"]) / "latest"
    verdict = Outcome(done.returncode, done.stdout, latest.resolve()).verdict
    assert (done.returncode, verdict["verdict"]) == (0, "PASS"), done.stdout
    (delay,) = verdict["injections"]
    assert delay["fault"] == "delay" and delay["hosts"] == ["node-a-1", "node-a-2"]
    assert delay["bit"] and delay["clean"] and delay["ordered"], delay
    slower = [piece for piece in delay["evidence"]["pieces"] if piece["name"] == "slower"]
    assert len(slower) == 2 and all(piece["ok"] for piece in slower), slower
    assert not verdict["leftovers"]
