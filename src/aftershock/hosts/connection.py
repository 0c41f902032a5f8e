"""The way in over SSH, by paramiko: hosts' keys checked strictly, and every wait bounded."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import paramiko

from aftershock.errors import HostUnreachable, InvalidInput
from aftershock.inventory import Ssh

CUT = (paramiko.SSHException, EOFError, OSError)  # what paramiko says of a line that is no more
_LOG = "aftershock.paramiko"
_SYSTEM_KEYS = "/etc/ssh/ssh_known_hosts"
_BUSY = b"Exceeded MaxStartups"
_TRIES = 4  # sshd drops connections while too many are being made (MaxStartups)
_LOOK_S = 0.01
_NO_KEYS = "No authentication methods available"  # paramiko has no class for it
logging.getLogger(_LOG).setLevel(logging.CRITICAL + 1)  # what it would say, our errors say


class UnknownHostKey(HostUnreachable):
    """The host's key is in no known_hosts file."""


class ChangedHostKey(HostUnreachable):
    """The host's key is another than the known one."""


class LoginRefused(HostUnreachable):
    """The host is there and doesn't let us in."""


class _Dropped(Exception):
    """The connection was closed before anything was said."""


class Connection:
    """One logged-in connection, perhaps through a jump host's."""

    def __init__(self, client: paramiko.SSHClient, jump: Ssh | None) -> None:
        self._client = client
        self._jump = jump

    @property
    def transport(self) -> Any:
        """paramiko's own."""
        return self._client.get_transport()

    def run(self, name: str, command: str, within_s: float) -> Any:
        """Start a command; its channel."""
        try:
            with _watchdog(self.transport.sock, time.monotonic() + within_s):
                channel = self.transport.open_session()
                channel.exec_command(command)
        except CUT as error:
            raise HostUnreachable(
                f"{name}: it let us in, but runs no command ({error or 'cut'}): may the user?"
            ) from error
        return channel

    def close(self) -> None:
        """Let go of it. Twice is fine."""
        with contextlib.suppress(*CUT):  # it says goodbye, perhaps through a line that is cut
            self._client.close()
        jump, self._jump = self._jump, None
        if jump:
            _jumps.give(jump)


@dataclass
class _Jump:
    """A jump host's one connection, and how many go through it."""

    users: int = 0
    connection: Connection | None = None
    connecting: threading.Lock = field(default_factory=threading.Lock)


class _Jumps:
    """Connections to jump hosts: one each, for all that lie behind it."""

    def __init__(self) -> None:
        self._held: dict[Ssh, _Jump] = {}
        self._lock = threading.Lock()

    def take(self, name: str, ssh: Ssh) -> Connection:
        """The connection to a jump host; to be given back."""
        with self._lock:
            jump = self._held.setdefault(ssh, _Jump())
            jump.users += 1
        try:
            with jump.connecting:
                if jump.connection is None or not jump.connection.transport.is_active():
                    jump.connection = connect(f"{name}: jump host {ssh.address}", ssh)
                return jump.connection
        except BaseException:
            self.give(ssh)
            raise

    def give(self, ssh: Ssh) -> None:
        """Who took it needs it no more; the last one closes it."""
        with self._lock:
            jump = self._held[ssh]
            jump.users -= 1
            if jump.users:
                return
            del self._held[ssh]
        if jump.connection:
            jump.connection.close()


_jumps = _Jumps()


def connect(name: str, ssh: Ssh) -> Connection:
    """Log in; HostUnreachable says at which step it failed, and the mend."""
    jump = _jumps.take(name, ssh.jump) if ssh.jump else None
    until = time.monotonic() + ssh.timeout_s
    try:
        for attempt in range(1, _TRIES + 1):
            try:
                return Connection(_client(name, ssh, jump, until), ssh.jump)
            except _Dropped as error:
                if attempt == _TRIES or time.monotonic() > until:
                    raise HostUnreachable(
                        f"{name}: {_where(ssh)} closes the connection at once ({error}): does its "
                        "sshd allow so many at a time (MaxStartups), and from here?"
                    ) from None
                time.sleep(0.2 * attempt)
        raise AssertionError("not reached")
    except BaseException:
        if ssh.jump:
            _jumps.give(ssh.jump)
        raise


