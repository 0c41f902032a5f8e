"""A controller in a process of its own, to be killed: `controller.py JSON`.

It goes through an injection's life as a run does, with a run's signal handlers, and stops at the
stages named in `stops`: it says where it is on its standard output and waits for words on its
standard input, until `go`. What became of it is its last line.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from aftershock.controls.interrupts import Interrupts
from aftershock.errors import AftershockError
from aftershock.faults.base import Effect, Facts, Fault, PerNode, Plan
from aftershock.faults.cudalock import CudaLock
from aftershock.faults.exhaustion import NoRoom, OutOfMemory
from aftershock.faults.filling import DiskFull
from aftershock.faults.freeze import Freeze
from aftershock.faults.gpu import GpuMemoryPressure
from aftershock.faults.gpuslow import GpuSlowdown
from aftershock.faults.kill import Kill
from aftershock.faults.partition import EVERYONE, Partition
from aftershock.faults.pressing import IoPressure
from aftershock.faults.processes import Processes
from aftershock.faults.shaping import Bandwidth
from aftershock.faults.stress import CpuStress, MemoryPressure
from aftershock.faults.throttling import IoThrottle
from aftershock.faults.traffic import Traffic
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node, node_from_dict
from aftershock.ledger import Ledger

GRACE_S = 60.0  # not what these tests wait for: the channel's end says more than its silence
SLOWEST_KBIT = 8


@dataclass(frozen=True)
class Several:
    """Several kinds of faults on one host, in one injection."""

    parts: tuple[Fault, ...]
    name: str = "several"
    wants: tuple[str, ...] = ()
    effect: Effect = field(default_factory=lambda: Effect("full"))

    def cuts(self, address: str) -> bool:
        """Nobody."""
        return False

    def plan(self, facts: Facts) -> Plan:
        """Every part's steps."""
        return Plan(tuple(step for part in self.parts for step in part.plan(facts).steps), ())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"name": self.name, "parts": [part.to_dict() for part in self.parts]}


class Stopping(Ledger):
    """A ledger that stops its run once an event is on disk."""

    stop: Callable[[str], None]

    def note(self, event: str, **detail: Any) -> None:
        """Write, then stop at this stage."""
        super().note(event, **detail)
        if event == "reverting":
            self.stop(event)


class Life:
    """One injection of every kind, a host each, and perhaps another like it on top."""

    def __init__(self, words: dict[str, Any]) -> None:
        self.words = words
        self.nodes = [node_from_dict(plain) for plain in words["nodes"]]
        self.fleet = Fleet()
        self.channels: dict[str, AgentChannel] = {}
        self.ledger = Stopping.open("run-to-be-killed")
        self.ledger.stop = self.stop
        self.first = self.injection(self.nodes)
        self.second: Injection | None = None

    def injection(self, nodes: list[Node], number: int = 0) -> Injection:
        """Not yet armed; the second goes over the first."""
        cut = self.words["cut_controller"]
        faults = {node.name: fault(node, cut, number) for node in nodes}
        return Injection(
            PerNode("survival", faults, {}),
            nodes,
            lease_s=self.words["lease_s"],
            grace_s=GRACE_S,
            deadline_only=self.words["deadline_only"],
            ledger=self.ledger,
            fleet=self.fleet,
            spared=[],
        )

    def live(self) -> None:
        """Until it is fired."""
        self.fleet.channels(self.nodes)
        self.stop("before arming")
        self.first.arm()
        self.stop("armed")
        self.first.fire()
        self.stop("fired")

    def end(self) -> list[str]:
        """Take everything back; what went wrong."""
        errors = []
        ends = [self.first.revert, lambda: self.stop("reverted")]
        ends += [self.second.revert] if self.second else []
        for step in [*ends, self.fleet.close, self.ledger.close]:
            try:
                step()
            except AftershockError as error:
                errors.append(str(error))
        return errors

    def stop(self, stage: str) -> None:
        """Say where we are, and do as we are told until we are to go on."""
        if stage not in self.words["stops"]:
            return
        self.words["stops"].remove(stage)
        # None is opened anew: no line may be there to do so.
        now = {node.name: self.fleet.current(node) for node in self.nodes}
        self.channels |= {name: channel for name, channel in now.items() if channel}
        channels = self.channels.values()
        say({"at": stage, "agents": [channel.hello["pid"] for channel in channels]})
        while (word := sys.stdin.readline().strip()) != "go":
            if word == "cut":
                for channel in channels:
                    channel.abandon(0)
            elif word == "overlap":
                # What is frozen or full already can't be so twice.
                twice = [one for one in self.nodes if "ONCE" not in one.env]
                self.second = self.injection(twice, 1)
                self.second.arm()
                self.second.fire()
            say({"done": word})


