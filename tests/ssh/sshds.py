"""A real sshd with keys, accounts and a configuration of its own; nothing of the machine's."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from aftershock.inventory import Ssh

T = TypeVar("T")
MARK = "AFTERSHOCK_TEST_MARK"
PATHS = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
_CONFIG = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication yes
KbdInteractiveAuthentication no
PrintMotd no
UseDNS no
SetEnv {mark}={value}
"""


def tool(name: str) -> str:
    """Where a program is; the test is skipped, loudly, where it isn't."""
    found = shutil.which(name, path=PATHS)
    if not found:
        pytest.skip(f"no {name} here: `make test` installs openssh-server and sudo")
    return found


@dataclass
class Sshd:
    """One server: where it listens, and how to get in as root."""

    folder: Path
    port: int
    addresses: tuple[str, ...]
    process: "subprocess.Popen[bytes]"
    env: dict[str, str] = field(default_factory=dict)

    def way(self, **more: object) -> Ssh:
        """The way in, by its one key."""
        given: dict[str, object] = {
            "address": self.addresses[0],
            "port": self.port,
            "user": "root",
            "key": str(self.folder / "key"),
            "known_hosts": str(self.folder / "known_hosts"),
            "python": sys.executable,
        }
        return Ssh(**{**given, **more})  # type: ignore[arg-type]

    def log(self) -> str:
        """What it said."""
        return (self.folder / "log").read_text()


def sessions(server: Sshd) -> list[int]:
    """sshd's processes for those who are logged in."""
    listed = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
    return [int(word) for word in Path(listed).read_text().split()]


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on."""
    with socket.socket() as plug:
        plug.bind((address, 0))
        return int(plug.getsockname()[1])


def keys(folder: Path, *names: str) -> None:
    """Key pairs, made anew."""
    for name in names:
        words = [tool("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)


@contextlib.contextmanager
def sshd(
    folder: Path,
    *addresses: str,
    port: int = 0,
    more: str = "",
    before: tuple[str, ...] = (),
    netns: str | None = None,
) -> Iterator[Sshd]:
    """Run one on some addresses; `more` configuration lines, `before`: words in front of it."""
    listens = addresses or ("127.0.0.1",)
    folder.mkdir(parents=True, exist_ok=True)
    # It wants this one to be there, and empty; its own service makes it. Others may use it too.
    Path("/run/sshd").mkdir(exist_ok=True)
    keys(folder, "host_key", "key")
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    port = port or free_port(listens[0])
    value = os.environ.get(MARK, "none")
    lines = [f"Port {port}", *(f"ListenAddress {one}" for one in listens)]
    text = "\n".join([more, *lines, _CONFIG.format(folder=folder, mark=MARK, value=value)])
    (folder / "config").write_text(text)
    know(folder / "known_hosts", folder / "host_key.pub", listens, port)
    enter = [tool("nsenter"), f"--net={netns}"] if netns else []
    command = [*enter, *before, tool("sshd"), "-D", "-e", "-f", str(folder / "config")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    made = Sshd(folder, port, listens, process)
    try:
        until = time.monotonic() + 5
        while "Server listening" not in made.log() and time.monotonic() < until:
            assert process.poll() is None, made.log()
            time.sleep(0.01)
        yield made
    finally:
        # A session whose network went before it has nobody to end it, and no mark on it either.
        for number in sessions(made) if process.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.kill()
        process.wait()


ROOT_ALONE = "root:x:0:0::/:/bin/sh\nsshd:x:105:65534::/run/sshd:/bin/false\n"


def etc(folder: Path, **files: str) -> tuple[str, ...]:
    """Words before a command that give it other files in /etc, in mounts of its own."""
    mounts = []
    for name, text in files.items():
        path = folder / name
        path.write_text(text)
        path.chmod(0o440)
        mounts.append(f"mount --bind {path} /etc/{name}")
    script = " && ".join([*mounts, 'exec "$@"'])
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")


def know(path: Path, public: Path, addresses: tuple[str, ...], port: int) -> None:
    """Write a known_hosts file, as ssh-keyscan would."""
    key = " ".join(public.read_text().split()[:2])
    names = [one if port == 22 else f"[{one}]:{port}" for one in addresses]
    path.write_text("".join(f"{name} {key}\n" for name in names))


def unique() -> str:
    """A word for names of things of the kernel."""
    return secrets.token_hex(3)


def in_netns(netns: str, call: Callable[[], T]) -> T:
    """Call something in a network namespace: threads and processes that it starts are in it too."""
    import ctypes

    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            with Path(netns).open(encoding="utf-8") as file:
                assert not ctypes.CDLL(None).setns(file.fileno(), 0x40000000)
            outcome.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
