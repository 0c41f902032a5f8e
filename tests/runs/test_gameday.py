"""A game day on the lab, from its first run to its page; and one that loses its controllers."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftershock import ledger
from aftershock.gameday.record import Told, days
from aftershock.lock import HostLock, holders
from aftershock.run.alone import name_of

from .conftest import CHAOS, QUICK, ROOT, ChaosRun, free_port

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]
AFTERSHOCK = CHAOS.with_name("aftershock")


def until(truth: Callable[[], Any], within_s: float = 90.0) -> Any:
    """Wait until it is true."""
    end = time.monotonic() + within_s
    while not (found := truth()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)
    return found


def plan(folder: Path, *experiments: dict[str, Any], **more: Any) -> Path:
    listed = [{**one, "file": str(ROOT / "experiments" / one["file"])} for one in experiments]
    told = {
        "title": "A day on the lab",
        "owner": "Ops",
        "variables": {**QUICK, "gateway_port": free_port()},
        "experiments": listed,
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**told, **more}))
    return path


def started(path: Path) -> "subprocess.Popen[bytes]":
    with (path.parent / "printed").open("ab") as log:
        return subprocess.Popen(
            [AFTERSHOCK, "gameday", "run", path],
            cwd=path.parent,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def told() -> Told:
    return next((told for _, told in reversed(list(days()))), Told())


@pytest.mark.whole
def test_a_day_of_three_goes_on_after_a_crash_and_is_aborted_in_mid_fault(tmp_path: Path) -> None:
    path = plan(
        tmp_path,
        {
            "name": "kill",
            "file": "pod-kill.json",
            "rto": "15s",
            "choose": {"zone": ["az-b", "all"]},
        },
        {
            "name": "partition",
            "file": "network-partition.json",
            "pause": "3s",
            "gates": [{"name": "Error budget left", "command": "echo 0.02", "at_least": 0.2}],
        },
        {"name": "zone", "file": "az-failure.json", "gates": [{"alone": True}]},
    )
    with started(path) as first:  # which dies between two experiments
        until(lambda: any(one["event"] == "pause" for one in told().events))
        first.kill()
        first.wait()
    assert told().ended is None and [run.verdict for run in told().runs.values()] == ["PASS"]
    with started(path) as second:
        fired = until(
            lambda: [
                one
                for run in ledger.runs()
                for one in run.injections.values()
                if one.get("state") == "fired"
            ]
        )
        assert fired
        done = subprocess.run(
            [AFTERSHOCK, "gameday", "abort", "--why", "enough seen"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "it ends: the current run is being healed" in done.stdout, done.stderr
        assert second.wait(120) == 1
    ((folder, day),) = days()
    verdicts = {run.key: run.verdict for run in day.runs.values()}
    assert verdicts == {"01-kill": "PASS", "02-partition": "SKIPPED", "03-zone": "INCONCLUSIVE"}
    assert "enough seen" in day.stopped and day.runs["02-partition"].why.endswith(
        "(0.02, below 0.2)"
    )
    aborted = json.loads((folder / "runs/03-zone/verdict.json").read_text())
    assert aborted["leftovers"] == [] and aborted["injections"]
    assert all(one["reverted"] and one["clean"] for one in aborted["injections"])
    assert not list(ledger.runs()) and not holders(), "nothing is open, and nothing held"
    page = (folder / "day.html").read_text()
    assert "1 of 3 runs passed" in page and 'href="runs/01-kill/report.html"' in page
    assert (folder / "runs/01-kill/report.html").exists()
    counted = subprocess.run(
        [AFTERSHOCK, "rto"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "pod-kill" in counted.stdout and "gamedays" not in counted.stdout + counted.stderr


@pytest.mark.whole
def test_a_day_for_a_real_target_is_rehearsed_on_the_lab(tmp_path: Path) -> None:
    (tmp_path / "target.yaml").write_text(
        "gateway_url: http://127.0.0.1:9\nmodel: m\n"
        "hosts: [{name: n, zone: eu-1, address: 127.0.0.1}]\n"
    )
    path = plan(
        tmp_path,
        {"file": "pod-kill.json", "choose": {"zone": ["eu-1"]}, "variables": {"selector": "app=x"}},
        variables={**QUICK, "gateway_port": free_port()},
        target="target.yaml",
        gates=[{"command": "false", "otherwise": "end"}],
        calendar={"cron": "0 10 * * Thu", "time_zone": "UTC", "blackout": "2020-01-01..2090-01-01"},
    )
    done = subprocess.run(
        [AFTERSHOCK, "gameday", "rehearse", path],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    ((folder, day),) = days()
    assert done.returncode == (0 if day.word == "PASS" else 1), done.stdout + done.stderr
    assert day.word != "FAIL" and day.begun["kind"] == "rehearsal"
    verdict = json.loads((folder / "runs/01-pod-kill/verdict.json").read_text())
    assert verdict["target"] == "lab" and verdict["run"]["variables"]["zone"] == "az-a"
    left_out = {one["what"] for one in day.events if one["event"] == "left out"}
    assert left_out >= {"zone eu-1 is the lab's az-a", "pod-kill: selector is the experiment's own"}
    assert "<h1>Rehearsal: A day on the lab</h1>" in (folder / "day.html").read_text()


def test_a_run_by_hand_is_refused_while_its_target_is_taken(chaos_run: ChaosRun) -> None:
    port = free_port()
    held = HostLock(name_of(lab_port=port), "the game day 'Autumn'")
    held.acquire()
    outcome = chaos_run("pod-kill.json", gateway_port=port)
    assert outcome.status != 0 and outcome.folder is None
    assert f"lab on port {port} is taken by the game day 'Autumn' (process" in outcome.printed
    assert "Traceback" not in outcome.printed
    held.release()


@pytest.mark.parametrize(
    "experiments",
    [
        # The first one's fault is over at once: there is no midst of it.
        pytest.param(("pod-kill.json", "az-failure.json"), marks=pytest.mark.whole),
        pytest.param(("process-freeze.json",), marks=pytest.mark.survival),
    ],
)
def test_a_day_that_loses_its_controllers_in_mid_fault_heals(
    tmp_path: Path, experiments: tuple[str, ...]
) -> None:
    path = plan(tmp_path, *({"file": one} for one in experiments))
    done = subprocess.run(
        [AFTERSHOCK, "gameday", "selftest", path],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all healed" and "WRONG" not in done.stdout
    assert not list(ledger.runs())
