"""An agent on this machine: here, in a network namespace, or inside another process' world."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from aftershock.errors import HostUnreachable
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.zipapp import agent_file
from aftershock.inventory import Node
from aftershock.ledger import state_dir

_COMPLAINT_BYTES = 4096


class NamespaceGone(HostUnreachable):
    """The node's network namespace is no more, and so is whatever was done in it."""


def gone(node: Node) -> NamespaceGone:
    """What to say of a node whose namespace isn't there."""
    if node.pid:
        return NamespaceGone(
            f"{node.name}: no process {node.pid} there: name one that runs "
            "(`docker inspect -f '{{.State.Pid}}' NAME` tells a container's)"
        )
    if node.pod:
        return NamespaceGone(
            f"{node.name}: no process of the pod {node.pod.namespace}/{node.pod.name} "
            f"({node.pod.uid}) there: was it deleted, or moved to another node?"
        )
    return NamespaceGone(f"{node.name}: no network namespace {node.netns}: is the lab still up?")


class LocalHost:
    """Starts an agent as a child of this process."""

    def __init__(self, node: Node, python: str = sys.executable) -> None:
        self.node = node
        self._python = python

    def start(self) -> AgentChannel:
        """A running agent; HostUnreachable names the node and what was said."""
        if self.node.namespace and not Path(self.node.namespace).exists():
            raise gone(self.node)
        try:
            return AgentChannel(self.node.name, _Pipes(self._command(), self._environment()))
        except OSError as error:
            raise HostUnreachable(f"{self.node.name}: starting the agent: {error}") from error

    def _command(self) -> list[str]:
        # Isolated (-I) and without site (-S): quick, and deaf to what users put there.
        agent = [self._python, "-I", "-S", str(agent_file())]
        words = ["--state", str(state_dir()), "--host", self.node.name]
        return [*self._enter(), *agent, *words]

    def _enter(self) -> list[str]:
        options = [f"--net={self.node.namespace}"] if self.node.namespace else []
        if self.node.enter_pid:
            options += ["--target", str(self.node.enter_pid), "--pid", "--mount"]
        if not options:
            return []
        nsenter = shutil.which("nsenter")
        if nsenter is None:
            raise HostUnreachable(f"{self.node.name}: no `nsenter` here: install util-linux")
        return [nsenter, *options, "--"]

    def _environment(self) -> dict[str, str]:
        elsewhere = {"AFTERSHOCK_CONTROLLER": ""} if self._is_elsewhere() else {}
        return {**os.environ, **elsewhere, **self.node.env}

    def _is_elsewhere(self) -> bool:
        """Whether the way to whoever runs us leads through another network namespace."""
        where = self.node.namespace
        own = Path("/proc/self/ns/net").stat().st_ino
        return where is not None and Path(where).stat().st_ino != own


class _Pipes:
    """The streams of a child process."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._last_words = ""
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
                start_new_session=True,
            )
        except OSError:
            self._errors.close()
            raise
        assert self._process.stdin and self._process.stdout
        self.requests = self._process.stdin
        self.answers = self._process.stdout
        self._forks = "--pid" in command

    @property
    def pid(self) -> int:
        """The agent itself: to enter a PID namespace, nsenter forks it."""
        if not self._forks:
            return self._process.pid
        task = f"/proc/{self._process.pid}/task/{self._process.pid}/children"
        with contextlib.suppress(OSError, ValueError):
            return int(Path(task).read_text(encoding="ascii").split()[0])
        return 0

    def complaint(self) -> str:
        """The last it said on its standard error."""
        with contextlib.suppress(OSError, ValueError):  # closed, perhaps just now
            number = self._errors.fileno()
            start = max(0, os.fstat(number).st_size - _COMPLAINT_BYTES)
            return os.pread(number, _COMPLAINT_BYTES, start).decode(errors="replace")
        return self._last_words

    def end(self, patience_s: float) -> None:
        """Wait; an agent that holds a deadline-only fault is left to it."""
        until = time.monotonic() + patience_s
        while self._process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        if self._process.returncode is None:
            threading.Thread(target=self._reap, daemon=True).start()
        else:
            self._reap()

    def _reap(self) -> None:
        self._process.wait()
        self._last_words = self.complaint()
        self.answers.close()
        self._errors.close()
