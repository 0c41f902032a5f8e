"""Whatever ends a run, nothing of it stays: done for real, in each phase.

That nothing stayed is checked by the fixture that every test has (tests/conftest.py).
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MARK, as_found, marked_processes

from .conftest import command

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

PHASES = ["lab", "steady", "arming", "FIRED", "back", "reverting", "failback", "stopping"]
# What comes of the load is nobody's question here.
SHORT = {"lease_s": 45, "load_rps": 20, "sentinel_rps": 50}
SIGNALS = {"ctrl-c": signal.SIGINT, "sigterm": signal.SIGTERM}


def _whole_but(phase: str) -> Any:
    return () if phase == "FIRED" else pytest.mark.whole


# Each phase with one of the two, by turns; `make survival` plays the others.
TURNS = [
    pytest.param(phase, name, marks=pytest.mark.survival if (at + turn) % 2 else _whole_but(phase))
    for at, phase in enumerate(PHASES)
    for turn, name in enumerate(SIGNALS)
]


@contextmanager
def started(tmp_path: Path, **variables: object) -> Iterator["subprocess.Popen[str]"]:
    """A run in a process group of its own, as a terminal's foreground job is."""
    log = (tmp_path / "printed").open("w")
    with subprocess.Popen(
        command("az-failure.json", {**SHORT, **variables}),
        cwd=tmp_path,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            log.close()


def wait_for(process: "subprocess.Popen[str]", journal: Path, phase: str) -> None:
    """Return as soon as the run has entered a phase."""
    needle = f'"mark":"phase:{phase}"'
    deadline = time.monotonic() + 60
    timeline = journal / "latest" / "timeline.jsonl"
    while time.monotonic() < deadline:
        if timeline.exists() and needle in timeline.read_text():
            return
        assert process.poll() is None, (journal.parent / "printed").read_text()
        time.sleep(0.005)
    raise AssertionError(f"no phase {phase}")


@pytest.mark.parametrize(("phase", "name"), TURNS)
def test_a_signal_in_each_phase(tmp_path: Path, journal: Path, phase: str, name: str) -> None:
    with started(tmp_path) as process:
        wait_for(process, journal, phase)
        os.killpg(process.pid, SIGNALS[name])
        status = process.wait(timeout=30)
    printed = (tmp_path / "printed").read_text()
    assert "Traceback" not in printed, printed
    verdict = json.loads((journal / "latest" / "verdict.json").read_text())
    if phase == "stopping":  # all was decided by then
        assert (status == 0) == (verdict["verdict"] == "PASS")
        return
    assert status != 0
    assert verdict["verdict"] != "PASS"
    assert "interrupted" in {reason["code"] for reason in verdict["reasons"]}
    for injection in verdict["injections"]:
        assert injection["clean"], injection


def kill_all_of(mark: str) -> None:
    """SIGKILL to every process of this test, in no order."""
    for pid in marked_processes(mark):
        with suppress(ProcessLookupError):  # the lab's go with its init
            os.kill(pid, signal.SIGKILL)


@pytest.mark.whole
def test_a_second_ctrl_c_during_rollbacks_cuts_nothing_short(tmp_path: Path, journal: Path) -> None:
    with started(tmp_path) as process:
        wait_for(process, journal, "FIRED")
        os.killpg(process.pid, signal.SIGINT)
        for _ in range(20):
            time.sleep(0.02)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) != 0
    printed = (tmp_path / "printed").read_text()
    assert "Traceback" not in printed, printed
    verdict = json.loads((journal / "latest" / "verdict.json").read_text())
    assert all(injection["clean"] for injection in verdict["injections"])


@pytest.mark.whole
@pytest.mark.parametrize("phase", ["lab", "steady", "reverting", "failback"])
def test_sigkill_of_the_controller(tmp_path: Path, journal: Path, phase: str) -> None:
    with started(tmp_path) as process:
        wait_for(process, journal, phase)
        process.kill()
        process.wait(timeout=5)


def test_sigkill_of_everything_at_once(tmp_path: Path, journal: Path) -> None:
    with started(tmp_path) as process:
        wait_for(process, journal, "FIRED")
        kill_all_of(os.environ[MARK])
        process.wait(timeout=5)


def test_recover_says_what_became_of_a_killed_run(tmp_path: Path, journal: Path) -> None:
    """In mid-fault; nothing of it stayed even before."""
    with as_found(os.environ[MARK]), started(tmp_path) as process:
        wait_for(process, journal, "FIRED")
        process.kill()
        process.wait(timeout=5)
    recover = Path(command("az-failure.json", {})[0]).with_name("aftershock")
    done = subprocess.run(
        [recover, "recover"], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "partition" in done.stdout
    verdict = json.loads((journal / "latest" / "verdict.json").read_text())
    assert verdict["verdict"] == "INCONCLUSIVE"
    again = subprocess.run([recover, "recover"], capture_output=True, text=True, check=False)
    assert "Nothing was left behind" in again.stdout
