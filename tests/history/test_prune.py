"""`aftershock journal prune`: what goes, and what never does."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.history.conftest import INJECTION, Command, Made


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def left(paths: Iterable[Path]) -> list[bool]:
    return [path.exists() for path in paths]


def test_old_passes_go_and_the_rest_stays(made: Made, root: Path, aftershock: Command) -> None:
    passed = [made(2.0) for _ in range(4)]
    missed = made(20.0)
    inconclusive = made(2.0, injections=[{**INJECTION, "bit": False}])
    running = made(2.0)
    (running / "verdict.json").unlink()
    other = made(2.0, experiment="pod-kill")
    newest = [made(2.0) for _ in range(2)]
    (root / "notes").mkdir()
    (root / "latest").symlink_to(passed[1].name)  # somebody else's, or of another experiment
    before = names(root)

    status, printed, _ = aftershock("journal", "prune", "--keep-last", "2", "--dry-run")
    assert status == 0 and printed.count("would be removed") == 3 and names(root) == before
    status, printed, _ = aftershock("journal", "prune", "--keep-last", "2")
    assert status == 0
    assert left(passed) == [False, True, False, False]
    assert all(left([missed, inconclusive, running, other, *newest, root / "notes"]))
    assert "2 did not pass" in printed and "2 not readable as a run" in printed
    assert not [name for name in names(root) if name.startswith(".")]

    status, printed, _ = aftershock("journal", "prune", "--keep-last", "1", "--failed")
    assert left([missed, inconclusive, newest[0]]) == [False] * 3
    assert all(left([running, other, newest[1], passed[1]]))


def test_a_run_that_either_rule_keeps_stays(made: Made, aftershock: Command) -> None:
    runs = [made(2.0) for _ in range(3)]
    assert aftershock("journal", "prune", "--keep-last", "1", "--keep-for", "5000w")[0] == 0
    assert all(left(runs))
    assert aftershock("journal", "prune", "--keep-last", "2", "--keep-for", "1s")[0] == 0
    assert left(runs) == [False, True, True]
    assert aftershock("journal", "prune", "--keep-for", "1s")[0] == 0
    assert left(runs) == [False, False, True]


def test_a_thinned_run_counts_on(made: Made, aftershock: Command) -> None:
    runs = [made(2.0) for _ in range(2)]
    for run in runs:
        (run / "timeline.jsonl").write_text("x" * 100_000)
        (run / "logs").mkdir()
        (run / "logs" / "load.log").write_text("y")
    status, printed, _ = aftershock("journal", "prune", "--keep-last", "1", "--thin")
    assert status == 0 and "0.1 MB freed" in printed
    assert names(runs[0]) == {"verdict.json"}
    assert names(runs[1]) == {"verdict.json", "timeline.jsonl", "logs"}
    assert "2 of 2 runs" in aftershock("rto")[1]


def test_nothing_outside_the_journal_is_followed(made: Made, root: Path, tmp_path: Path,
                                                 aftershock: Command) -> None:  # fmt: skip
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    old = made(2.0)
    (old / "logs").symlink_to(outside)
    made(2.0).rename(tmp_path / "20250101T000000Z-az-failure")
    (root / "20250101T000000Z-az-failure").symlink_to(tmp_path / "20250101T000000Z-az-failure")
    made(2.0)
    assert aftershock("journal", "prune", "--keep-for", "1s")[0] == 0
    assert not old.exists() and (outside / "kept").exists()
    assert (tmp_path / "20250101T000000Z-az-failure" / "verdict.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say what to keep: --keep-last 20"),
        (("--keep-last", "0"), "the last run always stays"),
        (("--keep-for", "soon"), "give one like 15s"),
    ],
)
def test_bad_retention_removes_nothing(
    made: Made, aftershock: Command, arguments: tuple[str, ...], words: str
) -> None:
    runs = [made(2.0) for _ in range(2)]
    status, _, complained = aftershock("journal", "prune", *arguments)
    assert status == 1 and words in complained and len(complained.splitlines()) == 1
    assert all(left(runs))


def test_what_cannot_be_removed_is_told(made: Made, root: Path, aftershock: Command) -> None:
    if os.geteuid() != 0:
        pytest.skip("a mount needs root")
    stuck, goes, _ = made(2.0), made(2.0), made(2.0)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", stuck], check=True)
    try:
        (stuck / "verdict.json").write_text((goes / "verdict.json").read_text())
        status, printed, complained = aftershock("journal", "prune", "--keep-last", "1")
    finally:
        subprocess.run(["umount", stuck], check=True)
    assert status == 1 and f"{stuck.name} can't be removed" in printed
    assert not goes.exists() and "1 of 2 runs can't be removed" in complained
