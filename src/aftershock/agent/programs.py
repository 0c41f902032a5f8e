"""The host's own programs: an agent in a pod has an image's, and goes home for them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import List

from .commands import AT_HOME
from .errors import CannotDo

_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def host_program(name: str, package: str) -> List[str]:
    """The words that a command with a program of the host's begins with."""
    root = os.environ.get("AFTERSHOCK_HOST_ROOT", "")
    if root:
        for folder in _FOLDERS.split(":"):
            if Path(f"{root}{folder}/{name}").exists():
                return [sys.executable, "-I", "-S", "-c", AT_HOME, f"{folder}/{name}"]
    elif found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_FOLDERS}"):
        return [found]
    raise CannotDo(
        f"there is no {name} on this host: install it (on Debian: apt-get install {package})"
    )
