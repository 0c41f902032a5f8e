"""`chaos discover` and `chaos validate`, as a user types them in a directory of their own."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHAOS = Path(sys.executable).with_name("chaos")
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.json"))
KNOWN = {"null", "boolean", "integer", "number", "string", "list", "mapping"}


def chaos(folder: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [CHAOS, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def discovered(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The activities that Chaos Toolkit finds."""
    folder = tmp_path_factory.mktemp("discover")
    done = chaos(folder, "discover", "--no-install", "aftershock")
    assert done.returncode == 0, done.stdout
    found = json.loads((folder / "discovery.json").read_text())
    assert found["extension"]["name"] == "aftershock"
    return list(found["activities"])


def exported(home: str) -> set[tuple[str, str]]:
    """(module, name) of all that the modules of a folder offer, read without importing them."""
    found = set()
    for path in (ROOT / home).glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = ast.literal_eval(node.value)
                found |= {(f"aftershock.{home}.{path.stem}", name) for name in names}
    return found


@pytest.mark.parametrize(("home", "kind"), [("actions", "action"), ("probes", "probe")])
def test_every_activity_is_listed(discovered: list[dict[str, Any]], home: str, kind: str) -> None:
    listed = {(one["mod"], one["name"]) for one in discovered if one["type"] == kind}
    assert listed == exported(home)
    assert len(listed) > 5


@pytest.mark.parametrize("home", ["actions", "probes"])
def test_every_module_offers_something(home: str) -> None:
    offering = {module.rpartition(".")[2] for module, _ in exported(home)}
    assert offering == {p.stem for p in (ROOT / home).glob("*.py")} - {"__init__"}


def test_every_activity_has_types_and_says_what_it_does(discovered: list[dict[str, Any]]) -> None:
    for one in discovered:
        where = f"{one['mod']}.{one['name']}"
        assert one["return_type"] in KNOWN, where
        assert len(one["doc"]) > 20, where
        for argument in one["arguments"]:
            assert argument.get("type") in KNOWN, f"{where}({argument['name']})"


def test_the_types_are_those_of_the_functions(discovered: list[dict[str, Any]]) -> None:
    fail_zone = next(one for one in discovered if one["name"] == "fail_zone")
    assert fail_zone["return_type"] == "mapping"
    assert [(a["name"], a["type"], a.get("default")) for a in fail_zone["arguments"]] == [
        ("zone", "string", None),
        ("lease_s", "number", 120.0),
        ("selector", "string", ""),
        ("peers", "string", ""),
    ]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_valid(tmp_path: Path, path: Path) -> None:
    done = chaos(tmp_path, "validate", path)
    assert done.returncode == 0, done.stdout
    assert "syntax and semantic look valid" in done.stdout
    for word in ("WARNING", "ERROR", "CRITICAL", "Could not find"):
        assert word not in done.stdout, done.stdout


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_recorded_and_rolls_back_whatever_happens(path: Path) -> None:
    experiment = json.loads(path.read_text())
    modules = [control["provider"]["module"] for control in experiment["controls"]]
    assert "aftershock.controls" in modules
    assert experiment["runtime"]["rollbacks"]["strategy"] == "always"
    first = experiment["steady-state-hypothesis"]["probes"][0]
    assert first["provider"]["func"] == "is_recorded" and first["tolerance"] is True
    assert experiment["rollbacks"]


def test_there_are_experiments() -> None:
    assert len(EXPERIMENTS) >= 7
