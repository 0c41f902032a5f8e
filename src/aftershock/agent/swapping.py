"""A step that has the kernel swap out what processes of a cgroup hold, and keep it out.

By memory.high, above which the kernel takes memory back and never kills: version 2 alone has it.
https://docs.kernel.org/admin-guide/cgroup-v2.html#memory
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import Any, Dict, List, Mapping, Optional

from . import cgroups, chosen, numbers
from .classifier import check_options
from .errors import AgentError, CannotDo, Invalid
from .limits import group_of, still, undo  # noqa: F401  (these are the same)
from .vitals import memory

_OPTIONS = ("chosen", "keep_share")
_LEAST = 8 << 20  # what is less is noise
_SPARE = 1.25  # so much more swap must be free than is needed at first
# What the kernel can't take back, as far as memory.stat has names for it.
_FIXED = ("kernel_stack", "pagetables", "sec_pagetables", "percpu", "sock", "slab_unreclaimable")
# The kernel takes memory back within the write, which lasts: a child does it, to be ended any time.
_LOWER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv[1]) and sys.stdin.readline():
    with open(sys.argv[2], "w") as file:
        file.write(sys.argv[3])
"""


class SwapOut:
    """`keep_share` of the anonymous memory stays; nothing of the page cache does."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        chosen.check(options["chosen"])
        self._keep: float = options["keep_share"]
        if not 0 <= self._keep < 1:
            raise Invalid(f"swap-out: keep_share {self._keep:g}: 0 to less than 1")
        self.kind = "swap-out"
        self.outlives = self.rash = True
        self.about: Dict[str, Any] = {"chosen": dict(options["chosen"]), "keep_share": self._keep}
        self.about["cgroup"] = ""
        self._borrowed = numbers.Borrowed()
        self._child: "Optional[subprocess.Popen[bytes]]" = None

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside: the number as it was."""
        return {"numbers": self._borrowed.numbers}

    def attach(self) -> Dict[str, Any]:
        """What is to be set, and who sets it, waiting; nothing is felt."""
        group = group_of(self.about["chosen"], "memory")
        number = numbers.of_cgroup(group, "high", _bound(group, self._keep))
        self.about["cgroup"] = group.path
        if number["set"] >= number["was"]:
            raise AgentError(f"swap-out: {number['file']} is {number['was']} already: nothing more")
        self._borrowed.claim([number])
        words = [str(os.getpid()), number["file"], str(number["set"])]
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LOWER, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return {"owned": [], "undo": self.intent()}

    def fire(self, until: float) -> None:
        """Let the child set it."""
        self._borrowed.on = True
        if self._child and self._child.stdin:
            with contextlib.suppress(OSError):  # it has ended: seen, as nothing is swapped
                self._child.stdin.write(b"\n")
                self._child.stdin.flush()

    def tick(self) -> None:
        """Nothing comes due: the kernel goes on by itself."""

    def shut(self) -> None:
        """End the child, put the number back; what goes wrong is told when it is looked after."""
        self._end_child()
        self._borrowed.shut()

    def observe(self) -> Dict[str, Any]:
        """Whether the bound is set."""
        seen = {
            "kind": self.kind,
            "counts": {},
            "set": len(numbers.still_set(self._borrowed.numbers)),
        }
        return {**seen, "cgroup": self.about["cgroup"]}

    def detach(self) -> List[str]:
        """The bound is as it was; what is in swap comes back when it is touched."""
        self._end_child()
        return self._borrowed.restore()

    def close(self) -> None:
        """Others may set it now."""
        self._end_child()
        self._borrowed.release()

    def _end_child(self) -> None:
        if self._child:
            self._child.kill()
            self._child.wait()
            if self._child.stdin:
                with contextlib.suppress(OSError):
                    self._child.stdin.close()
            self._child = None


def _bound(group: cgroups.Cgroup, keep: float) -> int:
    """What memory.high is to be; refused where there is nothing to swap, or nowhere to."""
    if group.version == 1:
        raise CannotDo(
            "swap-out: version 1 of cgroups has no bound that lets a cgroup swap and never kills: "
            "it needs memory.high, of version 2"
        )
    stat = dict(line.split() for line in (group.folder / "memory.stat").read_text().splitlines())
    anonymous = int(stat["anon"])
    going = int(anonymous * (1 - keep))
    if going < _LEAST:
        raise AgentError(
            f"swap-out: {group.tell()} has {anonymous >> 20} MB of its own in memory: less than "
            f"{_LEAST >> 20} MB of it would go, which nobody could tell from chance"
        )
    if _room(group) < going * _SPARE:
        raise CannotDo(
            f"swap-out: {going >> 20} MB would go to swap, and there are {_room(group) >> 20} MB "
            f"for {group.tell()}, a quarter more than needed is wanted: add some by swapon, raise "
            "its memory.swap.max, or keep more"
        )
    fixed = int(stat.get("kernel", 0)) or sum(int(stat.get(name, 0)) for name in _FIXED)
    return anonymous - going + fixed


def _room(group: cgroups.Cgroup) -> int:
    """How much more of it may be in swap, by the host's own room and the cgroup's limit."""
    free = memory()["swap_free"]
    try:
        return max(0, min(free, group.number("swap_limit") - group.number("swap")))
    except FileNotFoundError:  # a kernel that accounts for no swap, or has none
        return 0
