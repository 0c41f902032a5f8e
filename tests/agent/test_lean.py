"""pyroute2 is imported in part, and wholly where a release of it doesn't take that."""

import subprocess
import sys
from pathlib import Path

import pytest

SAY = """
import sys
from aftershock.agent.lean import iproute, spare
spare()
print(iproute().__module__, "pyroute2.ndb" in sys.modules, hasattr(sys.modules["pyroute2"], "NDB"))
"""


def said(*paths: Path) -> str:
    script = f"import sys; sys.path[:0] = {[str(path) for path in paths]!r}\n{SAY}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_not_used_is_not_imported() -> None:
    assert said() == "pyroute2.iproute.linux False False"


@pytest.mark.parametrize("need", ["from pyroute2 import NDB", "import pyroute2; pyroute2.NDB"])
def test_a_release_that_wants_all_of_it_gets_it(tmp_path: Path, need: str) -> None:
    folder = tmp_path / "pyroute2" / "iproute"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("NDB = 1\n")
    (folder / "__init__.py").write_text("")
    (folder / "linux.py").write_text(f"{need}\nclass IPRoute: pass\n")
    assert said(tmp_path) == "pyroute2.iproute.linux False True"
