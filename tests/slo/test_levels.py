"""Levels files: what ships is sound, and a bad one is refused with the key and the mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from simulate import EFFECT, LAB, timeline_with

from aftershock.errors import InvalidInput
from aftershock.slo.levels import load_levels, parse_levels
from aftershock.slo.objectives import NoMeasurement, decided, violations, within
from aftershock.slo.timeline import Timeline

SOUND: dict[str, Any] = {
    "target": "t",
    "service_rto_s": 15,
    "golden": {"p99_latency_ms": 500, "error_rate": 0.01},
    "tolerated": {"p99_latency_ms": 1000, "error_rate": 0.02},
}


def test_the_owners_levels() -> None:
    owner = load_levels("owner")
    assert owner.golden["p99_latency_ms"] == 500 and owner.tolerated["p99_latency_ms"] == 1000
    assert owner.golden["throughput_rps"] == 2000 and owner.tolerated["throughput_rps"] == 1500
    assert owner.bound("gpu_utilisation_percent", "golden") == 85
    assert owner.bound("gpu_utilisation_percent", "tolerated") == 95
    assert (owner.service_rto_s, owner.limit_s, owner.metric) == (15, 1.0, "ttft")
    assert load_levels("lab").metric == "e2e"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"golden": None}, "golden is missing"),
        ({"speed": 3}, "unknown key 'speed'"),
        ({"metric": "itl"}, "metric is 'itl'; give e2e or ttft"),
        ({"service_rto_s": -1}, "service_rto_s is -1"),
        ({"service_rto_s": None}, "service_rto_s is None"),
        ({"golden": {"p99_latency_ms": 500}}, "golden.error_rate is missing"),
        ({"golden": {**SOUND["golden"], "p99": 1}}, "unknown key golden.p99"),
        ({"golden": {**SOUND["golden"], "error_rate": 2}}, "golden.error_rate is 2; give 0 to 1"),
        ({"golden": {**SOUND["golden"], "error_rate": "1 %"}}, "golden.error_rate is '1 %'"),
        ({"golden": {**SOUND["golden"], "p99_latency_ms": 2000}}, "laxer than tolerated"),
    ],
)
def test_a_bad_levels_file_names_the_key(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    file = tmp_path / "levels.yaml"
    file.write_text(yaml.safe_dump({**SOUND, **change}))
    with pytest.raises(InvalidInput, match=said.replace(".", r"\.")):
        load_levels(file)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"No such file.*give a path, lab, hosts or owner"):
        load_levels(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InvalidInput, match="not YAML"):
        load_levels(tmp_path / "bad.yaml")
    with pytest.raises(InvalidInput, match="expected keys"):
        parse_levels([], "x")


def test_within_reads_the_last_decided_seconds() -> None:
    gauges = {
        "gpu_utilisation_percent": {
            "a1": [(at / 2, 40.0) for at in range(12)],
            "b1": [(at / 2, 90.0) for at in range(12)],
        }
    }
    timeline = timeline_with([], end=6, gauges=gauges)
    reading = within(timeline, LAB, "p99_latency_ms", "golden")
    assert reading.ok and reading.value == pytest.approx(100, rel=0.02)
    assert reading.samples == pytest.approx(300, abs=80)
    gpu = within(timeline, LAB, "gpu_utilisation_percent", "golden")
    assert (gpu.ok, gpu.value, gpu.samples) == (False, 90.0, 2)
    assert within(timeline, LAB, "gpu_utilisation_percent", "tolerated").ok
    assert within(timeline, LAB, "served_share", "golden").value == 1.0
    with pytest.raises(NoMeasurement, match="gpu_memory_used_percent: nothing measured"):
        within(timeline, LAB, "gpu_memory_used_percent", "golden")
    dead = timeline_with([(0, 6, 1)], end=6)
    with pytest.raises(NoMeasurement, match="requests was answered"):
        within(dead, LAB, "p99_latency_ms", "golden")
    with pytest.raises(InvalidInput, match="add one"):
        within(timeline, LAB, "throughput_rps", "golden")
    with pytest.raises(InvalidInput, match="indicator 'speed'"):
        within(timeline, LAB, "speed", "golden")
    with pytest.raises(NoMeasurement):
        within(Timeline(), LAB, "error_rate", "golden")


def test_violations_name_value_and_bound() -> None:
    timeline = timeline_with([(0, 5, 1 / 3)], end=6)
    said = " ".join(violations(timeline, LAB, "tolerated", EFFECT, EFFECT + 5))
    assert "error_rate 0.3" in said and "(wanted ≤ 0.02)" in said
    assert "health" in said and "served_share" in said
    assert violations(timeline, LAB, "tolerated", EFFECT - 6, EFFECT - 1) == []


def test_what_was_decided_long_ago_measures_nothing() -> None:
    timeline = timeline_with([], end=10)
    horizon = timeline.horizon()
    assert decided(timeline, horizon + 14, 15) == horizon
    with pytest.raises(NoMeasurement, match="no request was decided for 16 s"):
        decided(timeline, horizon + 16, 15)
    with pytest.raises(NoMeasurement, match="no request was decided yet"):
        decided(Timeline(), horizon, 15)
