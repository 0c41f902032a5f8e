"""Labs for tests, and the proof after each test that nothing of them is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aftershock.lab.settings import LabSettings
from aftershock.lab.world import Lab

from .labs import free_port, launchers, leftovers, namespaces_of, wait_until

NET = Path("/sys/class/net")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.root)


@pytest.fixture
def settings(tmp_path: Path) -> LabSettings:
    return LabSettings(gateway_port=free_port(), server_startup_s=0.2, state_dir=tmp_path / "state")


def lab_devices() -> set[str]:
    """Devices on the machine's own network that are named as a lab's are: its bridge, its ports."""
    return {device.name for device in NET.iterdir() if re.fullmatch(r"br0|p\d+", device.name)}


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path) -> Iterator[None]:
    """After each test: no process, network device or file of a lab that it started is left."""
    before, devices = launchers(), lab_devices()
    yield
    wait_until(lambda: not launchers() - before, 1, "launchers gone")
    assert lab_devices() == devices
    assert not list(tmp_path.glob("state/lab-*"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that a module's tests share."""
    where = tmp_path_factory.mktemp("state")
    made = LabSettings(gateway_port=free_port(), server_startup_s=0.2, state_dir=where)
    with Lab.up(made) as up:
        namespaces = namespaces_of(up.pid)
        yield up
    assert not leftovers(made.gateway_port, namespaces)
    assert not list(where.iterdir())
