"""The way in: what is refused says why and what to do, and nothing hangs."""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from aftershock.errors import AftershockError, HostUnreachable, InvalidInput, Unsupported
from aftershock.hosts.connection import ChangedHostKey, LoginRefused, UnknownHostKey, connect
from aftershock.hosts.fleet import Fleet, host_for
from aftershock.hosts.local import NamespaceGone
from aftershock.inventory import Ssh, node_from_dict
from tests.agent.wires import World, wait_for

from .conftest import Far
from .sshds import Sshd, free_port, keys, know, sessions, sshd, tool

pytestmark = pytest.mark.root


def refusal(node: object, kind: type[AftershockError], within_s: float = 3.0) -> str:
    """Why no agent could be started."""
    began = time.monotonic()
    with pytest.raises(kind) as raised:
        host_for(node).start()  # type: ignore[arg-type]
    assert time.monotonic() - began < within_s
    assert type(raised.value) is kind, repr(raised.value)
    return str(raised.value)


def agents_in(far_env: dict[str, str]) -> list[Path]:
    return list(Path(far_env["XDG_CACHE_HOME"]).rglob("agent-*"))


def test_an_agent_says_who_it_is(far: Far) -> None:
    with closing(host_for(far()).start()) as channel:
        assert channel.hello["protocol"] == 1
        assert channel.who()["here"] is None, "its number means nothing here"
        assert channel.ask("facts", devices=["lo"])["protected"]["controller"] == ["127.0.0.1"]


def test_our_way_leads_through_no_other_namespace(hosts: World, server: Sshd, far: Far) -> None:
    """Cutting a container off from us cuts off no agent; one in the host's own network would."""
    inside, same = hosts["a"], far(pid=server.process.pid)
    for node, spared in ((inside, []), (same, ["127.0.0.1"])):
        with closing(host_for(node).start()) as channel:
            assert channel.ask("facts", devices=["lo"])["protected"]["controller"] == spared


def test_its_file_travels_once(far: Far, far_env: dict[str, str]) -> None:
    host_for(far()).start().close()
    (file,) = agents_in(far_env)
    arrived = file.stat()
    host_for(far()).start().close()
    again = file.stat()
    assert (again.st_ino, again.st_mtime_ns) == (arrived.st_ino, arrived.st_mtime_ns)


@pytest.mark.parametrize("spoil", [lambda whole: whole[:1000], lambda whole: whole + b"!"])
def test_a_file_that_was_tampered_with_is_replaced(
    far: Far, far_env: dict[str, str], spoil: Callable[[bytes], bytes]
) -> None:
    host_for(far()).start().close()
    (file,) = agents_in(far_env)
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    with closing(host_for(far()).start()) as channel:
        assert channel.is_open
    assert agents_in(far_env) == [file] and file.read_bytes() == whole


def test_a_folder_that_others_may_write_to(far: Far, far_env: dict[str, str]) -> None:
    folder = Path(far_env["XDG_CACHE_HOME"]) / "aftershock"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert "others may write to" in refusal(far(), HostUnreachable)
    assert agents_in(far_env) == []


def test_what_rc_files_print_is_passed_over(
    tmp_path: Path, far_env: dict[str, str], far: Far
) -> None:
    chatter = 'ForceCommand echo "Welcome!"; echo; exec sh -c "$SSH_ORIGINAL_COMMAND"'
    with sshd(tmp_path / "chatty", more=chatter) as chatty:
        ssh = {"port": chatty.port, "key": str(chatty.folder / "key")}
        ssh["known_hosts"] = str(chatty.folder / "known_hosts")
        host_for(far(ssh=ssh)).start().close()


def test_commands_that_are_not_run(tmp_path: Path, far: Far) -> None:
    with sshd(tmp_path / "other", more="ForceCommand echo Only git here. >&2; exit 1") as other:
        way = other.way()
        said = refusal(far(ssh=_changes(way)), HostUnreachable)
    assert "far: the agent did not start (Only git here.)" in said


def _changes(ssh: Ssh) -> dict[str, object]:
    return {name: getattr(ssh, name) for name in ("port", "key", "known_hosts", "address")}


