"""Processes under the lab's init: PID 1 there, it reaps its own children and all orphans."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Child:
    """A process that init started; `ended` gets its exit status, as Popen's."""

    pid: int
    ended: asyncio.Future[int]

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, SIGKILL after `grace_s` (at once when 0); return when the process is gone."""
        if grace_s > 0 and not self.ended.done():
            os.kill(self.pid, signal.SIGTERM)
            await asyncio.wait([self.ended], timeout=grace_s)
        self.kill()
        await asyncio.wait([self.ended])

    def kill(self) -> None:
        """SIGKILL, unless it ended already (its PID may be another's by then)."""
        if not self.ended.done():
            os.kill(self.pid, signal.SIGKILL)


class Children:
    """Starts processes and learns of their end by SIGCHLD, which nobody else may handle."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._known: dict[int, Child] = {}
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def spawn(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> Child:
        """Start a command in a session of its own, writing to `log`; OSError if it can't be."""
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions: list[Any] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        return self._spawn(command, env, actions)

    def join(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        streams: tuple[int, int, int],
        terminal: str,
    ) -> Child:
        """Start a command with these streams, or on a terminal that is then its controlling one."""
        actions: list[Any] = [
            (os.POSIX_SPAWN_DUP2, end, number) for number, end in enumerate(streams)
        ]
        if terminal:
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
            ]
        return self._spawn(command, env, actions)

    def _spawn(self, command: Sequence[str], env: Mapping[str, str], actions: list[Any]) -> Child:
        pid = os.posix_spawnp(
            command[0],
            list(command),
            env,
            file_actions=actions,
            setsid=True,
            setsigdef=[signal.SIGPIPE],
        )
        child = Child(pid, self._loop.create_future())
        self._known[pid] = child
        return child

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if child := self._known.pop(pid, None):
                child.ended.set_result(os.waitstatus_to_exitcode(status))
