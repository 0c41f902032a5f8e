"""What the wheel holds, and that it works from where it is installed."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .test_discover import ROOT

SOURCES = {
    ROOT / "src" / "aftershock": "aftershock",
    ROOT / "actions": "aftershock/actions",
    ROOT / "probes": "aftershock/probes",
}
NOT_SHIPPED = {".pyc"}


@pytest.fixture(scope="session")
def names(wheel: Path) -> set[str]:
    """Every file in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_its_only_top_level_is_aftershock(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"aftershock"}
    assert len(tops) == 2


def test_every_file_of_the_sources_is_in_it(names: set[str]) -> None:
    """Modules, C, levels, style sheets, py.typed: a package forgotten in pyproject shows here."""
    expected = {
        f"{inside}/{path.relative_to(home).as_posix()}"
        for home, inside in SOURCES.items()
        for path in home.rglob("*")
        if path.is_file() and path.suffix not in NOT_SHIPPED
    }
    assert expected - names == set()
    shipped = {name for name in names if name.startswith("aftershock/")}
    assert shipped - expected == set()


def test_what_is_no_python_is_in_it_too(names: set[str]) -> None:
    assert "aftershock/py.typed" in names
    for ending in (".c", ".yaml", ".css"):
        assert any(name.endswith(ending) for name in names), ending


LOOK = """
import importlib, sys
from pathlib import Path
import aftershock, aftershock.actions.zone, aftershock.probes.slo
from aftershock.discovery import HOMES, modules_of
from aftershock.hosts.zipapp import agent_file
from aftershock.slo.levels import load_levels
from aftershock.lab import gpu
from aftershock.report import page
here = Path(sys.argv[1])
assert Path(aftershock.__file__).is_relative_to(here), aftershock.__file__
assert Path(aftershock.actions.zone.__file__).is_relative_to(here)
for home in HOMES:
    for module in modules_of(home):
        assert Path(importlib.import_module(module).__file__).is_relative_to(here), module
for levels in ("lab", "owner"):
    load_levels(levels)
libraries = gpu.build()
agent = agent_file()
assert agent.exists()
print("installed and whole")
"""


def test_it_works_from_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies are this environment's; its own files come from the wheel alone."""
    place = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", place]
    subprocess.run([*install, wheel], check=True, capture_output=True)
    elsewhere = {"PYTHONPATH": str(place), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, place],
        cwd=tmp_path,
        env={**os.environ, **elsewhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "installed and whole\n", done.stderr
