"""Every experiment of ours, dry, in each of Chaos Toolkit's ways: nothing is started or broken."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaoslib.run import Runner
from chaoslib.types import Dry, Strategy

from aftershock.run.foresight import is_ours

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted(FOLDER.rglob("*.json"))
HEALS = ("heal", "end_step", "uncordon", "stop_")
TOUCH = "would touch: "


@pytest.fixture
def told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """What a user is told."""
    logger = logging.getLogger("chaostoolkit")
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger="chaostoolkit"):
        yield caplog


def played(experiment: dict[str, Any], dry: Dry) -> dict[str, Any]:
    with Runner(Strategy.DEFAULT) as runner:
        settings = {"runtime": experiment.get("runtime", {})}
        journal: dict[str, Any] = runner.run({**experiment, "dry": dry}, settings)
    return journal


def breaking(experiment: dict[str, Any]) -> list[str]:
    """The names of its actions that would break something."""
    method = experiment["method"]
    ours = [one["provider"]["func"] for one in method if one["type"] == "action" and is_ours(one)]
    return [name for name in ours if not name.startswith(HEALS)]


@pytest.mark.parametrize(
    "dry", [Dry.ACTIVITIES, Dry.ACTIONS, Dry.PROBES], ids=lambda dry: dry.value
)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_says_what_would_be_touched(
    path: Path, dry: Dry, told: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    experiment = json.loads(path.read_text())
    journal = played(experiment, dry)
    assert "Traceback" not in told.text
    touched = [line for line in told.messages if TOUCH in line]
    assert len(touched) >= len(breaking(experiment)), told.text
    assert not (tmp_path / "journal").exists(), "nothing was recorded"
    if dry is Dry.ACTIVITIES:
        assert journal["status"] == "completed"
        return
    assert journal["status"] == "interrupted" and not journal["run"], "no probe or action is played"
    [said] = [one.getMessage() for one in told.records if one.levelno >= logging.CRITICAL]
    assert f"--dry={dry.value}" in said and "--dry=activities" in said and "control" not in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"add_rps": "many"}, "add_rps is 'many': give a number"),
        (
            {"add_rps": 5, "lease": 3},
            "the dry run could not look ahead: TypeError: step_load() got",
        ),
    ],
)
def test_what_it_is_refused_for_is_told(
    arguments: dict[str, Any], sentence: str, told: pytest.LogCaptureFixture
) -> None:
    """Chaos Toolkit swallows what a control raises: it would end with `completed`."""
    experiment = json.loads((FOLDER / "autoscaling.json").read_text())
    experiment["method"][0]["provider"]["arguments"] = arguments
    assert played(experiment, Dry.ACTIVITIES)["status"] == "interrupted"
    assert sentence in told.text and "Traceback" not in told.text


def test_a_soak_names_every_place_of_its_faults(told: pytest.LogCaptureFixture) -> None:
    experiment = json.loads((FOLDER / "soak.json").read_text())
    played(experiment, Dry.ACTIVITIES)
    for node in ("node-a-1", "node-b-1", "node-c-2"):
        assert any(TOUCH in line and node in line for line in told.messages), told.text
    assert "faults by seed 7, the first after" in told.text


def test_what_is_no_fault_is_not_done_either(told: pytest.LogCaptureFixture) -> None:
    """A controller that stops itself would be no dry run."""
    played(json.loads((FOLDER / "say-no/paused-controller.json").read_text()), Dry.ACTIVITIES)
    assert "would touch: this controller itself, stopped for 6 s" in told.text


def test_a_run_without_pauses_is_said_to_be_a_real_one(told: pytest.LogCaptureFixture) -> None:
    """It is refused here, so it doesn't become one."""
    experiment = json.loads((FOLDER / "pod-kill.json").read_text())
    experiment["configuration"]["zone"] = "az-nowhere"
    assert played(experiment, Dry.PAUSE)["status"] == "interrupted"
    assert "--dry=pause leaves out the pauses alone" in told.text
    assert "unknown zone 'az-nowhere'" in told.text
