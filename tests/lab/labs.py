"""What the lab's tests look at, and how: processes, ports, mounts, commands on nodes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from aftershock.inventory import Node
from aftershock.lab.world import Lab

MARK = f"AFTERSHOCK_TESTS={uuid.uuid4().hex}"  # in the environment of all that these tests start
os.environ.update([(MARK.partition("=")[0], MARK.partition("=")[2])])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], object], within_s: float, what: str) -> float:
    """Poll; how long it took. A failure names what did not come."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > within_s:
            raise AssertionError(f"{what}: not within {within_s:g} s")
        time.sleep(0.02)
    return time.monotonic() - began


def namespaces_of(pid: int) -> set[str]:
    """Those that a lab has for itself; its init stays in the machine's network namespace."""
    return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("pid_for_children", "mnt")}


def started_here() -> dict[str, str]:
    """PID and command line of every process that carries these tests' mark; no zombies."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if MARK.encode() in environment:
            found[process.name] = command
    return found


def inside(namespaces: set[str]) -> list[str]:
    """What these tests started in one of these namespaces; a namespace's number alone would not
    do, the kernel gives it to the next one."""
    found = []
    for pid, command in started_here().items():
        try:
            links = {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("pid", "mnt")}
        except OSError:
            continue
        if links & namespaces:
            found.append(f"{pid} {command}")
    return found


def launchers() -> set[str]:
    """`unshare` processes that start labs, and the labs' inits."""
    return {pid for pid, command in started_here().items() if "aftershock.lab.init" in command}


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def leftovers(port: int, namespaces: set[str]) -> list[str]:
    """What of a lab can still be seen on the machine."""
    left = inside(namespaces)
    left += [f"port {port}"] if listening(port) else []
    left += [str(path) for path in Path("/dev/shm").glob("gpu-node-*")]
    left += [str(path) for path in Path("/run/netns").glob("node-*")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return left + [line for line in mounts if "aftershock-lab" in line]


def on_node(node: Node, *command: str) -> subprocess.Popen[str]:
    """A command in a node's namespaces, as agents are started."""
    return subprocess.Popen(
        [
            *("nsenter", f"--net={node.netns}", "--target", str(node.enter_pid)),
            *("--mount", "--pid", *command),
        ],
        env={**os.environ, **node.env},
        stdout=subprocess.PIPE,
        text=True,
    )


def python_on(node: Node, code: str) -> subprocess.Popen[str]:
    return on_node(node, sys.executable, "-c", code)


def server_pid(lab: Lab, node: Node) -> int:
    """The PID, outside, of the model server on a node."""
    for line in inside(namespaces_of(lab.pid)):
        pid, _, command = line.partition(" ")
        if "model_server" in command and f"--host {node.addresses[0]} " in command:
            return int(pid)
    raise AssertionError(f"no model server on {node.name}")
