"""A run's folder: made and proven writable before anything else."""

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aftershock.errors import InvalidInput
from aftershock.run.folder import RunFolder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_latest_points_at_the_newest_run(tmp_path: Path) -> None:
    first = RunFolder.create("A zone is lost", tmp_path)
    first.point_latest()
    second = RunFolder.create("A zone is lost", tmp_path)
    second.point_latest()
    assert first.path != second.path
    assert (tmp_path / "latest").resolve() == second.path
    assert second.path.name.split("-", 1)[1].startswith("a-zone-is-lost")


def test_a_full_disk_is_said_before_the_run(small_disk: Path) -> None:
    with pytest.raises(InvalidInput, match=r"MiB left and a run needs 64: free some"):
        RunFolder.create("x", small_disk)
    with pytest.raises(InvalidInput, match=r"a run needs 224: free some"):  # two hours more
        RunFolder.create("x", small_disk, soak_s=7200)
    assert list(small_disk.iterdir()) == []


def test_a_read_only_journal_is_said_before_the_run(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro,size=100m", small_disk], check=True)
    with pytest.raises(InvalidInput, match=r"can't be written .*Read-only.*AFTERSHOCK_JOURNAL"):
        RunFolder.create("x", small_disk)


def test_a_file_where_the_journal_should_be(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("not a folder")
    with pytest.raises(InvalidInput, match="can't be written"):
        RunFolder.create("x", tmp_path / "journal")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder.create("x", tmp_path)
    folder.write_json("verdict.json", {"verdict": "PASS"})
    with pytest.raises(TypeError):
        folder.write_json("verdict.json", {("not", "a", "key"): 1})
    assert '"PASS"' in (folder.path / "verdict.json").read_text()
    assert [p.name for p in folder.path.iterdir()] == ["verdict.json"]


def test_activities_side_by_side_write_the_same_file(tmp_path: Path) -> None:
    """A background action and the method write the journal at the same time, as it grows."""
    folder = RunFolder.create("beside", tmp_path)
    journal: dict[str, Any] = {}

    def write(name: str) -> None:
        for number in range(100):
            journal[f"{name}{number}"] = {}
            folder.write_json("journal.json", journal)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(write, name) for name in "abcd"]:
            done.result()
    assert len(json.loads((folder.path / "journal.json").read_text())) == 400
