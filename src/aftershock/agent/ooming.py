"""A step that has the kernel kill for memory within a cgroup: the right process, and no other.

The cgroup's limit is lowered to just above what it uses, and a child of ours takes the rest. Those
who are to die are made the kernel's first choice, and the child its second: the kernel kills once
too often when the dead one's memory isn't free yet, and then no bystander dies. Once it has killed,
the child lets go and the limit is as it was: whether the service comes back is its own affair.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from . import cgroups, chosen, numbers, vitals
from .classifier import check_options
from .clock import boottime, start_ticks
from .containers import text
from .errors import AgentError, Invalid
from .hogs import Hog
from .limits import group_of, still, undo  # noqa: F401  (these are the same)

_OPTIONS = ("chosen", "kills")
_MARGIN = 16 << 20  # of which the child, a bare interpreter, may weigh three quarters
_CHUNK = 1 << 20
_BEYOND = 256 << 20  # the child takes no more than the limit, and this
_FIRST, _NEVER = 1000, -1000
_MOST = 100
_LOOK_S = 0.005
_LEAVES_S = 1.0  # an ended child needs a moment, with others' memory being freed meanwhile


class _Member(NamedTuple):
    """A process of the cgroup as the kernel ranks it, in bytes and thousandths of the limit."""

    pid: int
    rss: int
    adj: int

    @classmethod
    def of(cls, pid: int) -> _Member:
        """As it is now; one that has just ended weighs nothing."""
        pages = text(f"/proc/{pid}/statm").split()
        adj = text(f"/proc/{pid}/oom_score_adj").strip()
        return cls(pid, int(pages[1]) * mmap.PAGESIZE if pages else 0, int(adj or 0))


class Oom:
    """`kills` processes of a cgroup killed by the kernel; the chosen ones go first."""

    def __init__(self, injection: str, options: Mapping[str, Any]) -> None:
        check_options(options, _OPTIONS)
        chosen.check(options["chosen"])
        if not 1 <= options["kills"] <= _MOST:
            raise Invalid(f"oom: kills {options['kills']}: 1 to {_MOST}")
        self.kind = "oom"
        self.outlives = self.rash = True
        self.about: Dict[str, Any] = {"chosen": dict(options["chosen"]), "kills": options["kills"]}
        self._borrowed = numbers.Borrowed()
        self._group: Optional[cgroups.Cgroup] = None
        self._hog: Optional[Hog] = None
        self._before = self._kills = self._struck = 0
        self._first_to_die: Dict[int, Optional[int]] = {}  # and when they started
        self._injection = injection

    def intent(self) -> Dict[str, Any]:
        """What undoes it from outside: the numbers as they were."""
        return {"numbers": self._borrowed.numbers}

    def attach(self) -> Dict[str, Any]:
        """The child stands in the cgroup and takes nothing; no limit is touched."""
        choice = self.about["chosen"]
        group = self._group = group_of(choice, "memory")
        if not group.pids():
            raise AgentError(f"oom: {group.tell()} has no process in it: name one that has")
        self.about["cgroup"] = group.path
        wanted = min(group.number("usage") + _MARGIN, group.number("limit"))
        lower = [numbers.of_cgroup(group, "limit", wanted), *_swap(group, wanted)]
        members = [_Member.of(pid) for pid in group.pids()]
        first = self._first(members, wanted)
        self._first_to_die = {pid: start_ticks(pid) for pid in first}
        self._before = group.number("oom_kill")
        words = {"kind": "oom", "cgroup": group.path, "kills": self.about["kills"]}
        more = {"chunk": _CHUNK, "most": wanted + _BEYOND}
        self._hog = Hog({**words, **more, "cgroups": [str(group.folder)]})
        self._hog.stand_ready()
        if len(first) >= self.about["kills"]:
            _rank(self._hog.pid, _second(_Member.of(self._hog.pid).rss, wanted))
        else:  # who comes up anew is to die before it
            _rank(self._hog.pid, _NEVER)
        raised = [numbers.of_process("adj_of", pid, _FIRST) for pid in first]
        self._borrowed.claim([*lower, *raised])
        return {"owned": [], "undo": self.intent()}

    def _first(self, members: Sequence[_Member], limit: int) -> List[int]:
        """Those who are named, and whom else the kernel would take until so many are killed."""
        choice = self.about["chosen"]
        named = chosen.find_exactly(choice) if choice.keys() & {"pid", "pattern"} else []
        others = [one for one in members if one.pid not in named and one.adj > _NEVER]
        others.sort(key=lambda one: one.rss + one.adj * limit // 1000, reverse=True)
        more = max(0, self.about["kills"] - len(named))
        return named + [one.pid for one in others[:more]]

    def fire(self, until: float) -> None:
        """Lower the limit, and let the child take what is left."""
        assert self._hog
        self._borrowed.put()
        self._hog.go(until)
        threading.Thread(target=self._watch, args=(until,), daemon=True).start()

    def _watch(self, until: float) -> None:
        """Look often: a runtime takes a container's cgroup away as soon as its process is dead."""
        while boottime() < until and self._is_eating():
            self._look()
            time.sleep(_LOOK_S)

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            if self._group:
                self._struck = max(self._struck, self._group.number("oom_kill") - self._before)

    def tick(self) -> None:
        """Once it has happened, let go: what comes up in its place has all its room."""
        self._count()
        if self._borrowed.on and (self._kills >= self.about["kills"] or not self._is_eating()):
            self.shut()

    def _is_eating(self) -> bool:
        return self._hog is not None and self._hog.is_there()

    def _count(self) -> None:
        """The kernel's count without our child; that of a cgroup that is gone stays what it was."""
        self._look()
        if self._hog:
            # The child ends by itself when it sees the last kill, unless that was its own.
            enough = self._struck >= self.about["kills"]
            killed = self._hog.was_killed(_LEAVES_S if enough and self._borrowed.on else 0.0)
            # By the kernel if there was a kill too many; else by who cleared up after the dead.
            gone = sum(start_ticks(pid) != was for pid, was in self._first_to_die.items())
            self._kills = max(self._kills, self._struck - (killed and self._struck > gone))

    def shut(self) -> None:
        """End the child, put the limits back."""
        if self._hog:
            if told := self._hog.hear(0.0):
                self._kills = max(self._kills, told.get("kills", 0))
            self._hog.end()
        if self._borrowed.on and self._borrowed.shut():
            self._borrowed.release()

    def observe(self) -> Dict[str, Any]:
        """How many the kernel killed in the cgroup, by its own count."""
        self._count()
        limited = bool(numbers.still_set(self._borrowed.numbers))
        seen = {"kind": self.kind, "counts": {}, "kills": self._kills, "limited": limited}
        return {**seen, "cgroup": self.about.get("cgroup", "")}

    def detach(self) -> List[str]:
        """All as it was, but for what others set meanwhile."""
        self.shut()
        return self._borrowed.restore()

    def close(self) -> None:
        """Whatever became of it, no child stays, and others may set the numbers."""
        self._borrowed.release()
        if self._hog:
            self._hog.end()


def _second(rss: int, limit: int) -> int:
    """The oom_score_adj that ranks the child behind those who are first and before all others.

    What it takes is in no process' memory, so it weighs no more later on.
    """
    return max(0, 1000 - (1000 * (rss + _MARGIN // 2) + limit - 1) // limit)


def _rank(pid: int, adj: int) -> None:
    with contextlib.suppress(PermissionError):  # below 0 takes CAP_SYS_RESOURCE
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(adj), encoding="ascii")


def _swap(group: cgroups.Cgroup, limit: int) -> List[Dict[str, Any]]:
    """Where there is swap, none may be used instead; version 1 counts both together."""
    if not vitals.memory()["swap_total"] or not group.file("swap_limit").exists():
        return []
    if group.version == 2:
        return [numbers.of_cgroup(group, "swap_limit", 0)]
    used = int((group.folder / "memory.memsw.usage_in_bytes").read_text(encoding="ascii"))
    return [numbers.of_cgroup(group, "swap_limit", max(limit, used + _MARGIN))]
