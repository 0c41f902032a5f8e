"""`chaos run` as a user types it, with short holds, and what came of it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHAOS = Path(sys.executable).with_name("chaos")
# Half of what the lab is asked by default, and no golden prompts: that is most of what a run costs.
QUICK = {"before_s": 3, "hold_s": 2, "lease_s": 60, "sentinel_rps": 100, "quality_rps": 0}


@dataclass
class Outcome:
    """What a run left: exit status, what it printed, and its folder."""

    status: int
    printed: str
    folder: Path | None

    @property
    def verdict(self) -> dict[str, Any]:
        """verdict.json."""
        assert self.folder, self.printed
        return dict(json.loads((self.folder / "verdict.json").read_text()))

    @property
    def journal(self) -> dict[str, Any]:
        """Chaos Toolkit's journal, as it stands in the run's folder."""
        assert self.folder, self.printed
        return dict(json.loads((self.folder / "journal.json").read_text()))

    @property
    def codes(self) -> set[str]:
        """The codes of all reasons."""
        return {reason["code"] for reason in self.verdict["reasons"]}

    @property
    def was_disturbed(self) -> bool:
        """Whether this machine was too busy to measure: no fault was fired, or load came late."""
        if not (self.folder and (self.folder / "verdict.json").exists()):
            return False
        if self.verdict["verdict"] != "INCONCLUSIVE":
            return False
        unsteady = "no_steady_state" in self.codes and not self.verdict["injections"]
        return unsteady or "off_schedule" in self.codes

    @property
    def reasons(self) -> str:
        """All reasons in one text."""
        return "\n".join(reason["text"] for reason in self.verdict["reasons"])


ChaosRun = Callable[..., Outcome]


def free_port() -> int:
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        return int(plug.getsockname()[1])


def command(
    experiment: str | Path, variables: dict[str, Any], options: Sequence[str] = ()
) -> list[str]:
    """The command line of a run."""
    path = experiment if isinstance(experiment, Path) else ROOT / "experiments" / experiment
    given = {**QUICK, "gateway_port": free_port(), **variables}
    told = [f"--var={name}={value}" for name, value in given.items()]
    return [str(CHAOS), "run", str(path), *told, *options]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def chaos_run(tmp_path: Path, journal: Path) -> ChaosRun:
    """Run an experiment to its end from a directory of its own.

    Once more where the machine was too busy, unless that is what the test is about (`once`).
    """
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")

    def run(*words: Any, once: bool = False, **more: Any) -> Outcome:
        outcome = play(*words, **more)
        if once or not outcome.was_disturbed:
            return outcome
        print(outcome.printed)
        return play(*words, **more)

    def play(
        experiment: str | Path,
        *before: str,
        timeout_s: float = 150,
        options: Sequence[str] = (),
        **variables: Any,
    ) -> Outcome:
        done = subprocess.run(
            [*before, *command(experiment, variables, options)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        latest = journal / "latest"
        return Outcome(done.returncode, done.stdout, latest.resolve() if latest.exists() else None)

    return run
