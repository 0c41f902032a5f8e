"""The host's dmsetup: tables of device-mapper devices, told and swapped."""

from __future__ import annotations

import contextlib
import subprocess
from typing import List

from .errors import AgentError, CannotDo
from .programs import ends_with_us, host_program

_PACKAGES = {"dmsetup": "dmsetup", "modprobe": "kmod"}
_ASK_S = 20.0


def dmsetup(*words: str, table: str = "", bound: bool = False) -> str:
    """What dmsetup says; AgentError with its first complaint where it fails.

    `bound`: it ends with this process. Not for healing, which should need as little as it can.
    """
    options = ["--noudevsync"] if words[0] == "resume" else []
    before = ends_with_us() if bound else []
    try:
        done = subprocess.run(
            [*before, *host_program("dmsetup", "dmsetup"), *words, *options],
            input=table,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ASK_S,
        )
    except subprocess.TimeoutExpired:
        raise AgentError(f"dmsetup {' '.join(words)}: no answer in {_ASK_S:g} s") from None
    if done.returncode:
        raise AgentError(f"dmsetup {' '.join(words)}: {done.stderr.strip().splitlines()[0]}")
    return done.stdout.strip()


def devices() -> List[str]:
    """The names of the devices there are."""
    return [line.split()[0] for line in dmsetup("ls").splitlines() if "(" in line]


def waits_beside(name: str) -> bool:
    """Whether a table is loaded that is not in use."""
    return "INACTIVE" in dmsetup("info", name)


def has_target(target: str) -> bool:
    """Whether the kernel knows the target, once what would bring it was asked to."""
    for bring in ((), ("dmsetup", "target-version", target), ("modprobe", f"dm_{target}")):
        if bring:
            with contextlib.suppress(CannotDo):
                subprocess.run(
                    [*host_program(bring[0], _PACKAGES[bring[0]]), *bring[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                )
        if target in [line.split()[0] for line in dmsetup("targets").splitlines()]:
            return True
    return False
