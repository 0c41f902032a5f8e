"""A container, named by a process in it: here and over SSH. Its files need hold nothing of ours."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aftershock.hosts.fleet import Fleet, host_for
from aftershock.hosts.local import NamespaceGone
from aftershock.injection import Injection
from aftershock.inventory import Node, PodRef
from aftershock.lab.containers import mark
from aftershock.ledger import Ledger
from aftershock.recover import recover
from tests.agent.wires import World, arrives, cut_off, lost, wait_for

from .sshds import Sshd

pytestmark = pytest.mark.root

Container = subprocess.Popen[bytes]


@pytest.fixture
def container(wires: World) -> Iterator[Container]:
    """A process in the network of `a`, in mounts of its own in which there is no Python."""
    hidden = f'mount -t tmpfs tmpfs {Path(sys.executable).parent} && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", hidden, "sh", "sleep", "600"]
    process = subprocess.Popen(["nsenter", f"--net={wires['a'].netns}", *words])
    root = Path(f"/proc/{process.pid}/root{sys.executable}")
    assert wait_for(lambda: not root.exists())
    yield process
    process.kill()
    process.wait()


@pytest.fixture(params=["here", "over SSH"])
def node(
    request: pytest.FixtureRequest, wires: World, container: Container, far_env: dict[str, str]
) -> Node:
    """The node that the container is."""
    inside = replace(wires["a"], netns=None, pid=container.pid)
    if request.param == "here":
        return inside
    server: Sshd = request.getfixturevalue("server")
    return replace(inside, env=far_env, ssh=server.way())


def test_a_container_is_cut_off(node: Node, wires: World, fleet: Fleet, ledger: Ledger) -> None:
    injection = Injection(cut_off(wires), [node], lease_s=20, ledger=ledger, fleet=fleet)
    injection.arm()
    assert arrives(wires["w"], wires["a"])
    injection.fire()
    assert lost(wires["w"], wires["a"]) and arrives(wires["w"], wires["b"])
    injection.revert()
    assert arrives(wires["w"], wires["a"])
    assert injection.to_dict()["clean"] is True


def test_a_pod_is_cut_off_by_the_agent_on_its_node(
    wires: World,
    container: Container,
    server: Sshd,
    far_env: dict[str, str],
    fleet: Fleet,
    ledger: Ledger,
) -> None:
    """Found by its UID, as the node's runtime has it in the cgroup of what it started."""
    uid = "0a1b2c3d-0000-4000-8000-0123456789ab"
    mark(container.pid, uid, "containerd://feed")
    pod = PodRef("inference", "web", uid)
    node = replace(wires["a"], netns=None, pod=pod, env=far_env, ssh=server.way())
    injection = Injection(cut_off(wires), [node], lease_s=20, ledger=ledger, fleet=fleet)
    injection.arm()
    assert arrives(wires["w"], wires["a"])
    injection.fire()
    assert lost(wires["w"], wires["a"]) and arrives(wires["w"], wires["b"])
    injection.revert()
    assert arrives(wires["w"], wires["a"])
    assert injection.to_dict()["clean"] is True


def test_a_container_that_is_gone(node: Node, container: Container) -> None:
    container.kill()
    container.wait()
    with pytest.raises(NamespaceGone, match=f"node-a: no process {container.pid} there: name one"):
        host_for(node).start()


def test_recover_after_a_container_is_gone(
    node: Node, wires: World, container: Container, fleet: Fleet
) -> None:
    left_behind(node, wires, fleet)
    container.kill()
    container.wait()
    found = recover(force=True)
    assert found.healed and "its network namespace is gone" in found.lines()[0]
    assert arrives(wires["w"], wires["a"]), "its agent was ended where it runs, which healed it"


def test_recover_when_its_number_is_another_process(
    node: Node, wires: World, fleet: Fleet, tmp_path: Path
) -> None:
    """A process elsewhere was given the number: nothing is looked for in its network."""
    book = left_behind(node, wires, fleet)
    other = subprocess.Popen(["nsenter", f"--net={wires['b'].netns}", "sleep", "600"])
    try:
        text = book.read_text()
        book.write_text(text.replace(f'"pid": {node.pid},', f'"pid": {other.pid},'))
        found = recover(force=True)
    finally:
        other.kill()
        other.wait()
    assert found.healed and "its network namespace is gone" in found.lines()[0]
    assert arrives(wires["w"], wires["a"])


def left_behind(node: Node, wires: World, fleet: Fleet) -> Path:
    """A run's book that holds a partition open, whose controller lost interest."""
    ledger = Ledger.open("left-behind")
    injection = Injection(
        cut_off(wires), [node], lease_s=60, ledger=ledger, fleet=fleet, deadline_only=True
    )
    injection.arm()
    injection.fire()
    fleet.let_go(node)
    assert lost(wires["w"], wires["a"])
    assert any("arming" in line for line in ledger.path.read_text().splitlines())
    return ledger.path