def _client(name: str, ssh: Ssh, jump: Connection | None, until: float) -> paramiko.SSHClient:
    line = _through(name, ssh, jump) if jump else _direct(name, ssh, until)
    client = paramiko.SSHClient()
    try:
        client.set_log_channel(_LOG)
        client.set_missing_host_key_policy(_Refuse(name, ssh))
        for path in _known_hosts(ssh):
            client.load_system_host_keys(path)
        with _watchdog(line, until) as late, _named(name, ssh, late, until):
            _log_in(client, name, ssh, line, until)
    except BaseException:
        with contextlib.suppress(*CUT):
            client.close()
            line.close()
        raise
    return client


def _log_in(client: paramiko.SSHClient, name: str, ssh: Ssh, line: Any, until: float) -> None:
    left = max(until - time.monotonic(), 0.1)
    password = _password(name, ssh)
    alone = bool(ssh.key or password)  # other keys would use up the host's patience (MaxAuthTries)
    client.connect(
        ssh.address,
        ssh.port,
        ssh.user,
        password,
        key_filename=ssh.key and str(Path(ssh.key).expanduser()),
        sock=line,
        timeout=left,
        banner_timeout=left,
        auth_timeout=left,
        channel_timeout=left,
        allow_agent=not alone,
        look_for_keys=not alone,
    )


def _password(name: str, ssh: Ssh) -> str | None:
    if not ssh.password_env:
        return None
    if not (password := os.environ.get(ssh.password_env)):
        raise InvalidInput(
            f"{name}: its password is to be in {ssh.password_env}: set that variable"
        )
    return password


def _direct(name: str, ssh: Ssh, until: float) -> socket.socket:
    """A connected socket on which an SSH server has begun to speak."""
    try:
        line = socket.create_connection((ssh.address, ssh.port), max(until - time.monotonic(), 0.1))
    except OSError as error:
        raise HostUnreachable(
            f"{name}: {_where(ssh)}: {error.strerror or error}: is the host up, and is this its "
            "address and port?"
        ) from error
    try:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # paramiko doesn't: 40 ms a turn
        _await_banner(name, ssh, line, until)
    except BaseException:
        line.close()
        raise
    return line


def _await_banner(name: str, ssh: Ssh, line: socket.socket, until: float) -> None:
    """Look, without taking it, whether what comes is SSH: paramiko would listen to anything."""
    heard = b""
    while not any(one.startswith(b"SSH-") for one in heard.split(b"\n")):
        if heard.startswith(_BUSY):
            raise _Dropped("it is busy")
        if len(heard) > 4096 or (heard and (time.monotonic() > until or _has_ended(line))):
            raise HostUnreachable(
                f"{name}: {_where(ssh)} answers {heard[:40]!r}, which isn't SSH: is the port right?"
            )
        line.settimeout(max(until - time.monotonic(), _LOOK_S))
        before = len(heard)
        try:
            heard = line.recv(8192, socket.MSG_PEEK)
        except TimeoutError:
            raise HostUnreachable(
                f"{name}: {_where(ssh)} said nothing within {ssh.timeout_s:g} s: is it an SSH "
                "server, and does it hang?"
            ) from None
        except OSError as error:
            raise _Dropped(error.strerror) from None
        if not heard:
            raise _Dropped("without a word")
        if len(heard) == before:  # what was seen is seen at once again
            time.sleep(_LOOK_S)
    line.settimeout(None)


def _has_ended(line: socket.socket) -> bool:
    return line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1  # established


def _through(name: str, ssh: Ssh, jump: Connection) -> Any:
    try:
        tunnel = jump.transport.open_channel(
            "direct-tcpip", (ssh.address, ssh.port), ("127.0.0.1", 0), timeout=ssh.timeout_s
        )
    except CUT as error:
        assert ssh.jump
        raise HostUnreachable(
            f"{name}: {ssh.jump.address} does not get through to {_where(ssh)} ({error}): may it "
            "forward (AllowTcpForwarding), and is the host up?"
        ) from error
    # A thread of paramiko's closes it, too, and would print what a jump host that is gone raises.
    tunnel.close = _unless_cut(tunnel.close)
    return tunnel


