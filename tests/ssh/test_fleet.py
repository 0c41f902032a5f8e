"""Fifty hosts: they start, arm and fire together, or not at all."""

import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aftershock.errors import HostUnreachable, NotApplied
from aftershock.faults.partition import EVERYONE, Partition
from aftershock.hosts.fleet import Fleet, ask_all
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger

from .sshds import Sshd, free_port, know, sshd, unique

pytestmark = pytest.mark.root

COUNT = 50


@pytest.fixture
def many(tmp_path: Path, far_env: dict[str, str]) -> Iterator[list[Node]]:
    """One sshd under fifty addresses, and a network namespace behind each."""
    word = unique()
    names = [f"as-t{word}-{number}" for number in range(COUNT)]
    addresses = tuple(f"127.0.0.{number + 1}" for number in range(COUNT))
    batch = "\n".join(f"netns add {name}" for name in names)
    with sshd(tmp_path / "sshd", "0.0.0.0", more="MaxStartups 200") as server:
        try:
            subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
            known = server.folder / "known_hosts"
            know(known, server.folder / "host_key.pub", addresses, server.port)
            yield [node(server, n, at, far_env) for n, at in zip(names, addresses, strict=True)]
        finally:
            for name in names:
                subprocess.run(["ip", "netns", "del", name], check=False)


def node(server: Sshd, name: str, address: str, env: dict[str, str]) -> Node:
    way = server.way(address=address, timeout_s=40.0)  # two busy cores start all of them
    netns = f"/run/netns/{name}"
    return Node(name, "in", (address,), devices=("lo",), netns=netns, env=env, ssh=way)


@pytest.mark.whole
def test_fifty_hosts_fire_together(many: list[Node], fleet: Fleet, ledger: Ledger) -> None:
    fleet.channels(many)
    injection = Injection(
        Partition(EVERYONE), many, lease_s=60, ledger=ledger, fleet=fleet, grace_s=30
    )
    injection.arm()
    began = time.monotonic()
    injection.fire()
    took_ms = (time.monotonic() - began) * 1000
    print(f"skew {injection.skew_ms:.1f} ms, all done in {took_ms:.1f} ms")
    # Two busy cores run all fifty agents here; the figures to compare with are the benchmark's.
    assert injection.skew_ms is not None and injection.skew_ms < 300
    assert took_ms < 2000
    assert not untouched(many[:1], fleet)
    injection.revert()
    told = injection.to_dict()
    assert (told["ordered"], told["clean"], len(told["per_host"])) == (True, True, COUNT)


def test_one_host_that_is_not_there_keeps_all_as_they_are(
    many: list[Node], fleet: Fleet, ledger: Ledger
) -> None:
    few = many[:5]
    assert few[4].ssh
    dead = replace(few[4], ssh=replace(few[4].ssh, port=free_port()))
    injection = Injection(
        Partition(EVERYONE), [*few[:4], dead], lease_s=60, ledger=ledger, fleet=fleet
    )
    with pytest.raises(HostUnreachable, match=f"{dead.name}: 127.0.0.5 port .* refused"):
        injection.arm()
    assert untouched(few[:4], fleet)


def test_one_host_that_can_not_arm_keeps_all_as_they_are(
    many: list[Node], fleet: Fleet, ledger: Ledger, far_env: dict[str, str], tmp_path: Path
) -> None:
    """Its record can't be written: a file is where the folder should be."""
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    few = many[:5]
    full = replace(few[4], env={**far_env, "AFTERSHOCK_STATE": str(blocked)})
    injection = Injection(
        Partition(EVERYONE), [*few[:4], full], lease_s=60, ledger=ledger, fleet=fleet
    )
    with pytest.raises(NotApplied, match="what was done on the other hosts is undone"):
        injection.arm()
    assert injection.to_dict()["clean"] is True
    assert untouched(few, fleet)


def test_hosts_that_say_nothing_are_waited_for_together(
    server: Sshd, far_env: dict[str, str], fleet: Fleet
) -> None:
    """Sixteen of them, beside one that answers."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(64)
        port = mute.getsockname()[1]
        ways = [server.way(port=port, timeout_s=1.5)] * 15 + [server.way()]
        nodes = [
            Node(f"n{number}", "in", ("127.0.0.1",), env=far_env, ssh=way)
            for number, way in enumerate(ways)
        ]
        began = time.monotonic()
        reached, errors = fleet.reach(nodes)
        assert time.monotonic() - began < 10, "one after the other they would take 22 s"
    assert list(reached) == ["n15"] and len(errors) == 15
    assert "said nothing within 1.5 s" in str(errors["n0"])


def untouched(nodes: list[Node], fleet: Fleet) -> bool:
    """Whether no program of ours is on any of them."""
    looked, errors = ask_all(fleet.channels(nodes), "fingerprint", lambda _: {"devices": ["lo"]})
    return not errors and not any("tcx" in line for lines in looked.values() for line in lines)
