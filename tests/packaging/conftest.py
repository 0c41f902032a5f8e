"""The wheel as a user would install it, built once."""

import subprocess
import sys
from pathlib import Path

import pytest

from .test_discover import ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a clean copy: what earlier builds left would hide gaps."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "src", "actions", "probes"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    for stale in [*source.rglob("*.egg-info"), *source.rglob("__pycache__")]:
        subprocess.run(["rm", "-rf", stale], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, source],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0 and "No matching distribution found for setuptools" in done.stdout:
        pytest.skip("the build backend can't be had here (no package index)")
    assert done.returncode == 0, done.stdout
    (built,) = folder.glob("*.whl")
    return built
