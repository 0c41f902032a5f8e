"""Users, passwords and sudo: an sshd whose accounts exist in its own mounts only."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from aftershock.doctor import examine
from aftershock.errors import HostUnreachable, InvalidInput
from aftershock.hosts.connection import LoginRefused
from aftershock.hosts.fleet import Fleet, host_for
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger
from tests.agent.wires import World, arrives, cut_off, lost

from .sshds import MARK, ROOT_ALONE, Sshd, etc, sshd, tool
from .test_way_in import refusal

pytestmark = pytest.mark.root

PASSWORD = "correct horse battery staple"
_HASH = "$6$aftershock$Tx41ia6p1FPz0evMxl1aXvbbILSLN3elE.s97KoEhtCzpRT0yY3nvEYJ/3e1MsmpwX21pHV6b11sl0NmFkBAE1"  # noqa: E501
OPS = 4242  # may become root without a password; `guest` may with one
_FILES = {
    "passwd": f"{ROOT_ALONE}ops:x:{OPS}:{OPS}::/:/bin/sh\nguest:x:4243:4243::/:/bin/sh\n",
    "shadow": f"root:{_HASH}:1::::::\nops:{_HASH}:1::::::\nguest:{_HASH}:1::::::\n",
    "sudoers": "Defaults use_pty\nops ALL=(ALL) NOPASSWD: ALL\nguest ALL=(ALL) ALL\n",
}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that every user may look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def accounts(open_folder: Path, wires: World) -> Iterator[Sshd]:
    """An sshd with users of its own; it sees the namespaces that were there before it."""
    tool("sudo")
    own = etc(open_folder, **_FILES)
    with sshd(open_folder / "sshd", before=own) as made:
        yield made


@pytest.fixture
def login(accounts: Sshd, far_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node that `ops` logs in to, with a password."""
    monkeypatch.setenv("OPS_PASSWORD", PASSWORD)
    ssh = accounts.way(user="ops", key=None, password_env="OPS_PASSWORD")
    return Node("far", "in", ("127.0.0.1",), env=far_env, ssh=ssh)


def through(node: Node, **more: object) -> Node:
    """The same with another way in."""
    assert node.ssh
    return replace(node, ssh=replace(node.ssh, **more))  # type: ignore[arg-type]


def test_sudo_makes_a_user_root(login: Node, far_env: dict[str, str]) -> None:
    with closing(host_for(login).start()) as channel:
        facts = channel.ask("facts", devices=["lo"])
        assert facts["root"] is True
        assert facts["protected"]["controller"] == ["127.0.0.1"], "sudo drops SSH_CONNECTION"
    (file,) = Path(far_env["XDG_CACHE_HOME"]).rglob("agent-*")
    assert file.stat().st_uid == 0


def test_a_partition_by_sudo(login: Node, wires: World, fleet: Fleet, ledger: Ledger) -> None:
    node = replace(wires["a"], env=login.env, ssh=login.ssh)
    fault = cut_off(wires, "a", hook="clsact")
    injection = Injection(fault, [node], lease_s=20, ledger=ledger, fleet=fleet)
    injection.arm()
    assert arrives(wires["w"], wires["a"])
    injection.fire()
    assert lost(wires["w"], wires["a"])
    fleet.let_go(node)  # the connection goes, and sudo with it
    assert arrives(wires["w"], wires["a"])
    injection.revert()
    assert injection.to_dict()["per_host"]["node-a"]["ended_by"] == "channel lost"


def test_sudo_that_wants_a_password(login: Node) -> None:
    said = refusal(through(login, user="guest"), HostUnreachable)
    assert "`sudo -n` refuses (a password is required): let the user run sudo without" in said


def test_without_sudo_a_user_stays_who_it_is(
    login: Node, open_folder: Path, far_env: dict[str, str]
) -> None:
    own = open_folder / "own"
    own.mkdir()
    os.chown(own, OPS, OPS)
    env = {"AFTERSHOCK_STATE": str(own / "state"), "XDG_CACHE_HOME": str(own / "cache")}
    if not Path("/usr/bin/python3").exists():
        pytest.skip("no python3 here that every user may run")
    stays = through(login, sudo=False, python="/usr/bin/python3")
    node = replace(stays, env={**env, MARK: far_env[MARK]})
    with closing(host_for(node).start()) as channel:
        assert channel.ask("facts", devices=["lo"])["root"] is False
    privileges = examine([replace(node, devices=("lo",))]).hosts[0].checks[0]
    assert privileges.ok is False and "`sudo: true`" in privileges.mend
    (file,) = own.rglob("agent-*")
    assert file.stat().st_uid == OPS


def test_a_wrong_password(login: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPS_PASSWORD", "swordfish")
    said = refusal(login, LoginRefused, within_s=6.0)
    assert "refuses ops by the password in OPS_PASSWORD" in said and "swordfish" not in said


def test_a_password_that_is_not_given(login: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPS_PASSWORD")
    assert "to be in OPS_PASSWORD: set that variable" in refusal(login, InvalidInput)


def test_the_password_is_written_nowhere(
    login: Node, wires: World, fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    ledger = Ledger.open("secretive")
    node = replace(wires["a"], env=login.env, ssh=login.ssh)
    injection = Injection(cut_off(wires), [node], lease_s=20, ledger=ledger, fleet=fleet)
    injection.arm()
    texts = [path.read_text(errors="replace") for path in tmp_path.rglob("*.json*")]
    assert any("OPS_PASSWORD" in text for text in texts), "the ledger names the variable"
    assert not any(PASSWORD in text for text in [*texts, caplog.text, repr(injection.to_dict())])
    injection.revert()
    ledger.close()