def test_a_shell_that_says_nothing(tmp_path: Path, far: Far) -> None:
    with sshd(tmp_path / "mute", more="ForceCommand exec cat >/dev/null") as mute:
        node = far(ssh={**_changes(mute.way()), "timeout_s": 1.0})
        assert "started no agent in time" in refusal(node, HostUnreachable)


def test_a_user_who_may_run_nothing(tmp_path: Path, far: Far) -> None:
    with sshd(tmp_path / "none", more="MaxSessions 0") as none:
        said = refusal(far(ssh=_changes(none.way())), HostUnreachable)
    assert "far: it let us in, but runs no command" in said


def test_an_unknown_host_key(server: Sshd, far: Far, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    said = refusal(far(ssh={"known_hosts": str(empty)}), UnknownHostKey)
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> {empty}" in said and "SHA256:" in said
    assert "session opened" not in server.log() and "Accepted" not in server.log()


def test_a_changed_host_key(server: Sshd, far: Far, tmp_path: Path) -> None:
    keys(tmp_path, "other")
    known = tmp_path / "known"
    know(known, tmp_path / "other.pub", ("127.0.0.1",), server.port)
    said = refusal(far(ssh={"known_hosts": str(known)}), ChangedHostKey)
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}' -f {known}" in said
    assert "Accepted" not in server.log()


def test_a_key_that_is_not_let_in(far: Far, tmp_path: Path) -> None:
    keys(tmp_path, "stranger")
    said = refusal(far(ssh={"key": str(tmp_path / "stranger")}), LoginRefused)
    assert "refuses root by the key" in said and "authorized_keys" in said


def test_a_key_that_is_not_there(far: Far) -> None:
    said = refusal(far(ssh={"key": "/nowhere/id"}), InvalidInput)
    assert "the key /nowhere/id: No such file" in said


