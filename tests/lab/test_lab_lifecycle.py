"""A lab goes completely, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aftershock.cluster import Cluster, pods
from aftershock.errors import AftershockError, InvalidInput, Unsupported
from aftershock.lab import preflight as checks
from aftershock.lab.commands import lab_down, lab_status, lab_up
from aftershock.lab.settings import NAMESPACE, SELECTOR, LabFailed, LabSettings
from aftershock.lab.world import Lab, gateway_status, running, sweep_stale

from .labs import free_port, launchers, leftovers, listening, namespaces_of, wait_until

HOLD = """
import sys, time
from pathlib import Path
from aftershock.lab.settings import LabSettings
from aftershock.lab.world import Lab
where = {"gateway_port": int(sys.argv[1]), "state_dir": Path(sys.argv[2])}
lab = Lab.up(LabSettings(**where, server_startup_s=0.2), detached=sys.argv[3] == "detached")
print(lab.pid, flush=True)
if sys.argv[3] == "held":
    time.sleep(60)
"""


def controller(settings: LabSettings, mode: str) -> subprocess.Popen[str]:
    """A process of its own that brings a lab up."""
    command = [
        sys.executable,
        "-c",
        HOLD,
        str(settings.gateway_port),
        str(settings.state_dir),
        mode,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_down_is_complete_and_may_come_twice(settings: LabSettings) -> None:
    lab = Lab.up(settings)
    namespaces = namespaces_of(lab.pid)
    assert lab.alive()
    lab.down()
    assert not leftovers(settings.gateway_port, namespaces)
    assert not lab.alive()
    lab.down()
    with pytest.raises(LabFailed, match="does not answer"):
        gateway_status(lab)


def test_sigkill_of_init_takes_everything(settings: LabSettings) -> None:
    with Lab.up(settings) as lab:
        namespaces = namespaces_of(lab.pid)
        netns = lab.inventory.nodes[0].netns
        agent = subprocess.Popen(
            ["nsenter", f"--net={netns}", "-t", str(lab.pid), "-m", "-p", "sleep", "60"]
        )
        wait_until(lambda: "sleep 60" in str(leftovers(0, namespaces)), 2, "an agent inside")
        os.kill(lab.pid, signal.SIGKILL)
        wait_until(lambda: not leftovers(settings.gateway_port, namespaces), 5, "all gone")
        assert agent.wait(1) != 0


def test_sigkill_of_the_launcher_takes_everything(settings: LabSettings) -> None:
    with Lab.up(settings) as lab:
        namespaces = namespaces_of(lab.pid)
        os.kill(lab.launcher.pid, signal.SIGKILL)
        wait_until(lambda: not leftovers(settings.gateway_port, namespaces), 5, "all gone")


def test_a_freed_port_can_be_taken_again_at_once(settings: LabSettings) -> None:
    small = replace(settings, zones=1, nodes_per_zone=1, replicas=1)
    for _ in range(2):
        with Lab.up(small) as lab:
            assert listening(settings.gateway_port)
            os.kill(lab.pid, signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_lab_goes_with_its_controller(settings: LabSettings, how: signal.Signals) -> None:
    with controller(settings, "held") as holding:
        assert holding.stdout
        namespaces = namespaces_of(int(holding.stdout.readline()))
        holding.send_signal(how)
        wait_until(lambda: not leftovers(settings.gateway_port, namespaces), 5, "all gone")
        wait_until(lambda: not list(settings.state_dir.iterdir()), 1, "files gone")


def test_an_interrupted_start_leaves_nothing(settings: LabSettings) -> None:
    rng = random.Random(3)
    before = launchers()
    for moment in [0.15, 0.4, *(rng.uniform(0.2, 1.6) for _ in range(4))]:
        with controller(settings, "held") as starting:
            time.sleep(moment)
            starting.send_signal(signal.SIGINT)
            starting.wait(3)
        wait_until(lambda: launchers() == before, 1, f"gone after {moment:.2f} s")
        assert not listening(settings.gateway_port)
        assert not list(settings.state_dir.glob("lab-*"))


def test_a_detached_lab_outlives_its_starter_and_is_found(settings: LabSettings) -> None:
    with controller(settings, "detached") as starting:
        _, said = starting.communicate(timeout=30)
        assert (starting.returncode, said) == (0, "")
    lab = Lab.attach(state_dir=settings.state_dir)
    namespaces = namespaces_of(lab.pid)
    assert all(slot.up for slot in gateway_status(lab))
    assert lab.inventory.nodes[0].enter_pid == lab.pid
    lab.down()
    lab.down()
    assert not leftovers(settings.gateway_port, namespaces)
    with pytest.raises(InvalidInput, match="no lab is running"):
        Lab.attach(state_dir=settings.state_dir)


def test_the_commands(settings: LabSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERSHOCK_STATE", str(settings.state_dir))
    assert lab_down() == ["no lab was running"]
    assert "6 replicas" in lab_up(settings)[0]
    try:
        with pytest.raises(InvalidInput, match="is not free"):
            lab_up(settings)
        status = "\n".join(lab_status())
        assert settings.gateway_url in status
        assert "node-c-2 UP" in status
    finally:
        assert lab_down() == [f"lab on port {settings.gateway_port} is gone"]
    assert lab_status() == ["no lab is running: `aftershock lab up` starts one"]


def cluster_of(lab: Lab) -> contextlib.closing[Cluster]:
    return contextlib.closing(Cluster(lab.kubeconfig, NAMESPACE))


def way_to(lab: Lab) -> dict[str, Any]:
    """A lab's kubeconfig."""
    assert lab.kubeconfig
    return dict(json.loads(Path(lab.kubeconfig).read_text()))


