"""A part of Aftershock dies while the fault is active: the run must not pass as if nothing was."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import MARK, marked_processes

from .test_nothing_stays import started, wait_for

pytestmark = [pytest.mark.root, pytest.mark.whole, pytest.mark.timeout(150)]


@pytest.mark.parametrize(
    ("words", "codes"),
    [
        (("--host node-a-1",), {"healed_early"}),
        (("-m locust",), {"gap", "not_held", "activity_failed", "not_measured", "no_load"}),
        (("aftershock.load.sentinel",), {"gap", "not_held", "activity_failed", "not_measured"}),
    ],
    ids=["the agent in the zone", "the load generator", "the sentinel"],
)
def test_no_pass_without_it(
    tmp_path: Path, journal: Path, words: tuple[str, ...], codes: set[str]
) -> None:
    with started(tmp_path, hold_s=6) as process:
        wait_for(process, journal, "back")
        victims = [
            pid
            for pid, command in marked_processes(os.environ[MARK]).items()
            if all(word in command for word in words) and "nsenter" not in command.split()[0]
        ]
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        status = process.wait(timeout=120)
    verdict = json.loads((journal / "latest" / "verdict.json").read_text())
    assert status != 0
    assert verdict["verdict"] != "PASS", (tmp_path / "printed").read_text()
    assert codes & {reason["code"] for reason in verdict["reasons"]}, verdict["reasons"]
    assert "Traceback" not in (tmp_path / "printed").read_text()