def test_a_key_of_an_ssh_agent(
    server: Sshd, far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "agent.sock"
    words = [tool("ssh-agent"), "-D", "-a", str(place)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        assert wait_for(place.exists)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        monkeypatch.setenv("HOME", str(tmp_path))  # no other keys
        try:
            assert "no key to show" in refusal(far(ssh={"key": None}), LoginRefused)
            key = str(server.folder / "key")
            subprocess.run([tool("ssh-add"), key], check=True, capture_output=True)
            host_for(far(ssh={"key": None})).start().close()
        finally:
            process.kill()


def test_an_encrypted_key(server: Sshd, far: Far) -> None:
    key = str(server.folder / "key")
    words = [tool("ssh-keygen"), "-q", "-p", "-P", "", "-N", "secret", "-f", key]
    subprocess.run(words, check=True, capture_output=True)
    assert "is encrypted: load it into an SSH agent (ssh-add)" in refusal(far(), LoginRefused)


def test_nobody_listens(far: Far) -> None:
    said = refusal(far(ssh={"port": free_port()}), HostUnreachable)
    assert "Connection refused" in said and "address and port" in said


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Something that listens and is no SSH server; its port."""
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        plug.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    line, _ = plug.accept()
                    threading.Thread(target=quietly, args=(line,), daemon=True).start()

        def quietly(line: socket.socket) -> None:
            with suppress(OSError), line:
                answer(line)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield plug.getsockname()[1]
        plug.shutdown(socket.SHUT_RDWR)
        thread.join()


def dribble(line: socket.socket) -> None:
    while True:
        line.sendall(b"x")
        time.sleep(0.05)


def flood(line: socket.socket) -> None:
    while True:
        line.sendall(b"\n".join([b"y" * 60] * 100))


def mock(line: socket.socket) -> None:
    line.sendall(b"SSH-2.0-honest\r\n")
    while True:
        line.sendall(b"\0\0\0\1")
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda line: time.sleep(4), "said nothing within 1 s"),
        (lambda line: line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "answers b'HTTP/1.1 400"),
        (lambda line: None, "closes the connection at once"),
        (dribble, "which isn't SSH: is the port right?"),
        (flood, "which isn't SSH: is the port right?"),
        (mock, "is it an SSH server that works?"),
    ],
    ids=["silent", "http", "closed", "dribble", "flood", "mock"],
)
def test_what_answers_is_no_ssh_server(
    far: Far, answer: Callable[[socket.socket], None], sentence: str
) -> None:
    with listener(answer) as port:
        said = refusal(far(ssh={"port": port, "timeout_s": 1.0}), HostUnreachable)
    assert sentence in said and "far:" in said


def test_no_python(far: Far) -> None:
    said = refusal(far(ssh={"python": "python3.0"}), Unsupported)
    assert "there is no python3.0: install Python 3.9 or newer, or name another" in said


def test_a_process_that_is_gone(far: Far) -> None:
    assert "far: no process 4194297 there" in refusal(far(pid=2**22 - 7), NamespaceGone)


def test_a_jump_host(far: Far, tmp_path: Path, server: Sshd) -> None:
    with sshd(tmp_path / "jump") as jump:
        node = far(ssh={"jump": jump.way()})
        with closing(host_for(node).start()) as channel:
            assert channel.ask("clock") > 0
        assert "Accepted" in jump.log()
        gone = far(ssh={"port": free_port(), "jump": jump.way()})
        assert "127.0.0.1 does not get through to 127.0.0.1 port" in refusal(gone, HostUnreachable)


def test_a_jump_host_that_is_gone_is_no_traceback(far: Far, tmp_path: Path) -> None:
    """paramiko says goodbye through it in a thread of its own, which would print what it raises."""
    with sshd(tmp_path / "jump") as jump:
        way = connect("far", Ssh(**{**asdict(far().ssh), "jump": jump.way()}))
        tunnel = way.transport.sock
        for line in (tunnel.transport.sock, tunnel):
            line.close()
        way.close()


def test_many_hosts_behind_a_jump_host_share_its_connection(
    far: Far, tmp_path: Path, fleet: Fleet
) -> None:
    with sshd(tmp_path / "jump", more="MaxStartups 2:100:2") as jump:
        nodes = [far(f"far-{number}", ssh={"jump": jump.way()}) for number in range(8)]
        assert all(channel.is_open for channel in fleet.channels(nodes).values())
        fleet.let_go(nodes[0])
        assert fleet.fresh(nodes[1]).ask("clock") > 0, "the others still go through it"
        fleet.close()
        assert jump.log().count("Accepted") == 1
        assert wait_for(lambda: not sessions(jump)), "the last one closed it"


def test_a_jump_host_that_does_not_forward(far: Far, tmp_path: Path) -> None:
    with sshd(tmp_path / "jump", more="AllowTcpForwarding no") as jump:
        said = refusal(far(ssh={"jump": jump.way()}), HostUnreachable)
    assert "AllowTcpForwarding" in said


def test_a_silent_host_behind_a_jump_host(far: Far, server: Sshd, tmp_path: Path) -> None:
    with sshd(tmp_path / "jump") as jump, listener(lambda line: time.sleep(4)) as port:
        node = far(ssh={"port": port, "jump": jump.way(), "timeout_s": 1.0})
        assert "not done within 1 s" in refusal(node, HostUnreachable)


def test_an_sshd_that_is_busy_is_tried_again(far: Far, tmp_path: Path) -> None:
    """One unfinished login is all that it allows; we come when another is under way."""
    with sshd(tmp_path / "busy", more="MaxStartups 1:100:1") as busy:
        other = socket.create_connection(("127.0.0.1", busy.port))
        other.recv(4)
        timer = threading.Timer(0.4, other.close)
        timer.start()
        host_for(far(ssh=_changes(busy.way()))).start().close()
        timer.join()
        assert "MaxStartups" in busy.log()


def test_the_node_survives_the_ledger(far: Far, tmp_path: Path) -> None:
    node = far(pid=7, ssh={"jump": Ssh("10.0.0.1", user="ops"), "password_env": "SECRET"})
    assert node_from_dict(json.loads(json.dumps(node.to_dict()))) == node
