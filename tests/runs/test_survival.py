"""Killed at moments nobody chose, again and again: `make survival`."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import MARK, marked_processes

from .conftest import CHAOS, command
from .test_nothing_stays import SHORT, kill_all_of

pytestmark = [pytest.mark.root, pytest.mark.survival, pytest.mark.timeout(180)]

LONGEST_S = 22.0


def launched(tmp_path: Path) -> "subprocess.Popen[bytes]":
    with (tmp_path / "printed").open("wb") as log:
        return subprocess.Popen(
            command("az-failure.json", SHORT),
            cwd=tmp_path,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def recovers(tmp_path: Path) -> None:
    """`aftershock recover` finds its way from anywhere, and nothing is left the second time."""
    aftershock = CHAOS.with_name("aftershock")
    first = subprocess.run([aftershock, "recover"], cwd="/", capture_output=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    again = subprocess.run([aftershock, "recover"], capture_output=True, text=True, check=False)
    assert "Nothing was left behind" in again.stdout


@pytest.mark.parametrize("seed", range(20))
def test_the_controller_is_killed_at_any_moment(tmp_path: Path, seed: int) -> None:
    moment = random.Random(seed).uniform(0.2, LONGEST_S)
    with launched(tmp_path) as process:
        time.sleep(moment)
        process.kill()
    recovers(tmp_path)


@pytest.mark.parametrize("seed", range(10))
def test_everything_is_killed_at_any_moment(tmp_path: Path, seed: int) -> None:
    moment = random.Random(1000 + seed).uniform(0.2, LONGEST_S)
    with launched(tmp_path):
        time.sleep(moment)
        kill_all_of(os.environ[MARK])
    recovers(tmp_path)


@pytest.mark.parametrize("seed", range(10))
def test_one_of_its_processes_is_killed_at_any_moment(tmp_path: Path, seed: int) -> None:
    """A part dies, the run goes on or ends: never a PASS that hides it, never something left."""
    rng = random.Random(2000 + seed)
    with launched(tmp_path) as process:
        time.sleep(rng.uniform(3.5, LONGEST_S))
        victims = sorted(set(marked_processes(os.environ[MARK])) - {process.pid})
        if victims:
            os.kill(rng.choice(victims), signal.SIGKILL)
        process.wait(timeout=120)
    assert b"Traceback" not in (tmp_path / "printed").read_bytes()
