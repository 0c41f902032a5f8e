"""Break hosts and their processes: frozen, killed, starved of processor or memory, out of room.

`where` names zones and nodes of the target, with commas; `all` means every node. On each of them,
processes are named by one of: `pid`; `pattern`, a regular expression in the command line, as
`pgrep -f` has it, which must match exactly `count` processes; `cgroup`, a path as /proc/PID/cgroup
shows it, all below it too. `tree`: with all their descendants. Or `where` means pods
(`app=model,az-a`, `pod/NAME`), and `container` which one of theirs. Refused by name, with nothing
touched: a process that is gone, PID 1, kernel threads, our own agents and controller, SSH daemons.

`lease_s`: seconds after which each host heals by itself, whatever became of us. Each action fires
on all its hosts at one instant and returns its injections with their evidence. It raises
`InvalidFault` and `InvalidInput` for what makes no sense, `Unsupported` where a host can't, both
before anything is touched, and `NotApplied` when not every host could be armed.
"""

from typing import Any

from aftershock import run as runs
from aftershock.run import hosting

__all__ = [
    "exhaust_files",
    "exhaust_memory",
    "exhaust_pids",
    "freeze_processes",
    "heal_hosts",
    "kill_processes",
    "press_memory",
    "stress_cpu",
    "swap_out",
]


