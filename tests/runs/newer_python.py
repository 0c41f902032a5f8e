"""An environment with Python 3.12 or newer and this project in it, kept under build/ between runs.

    python -m tests.runs.newer_python

prepares it before tests run in networks of their own, from which no package index is reached.
"""

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


class NoNewer(Exception):
    """There is no newer Python here, or the project can't be installed with it."""


def candidates() -> Iterator[str]:
    """Where a newer interpreter may be: on the PATH, or installed by pyenv but not chosen."""
    for name in ("python3.12", "python3.13", "python3.14"):
        if found := shutil.which(name):
            yield found
    if pyenv := shutil.which("pyenv"):
        asked = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False)
        if root := asked.stdout.strip():
            yield from sorted(map(str, Path(root).glob("versions/3.1[2-9]*/bin/python3")))


def runs(python: str) -> bool:
    """A shim of pyenv exists for versions that are not chosen, and only complains."""
    newer = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))"
    try:
        return (
            subprocess.run([python, "-c", newer], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


def prepare() -> Path:
    """The environment's `bin`, made anew when the project's requirements changed."""
    python = next(filter(runs, candidates()), None)
    if python is None:
        raise NoNewer("no Python 3.12 or newer that runs: the newer Chaos Toolkit is not tested")
    wanted = hashlib.sha256(python.encode() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    place = ROOT / "build" / f"newer-python-{wanted[:12]}"
    place.parent.mkdir(exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:  # tests may run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ((place / "whole").exists() and runs(str(place / "bin/python"))):
            install(python, place)
    return place / "bin"


def install(python: str, place: Path) -> None:
    """The project as it stands, in a new environment."""
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([python, "-m", "venv", place], check=True)
    pip = [place / "bin/python", "-m", "pip", "install", "--quiet", "--editable", ROOT]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(place)
        raise NoNewer(f"the project can't be installed with {python}: {done.stderr[-300:]}")
    (place / "whole").touch()


if __name__ == "__main__":
    try:
        prepare()
    except NoNewer as error:
        print(error)
