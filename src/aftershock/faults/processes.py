"""Which processes of a host a fault is about."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from aftershock.errors import InvalidFault

MOST = 1000


@dataclass(frozen=True, slots=True)
class Processes:
    """By exactly one of four ways.

    `pid`, as the host counts. `pattern`: a regular expression in the command line, as `pgrep -f`
    has it, which must match exactly `count` processes of the host's own network. `cgroup`: a path
    as /proc/PID/cgroup shows it, all below it too. `container`: an ID, without its scheme.
    `tree`: with all descendants.
    """

    pid: int = 0
    pattern: str = ""
    count: int = 1
    cgroup: str = ""
    container: str = ""
    tree: bool = True

    def __post_init__(self) -> None:
        ways = [name for name in ("pid", "pattern", "cgroup", "container") if getattr(self, name)]
        if len(ways) != 1:
            told = " and ".join(ways) if ways else "nothing"
            raise InvalidFault(f"processes are named by {told}: give one of pid, pattern, cgroup")
        if self.pid == 1:
            raise InvalidFault("pid 1: the host lives by it: name another process")
        if self.pid < 0:
            raise InvalidFault(f"pid {self.pid}: a process has a number above 1")
        if not 1 <= self.count <= MOST:
            raise InvalidFault(f"count {self.count}: 1 to {MOST} processes")
        self._check_texts()

    def _check_texts(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise InvalidFault(f"pattern {self.pattern!r}: {error}") from None
        if self.pattern and re.compile(self.pattern).search(""):
            raise InvalidFault(f"pattern {self.pattern!r} matches everything: narrow it")
        if self.cgroup and (not self.cgroup.startswith("/") or not self.cgroup.strip("/")):
            raise InvalidFault(
                f"cgroup {self.cgroup!r}: a path as /proc/PID/cgroup shows it, below the root"
            )

    def request(self) -> dict[str, Any]:
        """In the words of an agent."""
        words = {name: value for name, value in asdict(self).items() if value}
        if not self.pattern:
            words.pop("count")
        return words

    def __str__(self) -> str:
        if self.pid:
            return f"process {self.pid}"
        if self.pattern:
            return f"{self.count} of {self.pattern!r}"
        return f"cgroup {self.cgroup}" if self.cgroup else f"container {self.container[:12]}"
