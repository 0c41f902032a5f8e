"""Where a watcher lives: not in the agent's container, whose end takes all in its cgroup along.

A scope of the host's systemd is a cgroup of its own. The watcher's process, its open files and its
network namespace stay what they are; for its Python it goes back into the agent's mounts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import List


def scope(agent: int, unit: str) -> List[str]:
    """What to put before a watcher's command; nothing where no container or no systemd is.

    That PID 1 is systemd says that its PIDs are ours, too: it is told which process to take.
    """
    if not os.environ.get("AFTERSHOCK_HOST_ROOT") or _first() != "systemd":
        return []
    return [
        *("nsenter", "--mount=/proc/1/ns/mnt", "--"),
        *("systemd-run", "--scope", "--quiet", "--collect", f"--unit=aftershock-{unit}", "--"),
        *("nsenter", f"--mount=/proc/{agent}/ns/mnt", "--"),
    ]


def _first() -> str:
    try:
        return Path("/proc/1/comm").read_text(encoding="ascii").strip()
    except OSError:
        return ""
