"""The host's own programs: an agent in a pod has an image's, and goes home for them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import List

from .errors import CannotDo

_BOUND = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != int(sys.argv[1]):
    sys.exit("the agent is gone")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{error.strerror}: {sys.argv[2]}")
"""

_AT_HOME = """
import ctypes, os, sys
host = os.open("/proc/1/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
if ctypes.CDLL(None, use_errno=True).setns(host, 0x20000):
    sys.exit(f"going to the host's files: {os.strerror(ctypes.get_errno())}")
os.chdir("/")
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    sys.exit(f"{error.strerror}: {sys.argv[1]}")
"""
_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def host_program(name: str, package: str) -> List[str]:
    """The words that a command with a program of the host's begins with."""
    root = os.environ.get("AFTERSHOCK_HOST_ROOT", "")
    if root:
        for folder in _FOLDERS.split(":"):
            if Path(f"{root}{folder}/{name}").exists():
                return [*at_home(), f"{folder}/{name}"]
    elif found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_FOLDERS}"):
        return [found]
    raise CannotDo(
        f"there is no {name} on this host: install it (on Debian: apt-get install {package})"
    )


def at_home() -> List[str]:
    """What lets a command find the host's programs, where the agent has an image's."""
    if not os.environ.get("AFTERSHOCK_HOST_ROOT"):
        return []
    return [sys.executable, "-I", "-S", "-c", _AT_HOME]


def ends_with_us() -> List[str]:
    """What makes the command that follows end with this process (and the thread that began it).

    Else it may apply what a healer has undone meanwhile.
    """
    return [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid())]