def _unless_cut(close: Callable[[], None]) -> Callable[[], None]:
    def quietly() -> None:
        with contextlib.suppress(*CUT):
            close()

    return quietly


@contextlib.contextmanager
def _watchdog(line: Any, until: float) -> Iterator[threading.Event]:
    """Close a line on which somebody talks and talks; the event says that it was."""
    late = threading.Event()

    def bite() -> None:
        late.set()
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(until - time.monotonic(), 0.1), bite)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


@contextlib.contextmanager
def _named(name: str, ssh: Ssh, late: threading.Event, until: float) -> Iterator[None]:
    """paramiko's errors as ours."""
    try:
        yield
    except paramiko.BadHostKeyException as error:
        raise ChangedHostKey(
            f"{name}: {_where(ssh)} has another key ({_fingerprint(error.key)}) than the known "
            f"one ({_fingerprint(error.expected_key)}): somebody may be listening in: if it was "
            f"set up anew, remove the old key: ssh-keygen -R '{_entry(ssh)}'{_into(ssh)}"
        ) from None
    except paramiko.PasswordRequiredException:
        raise LoginRefused(
            f"{name}: the key {ssh.key} is encrypted: load it into an SSH agent (ssh-add) and "
            "leave out `key`"
        ) from None
    except paramiko.AuthenticationException as error:
        raise LoginRefused(
            f"{name}: {_where(ssh)} refuses {ssh.user or 'this user'} by {_by(ssh)} ({error}): "
            "add the key's public part to ~/.ssh/authorized_keys there, or name another"
        ) from None
    except (*CUT, ValueError) as error:
        if isinstance(error, OSError) and ssh.key and error.filename:
            raise InvalidInput(f"{name}: the key {ssh.key}: {error.strerror}") from None
        if str(error) == _NO_KEYS:
            raise LoginRefused(
                f"{name}: no key to show at {_where(ssh)}: load one into an SSH agent (ssh-add), "
                "or name its file by `key`"
            ) from None
        over = late.is_set() or time.monotonic() >= until  # paramiko may have seen it first
        why = f"not done within {ssh.timeout_s:g} s" if over else str(error) or "cut"
        raise HostUnreachable(
            f"{name}: logging in at {_where(ssh)}: {why}: is it an SSH server that works?"
        ) from error


class _Refuse:
    """An unknown key is an error that says how to make it a known one."""

    def __init__(self, name: str, ssh: Ssh) -> None:
        self._name, self._ssh = name, ssh

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
        ssh = self._ssh
        raise UnknownHostKey(
            f"{self._name}: the key of {_where(ssh)} ({_fingerprint(key)}) is not known: compare "
            "it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there, then add it: "
            f"ssh-keyscan -p {ssh.port} {ssh.address} >> {ssh.known_hosts or '~/.ssh/known_hosts'}"
        )


def _known_hosts(ssh: Ssh) -> list[str]:
    if ssh.known_hosts:
        return [str(Path(ssh.known_hosts).expanduser())]
    own = [str(Path("~/.ssh/known_hosts").expanduser()), _SYSTEM_KEYS]
    return [path for path in own if Path(path).exists()]


def _fingerprint(key: Any) -> str:
    """As ssh-keygen -l shows it."""
    digest = b64encode(sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"{key.get_name()} SHA256:{digest}"


def _entry(ssh: Ssh) -> str:
    return ssh.address if ssh.port == 22 else f"[{ssh.address}]:{ssh.port}"


def _into(ssh: Ssh) -> str:
    return f" -f {ssh.known_hosts}" if ssh.known_hosts else ""


def _where(ssh: Ssh) -> str:
    return f"{ssh.address} port {ssh.port}"


def _by(ssh: Ssh) -> str:
    if ssh.key:
        return f"the key {ssh.key}"
    if ssh.password_env:
        return f"the password in {ssh.password_env}"
    return "the keys of the SSH agent and of ~/.ssh"
