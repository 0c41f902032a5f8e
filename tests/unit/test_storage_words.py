"""Storage faults and looks from an experiment's words."""

import json
from pathlib import Path
from typing import Any

import pytest

from aftershock.agent.pressing import summary
from aftershock.agent.remapping import swapped
from aftershock.agent.volumes import Volume
from aftershock.errors import InvalidFault
from aftershock.faults.failing import IoErrors
from aftershock.inventory import Node
from aftershock.run.foresight import Foresight
from aftershock.run.settings import Settings
from aftershock.run.storage import path_on, percentiles
from aftershock.run.target import Target

LATENCY = Path(__file__).parents[2] / "experiments" / "storage-latency.json"


def test_percentiles_are_times_that_were_measured() -> None:
    told = percentiles([float(ms) for ms in range(1, 101)])
    assert told == {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "max_ms": 100}
    assert percentiles([3.0]) == {"p50_ms": 3, "p90_ms": 3, "p99_ms": 3, "max_ms": 3}


def test_each_host_has_its_own_path() -> None:
    node = Node("node-a-1", "az-a", ())
    assert path_on(node, "/mnt/{zone}/{node}") == "/mnt/az-a/node-a-1"
    assert path_on(node, "/mnt/{other}") == "/mnt/{other}"


@pytest.mark.parametrize("said", ["", "fio: no space", "{", '{\n"jobs": []}'])
def test_a_fio_that_told_nothing_is_said_to(said: str) -> None:
    assert "told nothing" in summary(said)["why"]


def test_the_last_that_fio_told_counts() -> None:
    def told(iops: float) -> str:
        percentile = f'{{"percentile": {{"99.000000": {iops * 1e6}}}, "mean": 1000000}}'
        read = f'{{"total_ios": 5, "iops": {iops}, "bw_bytes": 1048576, "clat_ns": {percentile}}}'
        return f'{{\n"jobs": [{{"read": {read}, "write": {{"total_ios": 0}}}}]}}\n'

    found = summary("fio: note\n" + told(10) + told(20) + "fio: killed\n{\n")
    assert found == {"read": {"iops": 20, "mib_per_s": 1.0, "mean_ms": 1.0, "p99_ms": 20.0}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"operation": "erase"}, "read, write, both"),
        ({"operation": "both"}, "read-only or shut down from then on"),
        ({"down_s": 0}, "down_s 0: from 1 to 30"),
        ({"up_s": 31}, "up_s 31: from 0 to 30"),
    ],
)
def test_errors_that_make_no_sense_are_refused(words: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidFault, match=said):
        IoErrors("/mnt", **words)  # type: ignore[arg-type]


def test_a_linear_part_that_fails_by_turns() -> None:
    options = IoErrors("/mnt", up_s=3, down_s=2).options()
    volume = Volume("/mnt", "/mnt", "/dev/mapper/x", "ext4", "253:0", "")
    line = swapped("fail", "flakey", volume, "2048 65536 linear 7:0 384", options)
    assert line == "2048 65536 flakey 7:0 384 3 2 1 error_reads"
    assert swapped("fail", "error", volume, "8 64 linear 7:0 384", options) == "8 64 error"


def slowed(**told: Any) -> list[str]:
    """What storage-latency.json would slow down, told this, on the lab."""
    experiment = json.loads(LATENCY.read_text())
    configuration = {**experiment["configuration"], "target": "lab", "where": "node-a-1", **told}
    settings = Settings.from_configuration(configuration)
    (slow,) = [one for one in experiment["method"] if one["provider"]["func"] == "slow_io"]
    return Foresight(settings, Target(settings)).touches(slow, configuration)


def test_a_disk_is_slowed_down_by_what_is_named() -> None:
    assert slowed() == ["io-pressure on node-a-1 (az-a)"]
    exactly = {"by": "dm-delay", "volume_mapped": True}
    assert slowed(**exactly, read_ms="20") == ["io-delay on node-a-1 (az-a)"]
    with pytest.raises(InvalidFault, match="give read_ms or write_ms"):
        slowed(**exactly)
    with pytest.raises(InvalidFault, match="no device-mapper devices: set volume_mapped to true"):
        slowed(by="dm-delay", read_ms=20)
    with pytest.raises(InvalidFault, match="read_ms and write_ms are dm-delay's"):
        slowed(read_ms=20)
    with pytest.raises(InvalidFault, match="by 'dm-crypt': fio or dm-delay"):
        slowed(by="dm-crypt")