def freeze_processes(
    where: str,
    pid: int = 0,
    pattern: str = "",
    count: int = 1,
    cgroup: str = "",
    container: str = "",
    tree: bool = True,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Stop every thread of processes: there they are, and answer nothing, until the heal.

    See the module for how they are named. Held by ptrace: the agent's death lets them go on,
    however it dies. Evidence: another process sees all threads stopped, and no processor time used.
    """
    return hosting.freeze(
        runs.current(), where, _named(pid, pattern, count, cgroup, container, tree), lease_s
    )


def kill_processes(
    where: str,
    pid: int = 0,
    pattern: str = "",
    count: int = 1,
    cgroup: str = "",
    container: str = "",
    tree: bool = False,
    times: int = 1,
    every_s: float = 10.0,
    signal: str = "KILL",
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Kill processes, once or `times` times: each time when they run again.

    See the module for how they are named. `every_s`: seconds between two turns on average, each
    pause drawn by the run's seed from half to one and a half of it, to half a second exact; a turn
    that finds too few or too many processes is waited for. `signal`: KILL or TERM. A number that
    became another process' is never hit (pidfd). It ends with the heal, the lease, or the agent.
    Evidence: another process finds those from before gone.
    """
    which = _named(pid, pattern, count, cgroup, container, tree)
    how = {"times": times, "every_s": every_s, "signal": signal}
    return hosting.kill(runs.current(), where, which, how, lease_s)


def stress_cpu(
    where: str,
    cores: float = 1.0,
    cpus: str = "",
    nice: int = 0,
    cgroup: str = "",
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Use up processor time on hosts: `cores` processors' worth, 0.5 is half of one.

    `cpus`: pinned to these ("0,1"), else wherever the scheduler puts them. `nice`: -20 (they come
    first) to 19. `cgroup`: within it, so against its own share and limit; without one the agent's,
    which on a host with systemd shares evenly with services however many children there are.
    They end with the agent. Evidence: /proc/stat or the cgroup's account; PSI beside it.
    """
    words = {"cores": cores, "cpus": cpus, "nice": nice, "cgroup": cgroup}
    return hosting.stress_cpu(runs.current(), where, words, lease_s)


def press_memory(
    where: str,
    take_mb: float = 0.0,
    available_mb: float = 0.0,
    of: str = "anonymous",
    folder: str = "/var/tmp",
    reserve_mb: float = 256.0,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Take memory on hosts: `take_mb`, or all until only `available_mb` are available.

    Megabytes are 2**20 bytes; what is available is MemAvailable. `of`: `anonymous`, or
    `page-cache` (locked, of a file without a name or blocks in `folder`). `reserve_mb` is never
    touched and is given back first when others want it. A child of the agent holds it, and is the
    kernel's first choice if memory runs out all the same. Evidence: what the kernel counts of it;
    MemAvailable and PSI beside it.
    """
    words = {
        "take_mb": take_mb,
        "available_mb": available_mb,
        "of": of,
        "folder": folder,
        "reserve_mb": reserve_mb,
    }
    return hosting.press_memory(runs.current(), where, words, lease_s)


def exhaust_memory(
    where: str,
    pid: int = 0,
    pattern: str = "",
    count: int = 1,
    cgroup: str = "",
    container: str = "",
    kills: int = 1,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Have the kernel's OOM killer end processes within their own memory cgroup.

    See the module for how they are named; by `cgroup` or `container` the kernel chooses among
    them. The cgroup's limit is lowered to what it uses, and a child of ours in it takes the rest.
    After `kills` of them the limit is as it was, so that what comes up anew has its room. A process
    in the root cgroup is refused, and a cgroup with anybody in it who must not be touched.
    Evidence: the kernel's count of kills, of the host and of the cgroup; and who is gone.
    """
    which = _named(pid, pattern, count, cgroup, container, False)
    return hosting.out_of_memory(runs.current(), where, which, kills, lease_s)


def swap_out(
    where: str,
    pid: int = 0,
    pattern: str = "",
    count: int = 1,
    cgroup: str = "",
    container: str = "",
    keep_share: float = 0.5,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Have the kernel swap out what processes hold, until `keep_share` of their cgroup's is left.

    By memory.high of the memory cgroup (version 2) that they are in, put back by the agent or its
    watcher: above it the kernel takes memory back, slows down who wants more, and kills nobody.
    All in the cgroup are touched, and its page cache goes first. What is in swap comes back when it
    is touched, after the heal too. A host without enough free swap is refused. Evidence: the
    kernel's account of what of the processes is in swap (VmSwap); PSI beside it.
    """
    which = _named(pid, pattern, count, cgroup, container, False)
    return hosting.swap_out(runs.current(), where, which, keep_share, lease_s)


def exhaust_pids(
    where: str,
    pid: int = 0,
    pattern: str = "",
    count: int = 1,
    cgroup: str = "",
    container: str = "",
    room: int = 0,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Leave room for `room` more processes and threads in the cgroup that processes are in.

    By its pids.max, put back by the agent or its watcher. Evidence: a process that goes there tries
    to begin others, and is refused.
    """
    which = _named(pid, pattern, count, cgroup, container, False)
    return hosting.no_room(runs.current(), where, "pids", which, room, lease_s)


def exhaust_files(
    where: str,
    pid: int = 0,
    pattern: str = "",
    count: int = 1,
    cgroup: str = "",
    container: str = "",
    tree: bool = True,
    room: int = 0,
    lease_s: float = 120.0,
) -> dict[str, Any]:
    """Let each of the processes open `room` more files (and sockets), and no further one.

    By the soft RLIMIT_NOFILE of each, put back by the agent or its watcher; what is open stays.
    Processes that they start later have it, too, and keep it. Evidence: the numbers that are free
    below the limit, as another process counts them.
    """
    which = _named(pid, pattern, count, cgroup, container, tree)
    return hosting.no_room(runs.current(), where, "files", which, room, lease_s)


def heal_hosts(where: str = "all") -> dict[str, Any]:
    """Order the heal of every host and process fault of this run on some hosts. Idempotent."""
    return runs.current().breaking.heal(where, kinds=hosting.KINDS)


def _named(
    pid: int, pattern: str, count: int, cgroup: str, container: str, tree: bool
) -> dict[str, Any]:
    return {
        "pid": pid,
        "pattern": pattern,
        "count": count,
        "cgroup": cgroup,
        "container": container,
        "tree": tree,
    }
