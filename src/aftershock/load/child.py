"""A generator's process as its controller sees it: started, read from, and surely ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aftershock.errors import AftershockError

Take = Callable[[Mapping[str, Any]], None]
_LAST_WORDS_S = 1.0
_NICE = -10  # who measures comes first: its own lateness would make a run worthless


class Child:
    """A process in a session of its own that sends JSON lines through a pipe.

    It is started *by the thread that reads from it*: the kernel's parent-death signal fires when
    the starting thread ends, not when the process does.
    """

    def __init__(self, name: str, take: Take) -> None:
        self.name = name
        self._take = take
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: BaseException | None = None
        self._started = threading.Event()
        self._stderr: deque[str] = deque(maxlen=40)
        self._threads: list[threading.Thread] = []

    def start(self, command: Sequence[str], env: Mapping[str, str], fd_variable: str = "") -> None:
        """Start it; with `fd_variable` its lines come through a pipe of their own, named there."""
        keeper = threading.Thread(
            target=self._keep, args=(command, env, fd_variable), name=self.name, daemon=True
        )
        self._threads = [keeper]
        keeper.start()
        self._started.wait()
        if self._failure:
            raise AftershockError(f"{self.name} could not be started: {self._failure}")

    def _keep(self, command: Sequence[str], env: Mapping[str, str], fd_variable: str) -> None:
        read, write = os.pipe()
        try:
            self._process = process = subprocess.Popen(
                list(command),
                env={**os.environ, **env, **({fd_variable: str(write)} if fd_variable else {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL if fd_variable else write,
                stderr=subprocess.PIPE,
                pass_fds=(write,) if fd_variable else (),
                start_new_session=True,
            )
        except OSError as error:
            self._failure = error
            os.close(read)
            return
        finally:
            os.close(write)
            self._started.set()
        _prefer(process.pid)
        reader = threading.Thread(target=self._read_stderr, args=(process,), daemon=True)
        self._threads.append(reader)
        reader.start()
        with os.fdopen(read, "rb") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # a last line cut short
                    self._take(json.loads(line))
        process.wait()

    def _read_stderr(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr
        with process.stderr as lines:
            for line in lines:
                self._stderr.append(line.decode(errors="replace").rstrip())

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def said(self) -> str:
        """The last lines of its standard error: of one that has ended, to its last word."""
        if not self.alive():
            for thread in self._threads[1:]:
                thread.join(_LAST_WORDS_S)
        return "\n".join(self._stderr)

    def stop(self, grace_s: float = 3.0) -> None:
        """Ask it to end, then end it and all it started. Idempotent."""
        process = self._process
        if process is None:
            return
        if process.stdin and not process.stdin.closed:
            with contextlib.suppress(OSError):
                process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for thread in self._threads:
            thread.join(5)


def _prefer(pid: int) -> None:
    """Raise a process' priority, and its session's among sessions; it takes root."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, _NICE)
        Path(f"/proc/{pid}/autogroup").write_text(str(_NICE), encoding="ascii")
