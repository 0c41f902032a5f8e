"""A line of the user's own for `sh`, ended with all that it began when it takes too long."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path


def shell(line: str, folder: Path, timeout_s: float, told: str = "") -> tuple[int, str]:
    """Exit status and what it printed; `TimeoutError`. `told` is its standard input."""
    with subprocess.Popen(
        ["sh", "-c", line],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(told, timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise TimeoutError(f"no answer in {timeout_s:g} s") from None
    return process.returncode, said.strip()
