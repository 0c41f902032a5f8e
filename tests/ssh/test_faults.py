"""Faults over SSH: they bite, they go on order, and they heal when the way to us is lost."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from aftershock.faults.partition import EVERYONE, Partition
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.ledger import Ledger
from tests.agent.wires import HOOKS, World, arrives, back_after, cut_off, lost, wait_for

from .sshds import Sshd, in_netns, sessions, sshd

pytestmark = pytest.mark.root


def partition(
    hosts: World, fleet: Fleet, ledger: Ledger, hook: str = "auto", **more: object
) -> Injection:
    fault = cut_off(hosts, "a", hook=hook)
    options: dict[str, object] = {"lease_s": 30, "ledger": ledger, "fleet": fleet, **more}
    return Injection(fault, [hosts["a"]], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_partition_over_ssh(hosts: World, fleet: Fleet, ledger: Ledger, hook: str) -> None:
    injection = partition(hosts, fleet, ledger, hook, witness=hosts["w"])
    injection.arm()
    assert arrives(hosts["w"], hosts["a"]), "armed, yet nothing is felt"
    injection.fire()
    assert lost(hosts["w"], hosts["a"]) and lost(hosts["a"], hosts["w"])
    assert arrives(hosts["b"], hosts["a"]), "its own zone is spared"
    assert injection.observe()["bit"] is True
    injection.revert()
    assert arrives(hosts["w"], hosts["a"]) and arrives(hosts["a"], hosts["w"])
    told = injection.to_dict()
    assert (told["ordered"], told["clean"]) == (True, True)
    assert "clsact" not in hosts.tc("a", "qdisc", "show", "dev", "eth0")


@pytest.mark.parametrize("hook", HOOKS)
def test_it_heals_when_the_connection_is_cut(
    hosts: World, server: Sshd, fleet: Fleet, ledger: Ledger, hook: str
) -> None:
    injection = partition(hosts, fleet, ledger, hook)
    injection.arm()
    injection.fire()

    def cut() -> None:
        for number in sessions(server):
            os.kill(number, signal.SIGKILL)

    assert back_after(hosts["w"], hosts["a"], cut, 5.0) < 1.0
    injection.revert()
    part = injection.to_dict()["per_host"]["node-a"]
    assert (part["ordered"], part["ended_by"], part["left"]) == (False, "channel lost", [])


def test_a_dead_sshd_heals_and_the_record_is_fetched_from_the_next(
    hosts: World, server: Sshd, fleet: Fleet, ledger: Ledger, tmp_path: Path
) -> None:
    injection = partition(hosts, fleet, ledger)
    injection.arm()
    injection.fire()
    for number in [server.process.pid, *sessions(server)]:
        os.kill(number, signal.SIGKILL)
    assert arrives(hosts["w"], hosts["a"], within_s=3.0)
    server.process.wait()
    again = [*server.process.args]  # type: ignore[misc]
    listening = f":{server.port:04X} 00000000:0000 0A"
    with subprocess.Popen(again, stderr=subprocess.DEVNULL) as process:
        try:
            assert wait_for(lambda: listening in Path("/proc/net/tcp").read_text())
            injection.revert()
        finally:
            process.kill()
    assert injection.to_dict()["per_host"]["node-a"]["ended_by"] == "channel lost"


def test_a_fault_that_cuts_its_own_way_heals_at_the_deadline(
    wires: World, far_env: dict[str, str], tmp_path: Path
) -> None:
    """sshd listens in the namespace of `a`, and we are in that of `w`: the fault cuts us off."""
    inside, address = str(wires["a"].netns), wires["a"].addresses[0]
    with sshd(tmp_path / "there", address, port=2222, netns=inside) as server:
        ssh = server.way(timeout_s=4.0)
        node = replace(wires["a"], netns=None, env=far_env, ssh=ssh)

        def run() -> None:
            fleet, ledger = Fleet(), Ledger.open("cut-off")
            injection = Injection(
                Partition(EVERYONE, cut_controller=True),
                [node],
                lease_s=12,
                grace_s=1,
                ledger=ledger,
                fleet=fleet,
                witness=wires["b"],
                deadline_only=True,
            )
            try:
                injection.arm()
                began = time.monotonic()
                injection.fire()
                assert injection.skew_ms is None, "nobody said when"
                assert lost(wires["w"], wires["a"])
                assert injection.observe()["bit"] is True, "seen by the witness alone"
                injection.revert()  # can't be heard before the deadline
                assert time.monotonic() - began > 9.0
                told = injection.to_dict()
                part = told["per_host"]["node-a"]
                assert (part["ended_by"], part["left"], told["clean"]) == ("deadline", [], True)
                assert told["ordered"] is True, "it lasted beyond the order"
                assert part["dropped"]["ingress"]["packets"] > 0
            finally:
                fleet.close()
                ledger.close()
            assert arrives(wires["w"], wires["a"])

        in_netns(str(wires["w"].netns), run)
    assert not [path for path in (tmp_path / "far/state").rglob("*") if path.is_file()]


def test_the_way_to_us_is_left_alone(wires: World, far_env: dict[str, str], tmp_path: Path) -> None:
    """Everything is cut but our own address, which the agent knows from its connection."""
    inside, address = str(wires["a"].netns), wires["a"].addresses[0]
    with sshd(tmp_path / "there", address, port=2222, netns=inside) as server:
        node = replace(wires["a"], netns=None, env=far_env, ssh=server.way())

        def run() -> dict[str, object]:
            fleet, ledger = Fleet(), Ledger.open("spared")
            injection = Injection(
                Partition(EVERYONE), [node], lease_s=20, ledger=ledger, fleet=fleet
            )
            try:
                injection.arm()
                injection.fire()
                assert lost(wires["b"], wires["a"])
                assert arrives(wires["w"], wires["a"])
                injection.revert()
                return injection.to_dict()
            finally:
                fleet.close()
                ledger.close()

        assert in_netns(str(wires["w"].netns), run)["clean"] is True
