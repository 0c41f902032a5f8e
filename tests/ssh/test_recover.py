"""`aftershock recover` over SSH: from the ledger alone, whoever was killed or restarted."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aftershock.faults.command import Command
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.ledger import Ledger
from aftershock.recover import recover
from tests.agent.boots import another_boot
from tests.agent.wires import HOOKS, World, arrives, back_after, is_gone, lost, wait_for

from .sshds import Sshd

pytestmark = pytest.mark.root

Controller = subprocess.Popen[str]
Start = Callable[..., tuple[Controller, list[int]]]


@pytest.fixture
def start(hosts: World) -> Iterator[Start]:
    """Start a controller that cuts node `a` off; it is ended with the test."""
    started: list[Controller] = []

    def make(hook: str = "tcx", **options: object) -> tuple[Controller, list[int]]:
        script = str(Path(__file__).with_name("controller.py"))
        told = {"lease_s": 60, **options}
        words = [json.dumps([hosts["a"].to_dict()]), hook, json.dumps(told)]
        process = subprocess.Popen(
            [sys.executable, script, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout
        return process, json.loads(process.stdout.readline())["agents"]

    yield make
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def left(tmp_path: Path) -> Callable[[], list[str]]:
    """What is written down, on either side."""

    def look() -> list[str]:
        sides = (tmp_path / "state", tmp_path / "far" / "state")
        return [str(path) for side in sides for path in side.rglob("*") if path.is_file()]

    return look


def kill(process: Controller) -> None:
    process.kill()
    process.wait()


@pytest.mark.parametrize("hook", HOOKS)
def test_after_sigkill_of_the_controller(
    hosts: World,
    start: Start,
    left: Callable[[], list[str]],
    hook: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process, agents = start(hook)
    assert back_after(hosts["w"], hosts["a"], process.kill, 5.0) < 1.0
    process.wait()
    assert wait_for(lambda: all(map(is_gone, agents)))
    assert len(left()) == 2, "a ledger here and a record there"
    monkeypatch.chdir("/")
    found = recover()
    assert found.healed and "it had healed already (channel lost)" in found.lines()[0]
    assert left() == []
    assert recover().findings == ()


@pytest.mark.parametrize("hook", HOOKS)
def test_what_outlives_its_controller_is_ended_there(
    hosts: World, start: Start, left: Callable[[], list[str]], hook: str
) -> None:
    process, agents = start(hook, deadline_only=True)
    kill(process)
    assert lost(hosts["w"], hosts["a"])
    found = recover()
    assert found.healed and "healed now (recover)" in found.lines()[0], found.lines()
    assert arrives(hosts["w"], hosts["a"])
    assert wait_for(lambda: all(map(is_gone, agents)))
    assert left() == []


def test_an_agent_that_hangs_there(hosts: World, start: Start) -> None:
    process, agents = start(deadline_only=True)
    os.kill(agents[0], signal.SIGSTOP)
    kill(process)
    assert recover().healed
    assert arrives(hosts["w"], hosts["a"]) and wait_for(lambda: is_gone(agents[0]))


def test_a_host_that_can_not_be_reached_stays_in_the_ledger(
    hosts: World, start: Start, server: Sshd, left: Callable[[], list[str]]
) -> None:
    process, _ = start("clsact", deadline_only=True)
    server.process.kill()
    server.process.wait()
    kill(process)
    found = recover()
    assert not found.healed and "Connection refused" in found.lines()[0], found.lines()
    assert lost(hosts["w"], hosts["a"])
    with again(server):
        assert recover().healed
    assert arrives(hosts["w"], hosts["a"]) and left() == []


@contextmanager
def again(server: Sshd, before: tuple[str, ...] = ()) -> Iterator[None]:
    """The same sshd once more, `before` being words in front of it."""
    words = [*before, *server.process.args]  # type: ignore[misc]
    listening = f"0100007F:{server.port:04X} 00000000:0000 0A"
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        assert wait_for(lambda: listening in Path("/proc/net/tcp").read_text())
        try:
            yield
        finally:
            process.kill()


def test_after_a_restart_of_the_host(
    hosts: World, start: Start, server: Sshd, tmp_path: Path, left: Callable[[], list[str]]
) -> None:
    process, agents = start(deadline_only=True)
    for number in (process.pid, server.process.pid, *agents):
        os.kill(number, signal.SIGKILL)
    server.process.wait()
    process.wait()
    with again(server, another_boot(tmp_path)):
        found = recover()
    assert found.healed and "the machine was restarted since" in found.lines()[0]
    assert left() == []


def test_a_command_is_undone_after_a_restart_too(
    hosts: World, server: Sshd, fleet: Fleet, tmp_path: Path
) -> None:
    """A switch's port stays down through any restart of the host that asked for it."""
    port = tmp_path / "port-is-down"
    fault = Command(("touch", str(port)), ("rm", "-f", str(port)), ("test", "-e", str(port)))
    ledger = Ledger.open("to-be-restarted")
    options: dict[str, Any] = {"lease_s": 60, "ledger": ledger, "fleet": fleet}
    injection = Injection(fault, [hosts["a"]], deadline_only=True, **options)
    injection.arm()
    injection.fire()
    (record,) = (tmp_path / "far").rglob("*@node-a.json")
    told = json.loads(record.read_text())
    for who in ("watcher", "agent"):
        os.kill(told[who]["pid"], signal.SIGKILL)
    server.process.kill()
    server.process.wait()
    assert port.exists()
    with again(server, another_boot(tmp_path)):
        found = recover(force=True)
    assert found.healed and "restarted since; healed now" in found.lines()[0], found.lines()
    assert not port.exists()


def test_after_a_restart_of_the_controller(
    hosts: World, start: Start, tmp_path: Path, left: Callable[[], list[str]]
) -> None:
    """What its ledger says of the other host's boot still holds, and so does the fault."""
    process, agents = start("clsact", deadline_only=True)
    kill(process)
    assert lost(hosts["w"], hosts["a"])
    aftershock = Path(sys.executable).with_name("aftershock")
    done = subprocess.run(
        [*another_boot(tmp_path), aftershock, "recover"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "healed now (recover)" in done.stdout, done
    assert arrives(hosts["w"], hosts["a"])
    assert wait_for(lambda: all(map(is_gone, agents))) and left() == []


def test_a_namespace_that_is_gone_there(
    hosts: World, start: Start, left: Callable[[], list[str]]
) -> None:
    process, agents = start(deadline_only=True)
    for name in ("a", "b", "w"):
        subprocess.run(["ip", "netns", "del", hosts.netns(name)], check=True)
    kill(process)
    found = recover()
    assert found.healed and "its network namespace is gone" in found.lines()[0]
    assert wait_for(lambda: all(map(is_gone, agents))) and left() == []


def test_records_of_controllers_elsewhere_are_none_of_ours(
    hosts: World, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`recover` on a host that somebody else is breaking, whose ledger knows of nothing."""
    start()
    far = tmp_path / "far" / "state"
    monkeypatch.setenv("AFTERSHOCK_STATE", str(far))
    assert recover().findings == ()
    assert lost(hosts["w"], hosts["a"])
    assert list(far.rglob("*@node-a.json"))
