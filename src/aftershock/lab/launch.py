"""Processes as the controller holds them, by PID and start time: a reused PID is not ours."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aftershock.lab.preflight import find
from aftershock.lab.settings import LabFailed

_CREDENTIALS = struct.Struct("iII")
HELLO_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process, and when it started (clock ticks since boot)."""

    pid: int
    started: int

    @classmethod
    def find(cls, pid: int) -> Process:
        """The process that has this PID now; ProcessLookupError if none has."""
        stat = _stat(pid)
        if stat is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(pid, int(stat[19]))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Process:
        """The inverse of `to_dict`."""
        return cls(int(plain["pid"]), int(plain["started"]))

    def to_dict(self) -> dict[str, int]:
        """Plain data, for JSON."""
        return asdict(self)

    def alive(self) -> bool:
        """Whether it runs still; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and int(stat[19]) == self.started and stat[0] not in "ZX"

    def kill(self, gone_within_s: float) -> None:
        """SIGKILL it and wait for its end; for a PID namespace's init that is everyone's end."""
        self._end(gone_within_s, signal.SIGKILL)

    def wait(self, gone_within_s: float) -> None:
        """Wait for its end."""
        self._end(gone_within_s, None)

    def _end(self, gone_within_s: float, by: signal.Signals | None) -> None:
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.alive():
                return
            if by:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, by)
            if not select.select([handle], [], [], gone_within_s)[0]:
                raise LabFailed(
                    f"process {self.pid} of the lab does not end: something in its "
                    f"namespaces hangs (see /proc/{self.pid}/stack)"
                )
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
        finally:
            os.close(handle)


def _stat(pid: int) -> list[str] | None:
    """/proc/PID/stat from the state on: [0] state, [19] start time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


class InitProcess:
    """A lab's init that this process started: its launcher, the socket to it, its PID outside."""

    def __init__(self, launcher: int, channel: socket.socket, log: Path) -> None:
        self._log = log
        self.launcher = Process.find(launcher)
        self._reaped = False
        self._channel = channel
        self._pending = b""
        self.init = Process(0, 0)

    @classmethod
    def start(cls, log: Path) -> InitProcess:
        """Start init in namespaces of its own; it does nothing before `build`."""
        ours, theirs = socket.socketpair()
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            launcher = os.posix_spawn(
                str(find("unshare")),
                [
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    *(sys.executable, "-P", "-m", "aftershock.lab.init"),
                ],
                environment(),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1),
                    (os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_CREAT, 0o600),
                ],
                setsid=True,  # a Ctrl-C is the controller's to answer
                setsigdef=[signal.SIGPIPE],
            )
        except BaseException:
            ours.close()  # if the launcher did start, its init ends with this socket
            raise
        finally:
            theirs.close()
        return cls(launcher, ours, log)

    def build(self, order: dict[str, Any], within_s: float) -> dict[str, Any]:
        """Have init build the lab; its answer, or `LabFailed` with its reason."""
        try:
            self._receive(time.monotonic() + HELLO_WITHIN_S)
            self._channel.sendall(json.dumps(order).encode() + b"\n")
            answer = self._receive(time.monotonic() + within_s)
        except OSError as why:
            raise self._ended() from why
        if "ready" not in answer:
            raise LabFailed(f"the lab did not come up: {answer['failed']}")
        return dict(answer["ready"])

    def detach(self) -> None:
        """Let the lab outlive this process."""
        self._channel.sendall(b'{"detach": 1}\n')
        self._channel.close()

    def end(self) -> None:
        """Close the socket, end what is left of the launcher and init, reap."""
        self._channel.close()
        if self._reaped:
            return
        if self.init.pid:
            self.init.kill(10.0)
        else:
            os.kill(self.launcher.pid, signal.SIGKILL)  # unshare takes its child with it
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.launcher.pid, 0)
        self._reaped = True

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._pending:
            self._channel.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                chunk, ancillary, _, _ = self._channel.recvmsg(65536, 1024)
            except TimeoutError:
                raise LabFailed("the lab's init does not answer") from None
            if not chunk:
                raise self._ended()
            self._note_sender(ancillary)
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return dict(json.loads(line))

    def _ended(self) -> LabFailed:
        said = self._log.read_text(errors="replace").strip().splitlines()
        return LabFailed(f"the lab ended while starting: {said[-1] if said else 'no reason given'}")

    def _note_sender(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        """The kernel names the writer's PID as it is in *our* PID namespace."""
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and not self.init.pid:
                self.init = Process.find(_CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0])


def environment() -> dict[str, str]:
    """The controller's environment, with the directories of root's binaries on PATH."""
    path = os.environ.get("PATH", "")
    return {**os.environ, "PATH": f"{path}:/usr/sbin:/sbin:/usr/bin:/bin"}
