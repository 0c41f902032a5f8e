"""Tests of network faults on kernels that have netem: this machine's own, or guests booted for it.

Each test is there once a kernel. Where that is a guest, the tests chosen for it run in there, in
one process, and what it reports of each is reported here as if it had run here.
"""

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from aftershock.hosts.fleet import Fleet
from aftershock.hosts.zipapp import agent_file
from aftershock.ledger import Ledger
from tests.agent.wires import world

from .fetch import KERNELS, ON_REQUEST, has_netem
from .guest import NAME, REPORTS, Guest, GuestFailed, slowness, why_not
from .worlds import HOST, Rig

HERE = "here"
INSIDE = os.environ.get(NAME)
FOLDER = Path(__file__).parent
GUESTS = pytest.StashKey[dict[str, Guest]]()


@cache
def kernels() -> tuple[str, ...]:
    """The kernels that tests run on: the guest that we are in, our own, or all the guests."""
    if INSIDE:
        return (INSIDE,)
    return (HERE,) if has_netem() else tuple(KERNELS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    once = metafunc.definition.get_closest_marker("one_kernel")
    names, first = list(kernels()), _first()
    if once:
        names = [name for name in once.args if name in (*names, *ON_REQUEST)] or [first]
    params = [
        pytest.param(name, marks=() if once or name == first else pytest.mark.whole)
        for name in names
    ]
    metafunc.parametrize("kernel", params, indirect=True, scope="session")


def _first() -> str:
    """The kernel that all tests run on; a fast one."""
    return min(kernels(), key=slowness)


@pytest.fixture(scope="session", autouse=True)
def kernel(request: pytest.FixtureRequest) -> str:
    """The kernel's name."""
    name: str = request.param
    return name


def _guest_of(item: pytest.Item) -> str:
    """The guest that a test is to run in, or nothing."""
    if INSIDE or FOLDER not in item.path.parents or not isinstance(item, pytest.Function):
        return ""
    name: str = item.callspec.params["kernel"]
    return "" if name == HERE else name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not (name := _guest_of(item)):
            continue
        item.add_marker(pytest.mark.timeout(0))  # its time is kept in the guest
        if "PYTEST_XDIST_WORKER" in os.environ:
            item.add_marker(pytest.mark.skip(reason="a guest runs tests in one row: leave out -n"))
        elif why := why_not(name):
            item.add_marker(pytest.mark.skip(reason=f"no guest kernel {name}: {why}"))


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Report of a test in a guest what that says."""
    name = _guest_of(item)
    if not name or item.get_closest_marker("skip") or os.geteuid() != 0:
        return None
    guests = _guests(item.session)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item, guests[name]):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    if nextitem is None or not _guest_of(nextitem):
        _end(item.config)
    return True


def _guests(session: pytest.Session) -> dict[str, Guest]:
    """All guests, booted at once when the first of them is needed."""
    if GUESTS not in session.config.stash:
        agent_file()  # built here once, in a second: the guests are slow
        tests: dict[str, list[str]] = {}
        for item in session.items:
            if (name := _guest_of(item)) and not item.get_closest_marker("skip"):
                tests.setdefault(name, []).append(item.nodeid)
        session.config.stash[GUESTS] = {name: Guest(name, own) for name, own in tests.items()}
    return session.config.stash[GUESTS]


def _reports(item: pytest.Item, guest: Guest) -> Iterator[pytest.TestReport]:
    try:
        for plain in guest.reports():
            report = item.config.hook.pytest_report_from_serializable(
                config=item.config, data=plain
            )
            assert report.nodeid == item.nodeid, f"{report.nodeid} before {item.nodeid}"
            if isinstance(report.longrepr, list):  # JSON has no tuples, of which a skip is one
                report.longrepr = tuple(report.longrepr)
            yield report
            if report.when == "teardown":
                return
    except GuestFailed as error:
        where = {"nodeid": item.nodeid, "location": item.location, "keywords": {}}
        yield pytest.TestReport(**where, outcome="failed", longrepr=str(error), when="call")


def pytest_unconfigure(config: pytest.Config) -> None:
    _end(config)


def _end(config: pytest.Config) -> None:
    for guest in config.stash.get(GUESTS, {}).values():
        guest.end()
    config.stash[GUESTS] = {}


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In a guest: tell the machine that booted it."""
    if INSIDE:
        _tell(report)


def _tell(report: Any) -> None:
    from _pytest.reports import pytest_report_to_serializable

    with Path(REPORTS).open("w") as wire:
        wire.write(json.dumps(pytest_report_to_serializable(report)) + "\n")


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One agent for all who don't kill it."""
    made = Fleet()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AFTERSHOCK_STATE", str(tmp_path_factory.mktemp("agents")))
        patch.setattr("aftershock.injection._ARM_S", 200.0)  # an emulated CPU is slow
        made.fresh(HOST)
        yield made
    made.close()


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A run's book."""
    made = Ledger.open("run-under-test")
    yield made
    made.close()


@pytest.fixture(scope="session")
def rig(kernel: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Nodes and agents for all tests."""
    fleet = Fleet()
    with world() as wires:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AFTERSHOCK_STATE", str(tmp_path_factory.mktemp("agents")))
            patch.setattr("aftershock.injection._ARM_S", 200.0)  # an emulated CPU is slow
            for name in "abw":  # one after the other: a guest is slow
                fleet.fresh(wires[name])
        yield Rig(wires, fleet)
        fleet.close()
