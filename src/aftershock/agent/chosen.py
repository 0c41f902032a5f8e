"""Which processes of this host a step means, and which it must never touch.

A choice is one of `pid`, `pattern` (a regular expression that is searched for in command lines, as
`pgrep -f` does, with the `count` that it must match), `cgroup` (as /proc/PID/cgroup shows it, all
below it too), `container` (its ID) and `named` (a program's name). `tree`: with all descendants.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from .clock import start_ticks
from .containers import every_pid, named, network_of, processes_of, text
from .errors import AgentError, Invalid

Choice = Mapping[str, Any]
KEYS = {"pid", "pattern", "count", "cgroup", "container", "named", "tree"}
_ONE_OF = ("pid", "pattern", "cgroup", "container", "named")
_DAEMONS = ("sshd", "sshd-session", "sshd-auth", "dropbear")
_OURS = "which is our own: an agent, or the controller and who started it"
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD


def check(choice: Choice) -> None:
    """Refuse what chooses nothing, or in two ways."""
    ways = [key for key in _ONE_OF if choice.get(key)]
    if len(ways) != 1 or set(choice) - KEYS:
        raise Invalid(f"processes {dict(choice)}: by one of {', '.join(_ONE_OF)}, and only by it")


def tell(choice: Choice) -> str:
    """A choice in words."""
    for key in ("pid", "pattern", "cgroup"):
        if choice.get(key):
            return f"{'process' if key == 'pid' else key} {choice[key]}"
    if choice.get("container"):
        return f"container {choice['container'][:12]}"
    return f"program {choice['named']}"


def find(choice: Choice) -> List[int]:
    """The processes that are meant now, oldest first, without descendants; perhaps none."""
    if choice.get("pid"):
        return [choice["pid"]] if start_ticks(choice["pid"]) is not None else []
    if choice.get("container"):
        return processes_of(choice["container"])
    if choice.get("named"):
        return named(choice["named"])
    if choice.get("cgroup"):
        return sorted(pid for pid in every_pid() if _is_within(pid, choice["cgroup"]))
    return _matching(choice["pattern"])


def find_exactly(choice: Choice) -> List[int]:
    """As `find`, and refused by name: none, more or fewer than asked, and what is protected."""
    found = find(choice)
    told = tell(choice)
    if not found:
        what = told if choice.get("pid") else f"process of {told}"
        raise AgentError(f"no {what} here: has it ended?")
    wanted = choice.get("count") or len(found)
    if choice.get("pattern") and len(found) != wanted:
        raise Invalid(
            f"{told} matches {len(found)} processes, not {wanted} "
            f"({', '.join(f'{pid}: {words(pid)[:60]}' for pid in found[:5])}): "
            "narrow it, or say how many"
        )
    all_of_it = with_descendants(found) if choice.get("tree") else found
    if guarded := first_protected(all_of_it):
        raise Invalid(f"{told} has process {guarded[0]}, {guarded[1]}: it is never touched")
    return found


def first_protected(pids: Iterable[int]) -> Optional[Tuple[int, str]]:
    """Of several the one that nobody may touch, and what it is: ourselves before others."""
    guarded = {pid: why for pid in pids if (why := protected(pid))}
    ours = (pid for pid, why in guarded.items() if why == _OURS)
    pid = next(ours, min(guarded, default=0))
    return (pid, guarded[pid]) if pid else None


def protected(pid: int) -> str:
    """What a process is that nobody may touch, or nothing."""
    if pid == 1:
        return "PID 1, which this host lives by"
    if pid in lineage() or _is_ours(pid):
        return _OURS
    if name(pid) in _DAEMONS:
        return f"the SSH daemon ({name(pid)})"
    fields = text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if fields and int(fields[6]) & _KERNEL_THREAD:
        return f"a kernel thread ({name(pid)})"
    return ""


def lineage() -> Set[int]:
    """This process and all it descends from: the controller, where that is on this host."""
    found: Set[int] = set()
    pid = os.getpid()
    while pid and pid not in found:
        found.add(pid)
        pid = _parent(pid)
    return found


def with_descendants(pids: Iterable[int]) -> List[int]:
    """Some processes and all that descends from them."""
    has_lists = Path(f"/proc/self/task/{os.getpid()}/children").exists()
    children = _children if has_lists else _by_parent()
    found: Set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children(pid)
    return sorted(found)


def _children(pid: int) -> List[int]:
    """As the kernel lists them, by the thread that began them; far cheaper than to look at all."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
    texts = [text(f"{thread}/children") for thread in threads]
    return [int(word) for text in texts for word in text.split()]


def _by_parent() -> Callable[[int], List[int]]:
    """The same on a kernel that keeps no lists."""
    children: Dict[int, List[int]] = {}
    for pid in every_pid():
        children.setdefault(_parent(pid), []).append(pid)
    return lambda pid: children.get(pid, [])


def words(pid: int) -> str:
    """A process' command line; nothing for a kernel thread, or a dead one."""
    return text(f"/proc/{pid}/cmdline").replace("\0", " ").strip()


def in_a_line(pid: int) -> str:
    """The same for people: a script that is in it may have many lines."""
    return " ".join(words(pid).split())


def name(pid: int) -> str:
    """The name of a process' program."""
    return text(f"/proc/{pid}/comm").rstrip("\n")


def _matching(pattern: str) -> List[int]:
    """By command line, in our own network namespace: those of the host, to an agent of the host.

    Never ourselves: the controller's command line has the pattern in it.
    """
    expression, own, here = re.compile(pattern), lineage(), network_of("self")
    return [
        pid
        for pid in every_pid()
        if pid not in own
        and expression.search(words(pid))
        and network_of(pid) == here
        and not _is_ours(pid)
        and start_ticks(pid) is not None
    ]


def _is_within(pid: int, cgroup: str) -> bool:
    """Whether a process is in a cgroup, of any hierarchy, or below it."""
    wanted = cgroup.rstrip("/")
    for line in text(f"/proc/{pid}/cgroup").splitlines():
        path = line.split(":", 2)[-1]
        if path == wanted or path.startswith(f"{wanted}/"):
            return start_ticks(pid) is not None
    return False


def _is_ours(pid: int) -> bool:
    """An agent, a watcher, or another child of an agent: they all run the agent's file."""
    file = Path(sys.argv[0]).name
    return file.endswith(".pyz") and f"/{file}" in words(pid)


def _parent(pid: int) -> int:
    fields = text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0
