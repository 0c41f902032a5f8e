"""Where the matrix is played: hosts with a wire each to an outside, reached in one of the ways.

controller ─ way ─> host: eth0 ══ veth ══ p0 :outside, which also sees what gets through
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from victims import Victim, victims

from aftershock.agent import bpf
from aftershock.inventory import Node
from tests.agent.wires import inside
from tests.conftest import MARK
from tests.ssh.sshds import Sshd, sshd

KINDS = ("tcx", "clsact", "divert", "divert-clsact")
_DATAGRAMS, _BYTES, _WAIT_S = 12, 1200, 0.15
_PORT = 4000


@dataclass
class Site:
    """A host for each kind of fault; those of storage and processes have a victim and no wire."""

    nodes: list[Node] = field(default_factory=list)
    homes: dict[str, str] = field(default_factory=dict)  # a node's namespace, to look into
    outside: str = ""
    enter: list[str] = field(default_factory=list)  # what the controller's command begins with
    own: set[int] = field(default_factory=set)  # processes of the site itself, such as sshd
    cut: Callable[[], None] | None = None  # cuts all connections; None: only the controller can
    victims: dict[str, Victim] = field(default_factory=dict)
    far: str = ""  # where agents keep what is theirs, if that isn't the controller's own place

    def look(self) -> dict[str, str]:
        """Each host's devices and traffic control, in the words of `ip` and `tc`, and its TCX."""
        seen = {one.name: _look(self.homes[one.name], one.devices[0]) for one in self.wired}
        return seen | {kind: victim.look() for kind, victim in self.victims.items()}

    @property
    def wired(self) -> list[Node]:
        """The hosts of network faults."""
        return [node for node in self.nodes if node.name not in self.victims]

    def processes(self) -> dict[int, str]:
        """Who lives in the hosts' namespaces, beside the site's own."""
        homes = {Path(home).stat().st_ino for home in self.homes.values()}
        return {pid: words for pid, words in _in_network(homes) if pid not in self.own}

    def passes(self, twice: bool = False) -> dict[str, bool]:
        """Whether what the outside sends gets to each host: all of it, at the usual speed.

        And whether each victim does what it is there for; `twice`: only of those that a second
        injection goes over.
        """
        others = {k: one for k, one in self.victims.items() if not (twice and "ONCE" in one.env)}
        with ThreadPoolExecutor(len(self.wired) + len(others) + 1) as pool:
            asked = {kind: pool.submit(victim.passes) for kind, victim in others.items()}
            got = pool.map(lambda pair: self._got(*pair), enumerate(self.wired))
            seen = {
                node.name: count == _DATAGRAMS for node, count in zip(self.wired, got, strict=True)
            }
            return seen | {kind: answer.result() for kind, answer in asked.items()}

    def add_victims(self, found: dict[str, Victim], **more: Any) -> None:
        """A host each, reached as the first of the others is."""
        for kind, victim in found.items():
            env = {**victim.env, **more.get("env", {})}
            rest = {name: value for name, value in more.items() if name != "env"}
            self.nodes.append(Node(kind, "z", ("127.0.0.1",), (), env=env, **rest))
            self.own |= victim.pids
        self.victims = found

    def _got(self, number: int, node: Node) -> int:
        """How many of the datagrams that the outside sends from an address of its own arrive."""
        address = node.addresses[0]
        with (
            inside(self.homes[node.name], _datagrams) as there,
            inside(self.outside, _datagrams) as here,
        ):
            there.bind((address, 0))
            there.settimeout(_WAIT_S)
            here.bind((f"10.98.{number}.3", 0))
            got = 0
            for _ in range(_DATAGRAMS):
                here.sendto(b"?" * _BYTES, there.getsockname())
            try:
                while got < _DATAGRAMS:
                    there.recv(_BYTES)
                    got += 1
            except TimeoutError:
                pass
            return got


Way = Callable[[Path], AbstractContextManager[Site]]


@contextmanager
def here(folder: Path) -> Iterator[Site]:
    """The controller is on the host itself: agents are its children, in its own namespace."""
    with _namespaces("h", "w") as (home, outside), victims(folder) as found:
        site = Site(outside=outside, enter=["nsenter", f"--net={home}"])
        for number, kind in enumerate(KINDS):
            _wire(number, home, f"eth{number}", outside)
            _add(site, kind, number, home, device=f"eth{number}")
        site.add_victims(found)
        yield _settled(site)


@contextmanager
def namespace(folder: Path) -> Iterator[Site]:
    """Each host is a network namespace that its agent enters."""
    names = [f"n{number}" for number in range(len(KINDS))]
    with _namespaces("w", *names) as (outside, *homes), victims(folder) as found:
        site = Site(outside=outside)
        for number, (kind, home) in enumerate(zip(KINDS, homes, strict=True)):
            _wire(number, home, "eth0", outside)
            _add(site, kind, number, home, netns=home)
        site.add_victims(found, netns=homes[0])
        yield _settled(site)