def storage(node: Node, number: int) -> Several:
    """What has no name, what runs, and what outlives the agent."""
    path, groups = node.env["VOLUME"], node.env["CGROUPS"].split(":")
    parts: list[Fault] = [DiskFull(path, free_mib=8 - number)]
    if shutil.which("fio") and not number:
        parts.append(IoPressure(path, "write", size_mib=4, rate_mib_s=1, engine="libaio"))
    if groups[0]:
        parts.append(IoThrottle(path, read_mib_s=1, cgroup=groups[number]))
    return Several(tuple(parts))


def processes(node: Node) -> Several:
    """What runs, what is held, and what kills, the kernel among it."""
    return Several(
        (
            CpuStress(0.3, cgroup=node.env["BUSY"]),
            MemoryPressure(take_mb=160, reserve_mb=64),
            Kill(Processes(cgroup=node.env["KILLED"]), times=100, every_s=1),
            OutOfMemory(Processes(cgroup=node.env["STARVED"])),
        )
    )


def gpus(node: Node, number: int) -> Several:
    """What a child holds, and what outlives the agent: a slow card, a lock."""
    slow = GpuSlowdown((str(1 + number),), clock_mhz=300, power_w=250, allowed=True)
    user = Processes(pid=int(node.env["USERS"].split(":")[number]))
    return Several((GpuMemoryPressure(("0",), take_mib=1000, anyone=True), slow, CudaLock(user)))


def fault(node: Node, cut_controller: bool, number: int) -> Fault:
    """A node's name says what is done to it."""
    if node.name == "storage":
        return storage(node, number)
    if node.name == "processes":
        return processes(node)
    if node.name == "gpus":
        return gpus(node, number)
    if "VICTIM" in node.env:
        victim = Processes(pid=int(node.env["VICTIM"]))
        return NoRoom("pids", victim) if node.name == "limit" else Freeze(processes=(victim,))
    hook = "clsact" if "clsact" in node.name else "tcx"
    spare = () if cut_controller else (ip_network(node.env["SPARED"]),)
    if "divert" in node.name:
        traffic = Traffic(hook=hook, spare=spare, cut_controller=cut_controller)  # type: ignore[arg-type]
        return Bandwidth(SLOWEST_KBIT, queue_ms=1, traffic=traffic)
    return Partition(EVERYONE, hook=hook, spare=spare, cut_controller=cut_controller)  # type: ignore[arg-type]


def say(what: dict[str, Any]) -> None:
    """A line to the test."""
    print(json.dumps(what), flush=True)


def main() -> None:
    """As `chaos run` would: the first signal ends the method, later ones wait."""
    interrupts = Interrupts()
    interrupts.install()
    life, errors = Life(json.loads(sys.argv[1])), []
    try:
        life.live()
    except (KeyboardInterrupt, SystemExit):
        pass
    except AftershockError as error:
        errors.append(str(error))
    interrupts.shield()
    errors += life.end()
    say({"errors": errors, "received": interrupts.received, "told": life.first.to_dict()})


if __name__ == "__main__":
    main()
