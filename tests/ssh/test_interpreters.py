"""The agent as each Python runs it that a host may have; those that aren't here are skipped."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from aftershock.errors import Unsupported
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.ledger import Ledger
from tests.agent.wires import World, arrives, cut_off, lost

from .conftest import Far
from .test_way_in import refusal

pytestmark = pytest.mark.root


def interpreter(version: str) -> str:
    """One on the PATH, or installed by pyenv but not chosen."""
    found = [shutil.which(f"python{version}")]
    if pyenv := shutil.which("pyenv"):
        asked = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False)
        found += map(str, Path(asked.stdout.strip()).glob(f"versions/{version}.*/bin/python3"))
    for path in filter(None, found):
        words = [path, "-c", "import sys; print(sys.version)"]
        asked = subprocess.run(words, capture_output=True, text=True, check=False)
        if asked.returncode == 0 and asked.stdout.startswith(f"{version}."):
            return path
    pytest.skip(f"no Python {version} here: nothing is known of hosts that have it")


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_a_partition_from_each_python(
    hosts: World, fleet: Fleet, ledger: Ledger, version: str
) -> None:
    ssh = hosts["a"].ssh
    assert ssh
    node = replace(hosts["a"], ssh=replace(ssh, python=interpreter(version)))
    fault = cut_off(hosts, "a", hook="clsact")
    injection = Injection(fault, [node], lease_s=20, ledger=ledger, fleet=fleet)
    injection.arm()
    assert fleet.fresh(node).hello["python"].startswith(f"{version}.")
    assert arrives(hosts["w"], hosts["a"])
    injection.fire()
    assert lost(hosts["w"], hosts["a"])
    injection.revert()
    assert arrives(hosts["w"], hosts["a"])
    assert injection.to_dict()["clean"] is True


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8"])
def test_an_old_python_is_refused(far: Far, version: str) -> None:
    said = refusal(far(ssh={"python": interpreter(version)}), Unsupported)
    assert f"is Python {version}: the agent needs 3.9 or newer" in said