@contextmanager
def ssh(folder: Path) -> Iterator[Site]:
    """Each host has an sshd at the far end of its wire, so a fault may cut its own channel."""
    names = [f"n{number}" for number in range(len(KINDS))]
    with _namespaces("w", *names) as (outside, *homes), ExitStack() as servers:
        site = Site(outside=outside, enter=["nsenter", f"--net={outside}"], far="far/ssh")
        env = {"XDG_CACHE_HOME": str(folder.parent / "cache"), MARK: os.environ[MARK]}
        env["AFTERSHOCK_STATE"] = str(folder / "disk" / "far")
        running = []
        for number, (kind, home) in enumerate(zip(KINDS, homes, strict=True)):
            _wire(number, home, "eth0", outside)
            made = sshd(folder / f"sshd-{kind}", f"10.98.{number}.1", port=2222, netns=home)
            running.append(servers.enter_context(made))
            _add(site, kind, number, home, env=env, ssh=running[-1].way(timeout_s=5.0))
        # In the network of a host whose faults spare the controller by TCX, which leaves nothing.
        found = servers.enter_context(victims(folder))
        site.add_victims(found, env=env, ssh=running[0].way(timeout_s=5.0))
        site.own |= {server.process.pid for server in running}
        site.cut = lambda: [os.kill(pid, signal.SIGKILL) for pid in _sessions(running)] and None
        try:
            yield _settled(site)
        finally:  # of a play that failed, whose connections nobody will ever close
            for pid in _sessions(running):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _sessions(servers: list[Sshd]) -> list[int]:
    """sshd's processes for those who are logged in."""
    pids = [server.process.pid for server in servers]
    lists = [Path(f"/proc/{pid}/task/{pid}/children").read_text() for pid in pids]
    return [int(word) for words in lists for word in words.split()]


def _settled(site: Site) -> Site:
    """Once its wires are up and the ends know each other."""
    for _ in range(50):
        if all(site.passes().values()):
            return site
    raise AssertionError(f"a new site doesn't let everything through: {site.passes()}")


def _add(site: Site, kind: str, number: int, home: str, device: str = "eth0", **more: Any) -> None:
    env = {"SPARED": f"10.98.{number}.2", **more.pop("env", {})}
    addresses = (f"10.98.{number}.1",)
    site.nodes.append(Node(kind, "z", addresses, (device,), env=env, **more))
    site.homes[kind] = home


@contextmanager
def _namespaces(*names: str) -> Iterator[list[str]]:
    prefix = f"as-s{secrets.token_hex(3)}"
    made = [f"{prefix}-{name}" for name in names]
    try:
        for name in made:
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        yield [f"/run/netns/{name}" for name in made]
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _wire(number: int, home: str, device: str, outside: str) -> None:
    """10.98.N.1 at the host; outside .2 is the controller's, and .3 a stranger's."""
    home, outside = Path(home).name, Path(outside).name
    words = f"link add {device} netns {home} type veth peer name p{number} netns {outside}"
    _run("ip", *words.split())
    ends = ((home, device, (1,)), (outside, f"p{number}", (2, 3)))
    for where, name, last in ends:
        for byte in last:
            _run("ip", "-n", where, "addr", "add", f"10.98.{number}.{byte}/24", "dev", name)
        _run("ip", "-n", where, "link", "set", name, "up")


def _run(*words: str) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


def _look(home: str, device: str) -> str:
    name = Path(home).name
    links = _run("ip", "-n", name, "-br", "link").splitlines()
    seen = [" ".join(line.split()[:3]) for line in links]
    seen += _run("tc", "-n", name, "qdisc", "show").splitlines()
    for way in ("ingress", "egress"):
        filters = ["tc", "-n", name, "filter", "show", "dev", device, way]
        shown = subprocess.run(filters, check=False, capture_output=True, text=True).stdout
        seen += [line for line in shown.splitlines() if line]
        programs = inside(home, lambda way=way: bpf.attached(socket.if_nametoindex(device), way))  # type: ignore[misc]
        seen += [f"tcx {way} {program}" for program in programs]
    return "\n".join(seen)


def _in_network(homes: set[int]) -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if (entry / "ns" / "net").stat().st_ino in homes:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if words:  # a zombie has none: it waits for its parent only
                    yield int(entry.name), words.strip()
        except OSError:
            continue


def _datagrams() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


WAYS: dict[str, Way] = {"here": here, "namespace": namespace, "ssh": ssh}
