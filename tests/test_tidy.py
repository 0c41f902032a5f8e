"""The mechanical part of how the code should read, as a test anyone can run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOMES = ("src", "actions", "probes")
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
SHUNNED_MODULE_NAMES = {"utils", "helpers", "helper", "manager", "misc", "common", "data"}
ENGINE = {"faults", "agent", "hosts", "slo", "load", "injection", "ledger"}


def modules() -> Iterator[Path]:
    for home in HOMES:
        yield from sorted((ROOT / home).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", list(modules()), ids=name_of)
def test_a_module_fits_in_the_head(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST_MODULE, f"{len(lines)} lines: split it by what it holds"
    assert path.stem not in SHUNNED_MODULE_NAMES


@pytest.mark.parametrize("path", list(modules()), ids=name_of)
def test_functions_are_short_and_public_ones_say_what_they_do(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or 0) - node.lineno + 1
        assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", list(modules()), ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.module.startswith(("aftershock.actions", "aftershock.probes"))
            if path.parts[len(ROOT.parts)] == "src" and path.relative_to(ROOT).parts[2] in ENGINE:
                assert not node.module.startswith(("aftershock.controls", "aftershock.run"))


@pytest.mark.parametrize("home", ["actions", "probes"])
def test_activities_keep_what_discovery_needs(home: str) -> None:
    """`chaos discover` shows `object` for annotations that are strings, and hides keyword-only."""
    for path in sorted((ROOT / home).glob("*.py")):
        text = path.read_text()
        assert "from __future__ import annotations" not in text, path.name
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert not node.args.kwonlyargs, f"{path.name}:{node.name}"