def ask(lab: Lab, folder: Path, **others: Any) -> None:
    """List a lab's pods by its kubeconfig with another's parts in it."""
    (folder / "mixed").write_text(json.dumps(way_to(lab) | others))
    with contextlib.closing(Cluster(str(folder / "mixed"), NAMESPACE)) as cluster:
        cluster.pods(SELECTOR)


def test_two_labs_side_by_side(settings: LabSettings, tmp_path: Path) -> None:
    """Their nodes and pods have the same names, and each API knows its own alone."""
    other = replace(settings, gateway_port=free_port(), zones=1, nodes_per_zone=1, replicas=1)
    with Lab.up(settings) as first, Lab.up(other) as second:
        assert {lab.pid for lab in running(settings.state_dir)} == {first.pid, second.pid}
        with pytest.raises(InvalidInput, match="several labs"):
            Lab.attach(state_dir=settings.state_dir)
        assert Lab.attach(other.gateway_port, settings.state_dir).pid == second.pid
        with cluster_of(first) as one, cluster_of(second) as two:
            there = {pod.uid for pod in one.pods(SELECTOR) if pod.ready}
            assert len(there) == 6 and set(two.zone_of_nodes()) == {"node-a-1"}
            two.cordon("node-a-1")
            pods.kill(two, two.pods(SELECTOR))
            assert not one.is_cordoned("node-a-1"), "a node of the same name, in the other lab"
            assert not any(pod.ready for pod in two.pods(SELECTOR))
        with pytest.raises(AftershockError, match=r"does not know us \(401\)"):
            ask(second, tmp_path, users=way_to(first)["users"])
        authority = way_to(first)["clusters"][0]["cluster"]["certificate-authority"]
        wrong = {**way_to(second)["clusters"][0]["cluster"], "certificate-authority": authority}
        with pytest.raises(AftershockError, match="certificate"):
            ask(second, tmp_path, clusters=[{"name": "aftershock-lab", "cluster": wrong}])
        second.down()
        with cluster_of(first) as one:
            assert {pod.uid for pod in one.pods(SELECTOR) if pod.ready} == there
        assert all(slot.up for slot in gateway_status(first))


def test_a_port_in_use_is_refused_before_anything_starts(settings: LabSettings) -> None:
    with socket.create_server(("127.0.0.1", settings.gateway_port)):
        with pytest.raises(InvalidInput, match=rf"port {settings.gateway_port} .* not free"):
            Lab.up(settings)
        assert not settings.state_dir.exists()


def test_of_two_that_want_one_port_at_once_one_gets_it(settings: LabSettings) -> None:
    with controller(settings, "held") as first, controller(settings, "held") as second:
        pair = (first, second)
        wait_until(lambda: any(each.poll() is not None for each in pair), 30, "a loser")
        winner, loser = (second, first) if first.poll() is not None else (first, second)
        assert winner.stdout
        assert int(winner.stdout.readline())
        assert loser.stderr
        assert "in use" in loser.stderr.read()
        winner.kill()
    wait_until(lambda: not list(settings.state_dir.iterdir()), 2, "files gone")


@pytest.mark.parametrize(("binary", "package"), list(checks.PACKAGES.items()))
def test_a_missing_binary_names_its_package(
    settings: LabSettings, monkeypatch: pytest.MonkeyPatch, binary: str, package: str
) -> None:
    find = checks.find
    monkeypatch.setattr(checks, "find", lambda name: None if name == binary else find(name))
    with pytest.raises(Unsupported, match=rf"needs {binary}: apt-get install .*{package}"):
        Lab.up(settings)
    assert not settings.state_dir.exists()


def test_what_kept_init_from_starting_is_told(
    settings: LabSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho unshare failed: Operation not permitted >&2\nexit 1\n")
    unshare.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(LabFailed, match="while starting: unshare failed: Operation not permitted"):
        Lab.up(settings)


def test_without_root_it_says_what_to_do(
    settings: LabSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unsupported, match=r"needs root .* sudo"):
        Lab.up(settings)


def test_an_unwritable_state_directory_is_refused(settings: LabSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="AFTERSHOCK_STATE"):
        Lab.up(replace(settings, state_dir=tmp_path / "file" / "state"))


def test_the_files_of_a_killed_lab_are_swept(settings: LabSettings) -> None:
    with controller(settings, "held") as holding:
        assert holding.stdout
        pid = int(holding.stdout.readline())
        os.kill(holding.pid, signal.SIGSTOP)  # it can't clean up after its init
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not running(settings.state_dir), 1, "gone")
        holding.kill()
    assert len(sweep_stale(settings.state_dir)) == 1
