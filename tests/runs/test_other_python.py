"""The newer Chaos Toolkit: pip takes another line of it on Python 3.12 and later.

The project is installed there into an environment of its own (kept under build/ between runs) and
does what it must: one run that passes, one that must not, one whose control can't be loaded.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from .conftest import ROOT, Outcome, command
from .newer_python import NoNewer, prepare

pytestmark = [pytest.mark.root, pytest.mark.whole, pytest.mark.timeout(300)]

Run = Callable[..., Outcome]
LINES = {(3, 11): ("1.19", "1.44"), (3, 12): ("1.2", "1.45")}
VERSIONS = (
    "from importlib.metadata import version as v; print(v('chaostoolkit'), v('chaostoolkit-lib'))"
)


def line_of(python_version: tuple[int, int]) -> tuple[str, str]:
    return LINES[min(python_version, (3, 12))]


@pytest.fixture(scope="module")
def newer() -> Path:
    """The `bin` of an environment with a newer Python and this project, as it stands, in it."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    if sys.version_info >= (3, 12):
        pytest.skip("these tests run on a newer Python themselves")
    try:
        return prepare()
    except NoNewer as error:
        pytest.skip(str(error))


@pytest.fixture
def run(newer: Path, tmp_path: Path, journal: Path) -> Run:
    """`chaos run` with the newer Python."""

    def started(experiment: str | Path, *options: str) -> Outcome:
        _, *words = command(experiment, {}, options)
        done = subprocess.run(
            [newer / "chaos", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        latest = journal / "latest"
        return Outcome(done.returncode, done.stdout, latest.resolve() if latest.exists() else None)

    return started


def test_this_python_has_the_line_it_should() -> None:
    toolkit, library = line_of(sys.version_info[:2])
    assert version("chaostoolkit").startswith(toolkit)
    assert version("chaostoolkit-lib").startswith(library)


def test_the_newer_python_has_the_newer_line(newer: Path) -> None:
    asked = [newer / "python", "-c", VERSIONS]
    found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    toolkit, library = line_of((3, 12))
    assert found[0].startswith(toolkit) and found[1].startswith(library), found


def test_a_pass(run: Run) -> None:
    outcome = run("az-failure.json")
    assert (outcome.status, outcome.verdict["verdict"]) == (0, "PASS"), outcome.printed
    assert outcome.verdict["versions"]["chaostoolkit-lib"].startswith("1.45")
    assert all(injection["clean"] for injection in outcome.verdict["injections"])


def test_no_effect_is_no_pass(run: Run) -> None:
    outcome = run("say-no/no-effect.json")
    assert (outcome.status, outcome.verdict["verdict"]) == (1, "INCONCLUSIVE"), outcome.printed
    assert "no effect" in outcome.reasons


@pytest.mark.parametrize("strategy", ["default", "during-method-only"])
def test_a_control_that_cannot_be_loaded(run: Run, tmp_path: Path, strategy: str) -> None:
    experiment = json.loads((ROOT / "experiments/az-failure.json").read_text())
    experiment["controls"][0]["provider"]["module"] = "aftershock.no_such_control"
    (tmp_path / "edited.json").write_text(json.dumps(experiment))
    outcome = run(tmp_path / "edited.json", f"--hypothesis-strategy={strategy}")
    assert outcome.status == 1, outcome.printed
    assert "no run is being recorded" in outcome.printed


def test_every_activity_is_discovered(newer: Path, tmp_path: Path) -> None:
    words = ["discover", "--no-install", "aftershock"]
    subprocess.run([newer / "chaos", *words], cwd=tmp_path, check=True, capture_output=True)
    activities = json.loads((tmp_path / "discovery.json").read_text())["activities"]
    kinds = [a["return_type"] for a in activities]
    kinds += [argument["type"] for a in activities for argument in a["arguments"]]
    assert len(activities) > 15 and "object" not in kinds
