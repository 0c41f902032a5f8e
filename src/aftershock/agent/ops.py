"""What an agent can be asked. An unknown operation or option is an error, never ignored."""

from __future__ import annotations

import os
import platform
import signal
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from . import facts as host
from .alone import Alone
from .clock import boot_id, boottime, end_process, identity
from .errors import Invalid
from .held import ORDER, Held, Lease
from .records import Record, Records

PROTOCOL = 1
# Answered from threads, so that they can't delay a lease.
SLOW = frozenset(
    {
        "reach",
        "probe",
        "gpu",
        "survey",
        "end",
        "look",
        "storage",
        "vitals",
        "fork",
        "ask",
        "xid",
        "cuda_states",
        "kernel_log",
        "gpu_room",
    }
)


class Operations:
    """The operations, one method each; a method's keywords are its options."""

    def __init__(self, records: Records, alone: Alone) -> None:
        self.held: Dict[str, Held] = {}
        self.records = records
        self.alone = alone
        self.finished = False

    def find(self, op: str, options: Dict[str, Any]) -> Callable[[], Any]:
        """The call that answers a request."""
        method = getattr(self, f"op_{op}", None)
        if method is None:
            known = ", ".join(sorted(name[3:] for name in dir(self) if name.startswith("op_")))
            raise Invalid(f"unknown operation {op!r}: known are {known}")
        code = method.__func__.__code__
        wanted = code.co_varnames[1 : 1 + code.co_kwonlyargcount]
        optional = method.__func__.__kwdefaults__ or {}
        if unknown := sorted(set(options) - set(wanted)):
            raise Invalid(f"{op} has no option {', '.join(unknown)}: it has {', '.join(wanted)}")
        if missing := sorted(set(wanted) - set(options) - set(optional)):
            raise Invalid(f"{op} needs {', '.join(missing)}")
        return lambda: method(**options)

    def op_hello(self) -> Dict[str, Any]:
        """Who answers, on what."""
        system = {"kernel": platform.release(), "python": platform.python_version()}
        place = Path("/proc/self/ns/net").stat().st_ino  # a network namespace until the next boot
        return {"protocol": PROTOCOL, **identity(os.getpid()), **system, "netns": place}

    def op_take(self, *, token: str, holder: str) -> None:
        """Keep this host for one run, known by its token, as long as we live."""
        self.alone.take(token, holder)

    def op_kept(self) -> Optional[str]:
        """Who keeps this host for a run or a game day, for people."""
        return self.alone.kept()

    def op_leave(self, *, order: str) -> Optional[str]:
        """Ask something of whoever keeps this host; who that is."""
        return self.alone.leave(order)

    def op_asked(self) -> Optional[str]:
        """What was asked of us, who keep this host."""
        return self.alone.asked()

    def op_facts(self, *, devices: List[str], wants: Optional[List[str]] = None) -> Dict[str, Any]:
        """What a plan needs to know."""
        return {**host.facts(devices, wants or ()), "boot": boot_id()}

    def op_clock(self) -> float:
        """The agent's clock, for its offset from the controller's."""
        return boottime()

    def op_beat(self) -> float:
        """A sign of life, as any request is; answered with the clock, since clocks drift apart."""
        return boottime()

    def op_fingerprint(self, *, devices: List[str], looks: Optional[List[str]] = None) -> List[str]:
        """What the host looks like."""
        return host.fingerprint(devices, looks or ())

    def op_arm(
        self,
        *,
        injection: str,
        steps: List[Dict[str, Any]],
        lease_s: float,
        grace_s: float = 10.0,
        deadline_only: bool = False,
    ) -> Dict[str, Any]:
        """Prepare and attach the steps of a fault with their gates shut."""
        if injection in self.held:
            raise Invalid(f"injection {injection} is here already")
        lease = Lease(lease_s, grace_s, deadline_only)
        held = Held(injection, steps, lease, self.records)
        self.held[injection] = held
        return held.arm()

    def op_fire(self, *, injection: str, at: Optional[float] = None) -> Dict[str, Any]:
        """Let it bite, now or at a moment on this host's clock that is nearly here."""
        return self._held(injection).fire(at)

    def op_observe(self, *, injection: str) -> List[Dict[str, Any]]:
        """What was seen so far, an entry a step."""
        return self._held(injection).observe()

    def op_revert(self, *, injection: str) -> Dict[str, Any]:
        """Take it back on order; the record, and what the host looks like `after`."""
        return self._and_after(self._held(injection).revert(ORDER, ordered=True))

    def op_record(self, *, injection: str) -> Dict[str, Any]:
        """What happened, also to an injection that an earlier agent on this host held."""
        if injection in self.held:
            return self.held[injection].record
        return self.records.read(injection)

    def op_heal(self, *, injection: str, reason: str) -> Dict[str, Any]:
        """Revert what an earlier agent held: by that agent if it still lives, else in its place.

        The record, and what the host looks like `after`.
        """
        from .watcher import relieve

        if injection in self.held:
            raise Invalid(f"injection {injection} is held here: revert it")
        return self._and_after(relieve(self.records, injection, reason))

    def op_end(self, *, process: Dict[str, Any]) -> bool:
        """End an earlier agent on this host, known by its `identity`; whether it was there."""
        return end_process(process)

    def left_orders(self) -> Iterator[Tuple[Held, str]]:
        """What another agent left an order to revert, since our own channel is lost, and why."""
        for injection, held in self.held.items():
            if reason := self.records.ordered(injection):
                yield held, reason

    def op_forget(self, *, injection: str) -> None:
        """Drop the record of an injection that is over and was fetched."""
        if injection in self.held and self.held[injection].is_on():
            raise Invalid(f"injection {injection} is not over: revert it")
        self.held.pop(injection, None)
        self.records.drop(injection)

    def op_reach(self, *, address: str, timeout_s: float, port: Optional[int] = None) -> Any:
        """Whether an address answers, as seen from here."""
        from .reach import reach

        return reach(address, timeout_s, port)

    def op_probe(
        self, *, address: str, count: int, interval_s: float, timeout_s: float
    ) -> Dict[str, Any]:
        """How many echoes an address answers, and how fast."""
        from .reach import probe

        return probe(address, count, interval_s, timeout_s)

    def op_gpu(self, *, over_s: Optional[float] = None) -> List[Dict[str, Any]]:
        """The GPUs here; all that can be told of them where a while is given, perhaps 0."""
        from .gpu import gpus, looked_at

        return gpus() if over_s is None else looked_at(over_s)

    def op_xid(self, *, index: int) -> int:
        """A GPU's last Xid as DCGM shows it."""
        from .xids import last_xids

        return last_xids([index])[index]

    def op_gpu_room(self, *, uuid: str) -> Dict[str, float]:
        """How large a single allocation on a GPU can be; it takes nearly all for a moment."""
        from .gpuroom import largest

        return largest(uuid)

    def op_cuda_states(self, *, processes: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
        """Whether some processes' CUDA is locked, as another process than this one is told."""
        from .checkpoint import ask

        return ask("look", processes)

    def op_kernel_log(self, *, after: Optional[int] = None) -> Dict[str, Any]:
        """Xids in the kernel's log since a record, and its newest record."""
        from .kernellog import read

        return read(after)

    def op_ask(self, *, url: str, body: Optional[str], timeout_s: float) -> Dict[str, Any]:
        """What an HTTP server answers to this host."""
        from .asking import ask

        return ask(url, body, timeout_s)

    def op_look(self, *, chosen: List[Dict[str, Any]], over_s: float) -> Dict[str, Any]:
        """What another process than this one sees of some processes, over a while."""
        from .trying import ask_another

        return ask_another("look", [chosen, over_s])

    def op_storage(self, *, what: str, options: Dict[str, Any]) -> Dict[str, Any]:
        """What another process than this one sees of a volume."""
        from .storage import ask

        return ask(what, options)

    def op_vitals(self, *, cgroup: str = "") -> Dict[str, Any]:
        """Processor, memory, swap, pressure and OOM kills of this host, and of a cgroup."""
        from .vitals import vitals

        return vitals(cgroup)

    def op_fork(self, *, cgroup: str, count: int) -> Dict[str, Any]:
        """How many processes can be begun in a cgroup, at most `count`."""
        from .trying import fork_in

        return fork_in(cgroup, count)

    def op_kill(self, *, container: str) -> Dict[str, Any]:
        """Kill the process that a container lives by; who it was."""
        from .containers import main_process

        pid = main_process(container)
        if pid is None:
            raise Invalid(f"no process of container {container[:12]} here: has it ended?")
        if pid in (1, os.getpid(), os.getppid()):
            raise Invalid(f"container {container[:12]} lives by process {pid}: that is our own")
        who = {**identity(pid), "at": boottime()}
        os.kill(pid, signal.SIGKILL)
        return who

    def op_survey(self, *, devices: List[str]) -> Dict[str, Any]:
        """What this host could do, and what it lacks."""
        from .survey import survey

        return survey(devices)

    def op_bye(self) -> int:
        """Take everything back on order, and end."""
        for held in self.held.values():
            held.revert(ORDER, ordered=True)
        self.finished = True
        return os.getpid()

    def _and_after(self, record: Record) -> Record:
        there = [device for device in record["devices"] if host.is_there(device)]
        return {**record, "after": host.fingerprint(there, record.get("looks", ()))}

    def _held(self, injection: str) -> Held:
        if injection not in self.held:
            raise Invalid(f"no injection {injection} here: arm it first")
        return self.held[injection]
