"""What a run injects: network and command faults through agents, the rest through the API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from aftershock.capacity import (
    BlockedAutoscaler,
    Cordon,
    Drain,
    Ending,
    Scaled,
    Tainted,
    radius,
)
from aftershock.capacity.base import ApiFault
from aftershock.capacity.containers import ContainerKill
from aftershock.capacity.containers import Target as ContainerTarget
from aftershock.capacity.nodes import NodeFault
from aftershock.capacity.pods import PodFault
from aftershock.capacity.reaper import Reaper
from aftershock.cluster import Cluster, taints
from aftershock.cluster.workloads import Workload
from aftershock.cudalocks import Locks
from aftershock.errors import AftershockError, Unsupported
from aftershock.faults.base import Fault
from aftershock.injection import Injection
from aftershock.inventory import Node, PodRef
from aftershock.ledger import Ledger
from aftershock.onlookers import cuts_controller, touches
from aftershock.run import podwords
from aftershock.run.newcomers import Scout, ZoneCut
from aftershock.run.settings import Settings
from aftershock.run.taken import Account, is_over
from aftershock.run.target import Target
from aftershock.stillness import Outside, Stillness

_Api = TypeVar("_Api", bound=ApiFault)


class Injected(Protocol):
    """The life of an injection as a run sees it."""

    @property
    def bit(self) -> bool: ...
    @property
    def nodes(self) -> Sequence[Node]: ...
    def check(self) -> None: ...
    def arm(self) -> None: ...
    def fire(self) -> float: ...
    def observe(self) -> Any: ...
    def revert(self) -> Any: ...
    def to_dict(self) -> dict[str, Any]: ...


class Injections:
    """Every injection of a run, in the order of arming."""

    def __init__(self, target: Target, ledger: Ledger, settings: Settings) -> None:
        self.target = target
        self.ledger = ledger
        self.settings = settings
        self._reaper: Reaper | None = None
        self._made: list[tuple[frozenset[str], Injected]] = []
        self._taken = Account(lambda: target.inventory, lambda: list(self))

    def __iter__(self) -> Iterator[Injected]:
        return (injection for _, injection in self._made)

    @property
    def zones(self) -> list[str]:
        """The zones in which something was injected."""
        touched = frozenset().union(*(names for names, _ in self._made))
        return sorted({node.zone for node in self.target.inventory.nodes if node.name in touched})

    def network(
        self,
        fault: Fault,
        nodes: Sequence[Node],
        lease_s: float,
        everyone: Sequence[Node] | None = None,
    ) -> Injected:
        """A fault on nodes; `everyone` are those between whom a shape is."""
        return Injection(fault, nodes, spared=everyone, **self._of_network(fault, nodes, lease_s))

    def cut_off(
        self, fault: Fault, nodes: Sequence[Node], lease_s: float, closing: Sequence[NodeFault]
    ) -> Injected:
        """A partition of nodes and, where they are all of a zone, of whoever joins that.

        `closing` is done to those, too.
        """
        zones = self.target.inventory.whole_zones({node.name for node in nodes})
        scout = Scout(self.cluster, nodes, zones)
        terms = self._of_network(fault, nodes, lease_s)
        return ZoneCut(fault, nodes, scout=scout, closing=closing, **terms)

    def _of_network(self, fault: Fault, nodes: Sequence[Node], lease_s: float) -> dict[str, Any]:
        witness = self._witness_of(fault, nodes)
        return {
            **self.terms(lease_s),
            "at_least": min(self.settings.at_least, len(nodes)),
            "witness": witness,
            "controls": self._controls(nodes, witness),
            "deadline_only": cuts_controller(fault),
        }

    def _witness_of(self, fault: Fault, nodes: Sequence[Node]) -> Node | None:
        """Who can see the fault from outside: the target's own witness, or else another node."""
        inventory = self.target.inventory
        others = [node for node in inventory.nodes if node not in nodes]
        outside = [inventory.witness, *others] if inventory.witness else others
        return next((node for node in outside if touches(fault, node)), None)

    def _controls(self, nodes: Sequence[Node], witness: Node | None) -> list[Node]:
        """A node of every zone that nothing is done to: the witness must go on reaching one."""
        inventory, broken = self.target.inventory, {node.zone for node in nodes}
        found = []
        for zone in inventory.zones():
            others = [node for node in inventory.in_zone(zone) if node != witness]
            found += others[:1] if zone not in broken else []
        return found

    def processes(
        self,
        fault: Fault,
        nodes: Sequence[Node],
        lease_s: float,
        outside: Outside | None = None,
        patience_s: float = 3.0,
        level: str | None = None,
        pods: Sequence[PodRef] = (),
    ) -> Injected:
        """A fault on processes of some hosts.

        `outside` tells what a cluster's API sees of it, which may take until `patience_s`. `level`:
        how real it is, where it stands for something on a GPU. `pods`: it is these alone that it
        breaks; `TooMuch` where the limits allow less.
        """
        self.check_pods(pods)
        sees = Locks if fault.effect.kind == "cuda-locked" else Stillness
        return Injection(
            fault,
            [replace(node, devices=()) for node in nodes],
            lease_s=lease_s,
            grace_s=self.settings.grace_s,
            ledger=self.ledger,
            fleet=self.target.agents,
            deadline_only=cuts_controller(fault),
            pods=pods,
            onlooker=lambda hosts: sees(fault, hosts, outside, patience_s, level),
        )

    def terms(self, lease_s: float) -> dict[str, Any]:
        """What every injection is told."""
        return {
            "lease_s": lease_s,
            "grace_s": self.settings.grace_s,
            "ledger": self.ledger,
            "fleet": self.target.agents,
        }

    def beside(self, nodes: Sequence[Node]) -> Node | None:
        """A node that an agent is on, and nothing is done to."""
        inventory, taken = self.target.inventory, {*(node.name for node in nodes), *self.touched}
        outside = [inventory.witness] if inventory.witness else []
        others = [node for node in (*outside, *inventory.nodes) if node.name not in taken]
        return next((node for node in others if not node.agentless), None)

    def on_hosts(
        self, fault: Fault, nodes: Sequence[Node], lease_s: float, pods: Sequence[PodRef] = ()
    ) -> Injected:
        """A fault of the hosts themselves or of their processes, not of their network.

        `pods`: it is these alone that it breaks. `TooMuch` where the limits allow less.
        """
        if pods:
            self.check_pods(pods)
        else:
            self.check_where(nodes, [fault])
        return Injection(
            fault,
            [replace(node, devices=()) for node in nodes],
            lease_s=lease_s,
            grace_s=self.settings.grace_s,
            at_least=min(self.settings.at_least, len(nodes)),
            ledger=self.ledger,
            fleet=self.target.agents,
            pods=pods,
        )

    def containers(self, targets: Sequence[ContainerTarget], **how: Any) -> Injected:
        """The killing of containers' main processes: see `ContainerKill`."""
        return ContainerKill(self.cluster, targets, self.target.agents, **how)

    def cordon(self, nodes: Sequence[Node]) -> Cordon:
        """A cordon of some nodes."""
        return Cordon(self.cluster, nodes, self.ledger, self.reaper, self.settings.lease_s)

    def taint(self, nodes: Sequence[Node], effect: str) -> Tainted:
        """A taint of ours on some nodes, its value this run's name."""
        taint, lease_s = taints.checked(effect, self._value), self.settings.lease_s
        limits = self.target.inventory.limits
        return self._counted(
            Tainted(self.cluster, nodes, taint, self.ledger, self.reaper, lease_s, limits)
        )

    def drain(self, nodes: Sequence[Node], how: Ending, **more: Any) -> Injected:
        """The eviction of all that runs on some nodes: see `Drain`."""
        told = {"deadline_s": how.deadline_s, "grace_s": how.grace_s, **more}
        limits = self.target.inventory.limits
        return self._counted(Drain(self.cluster, nodes, limits=limits, **told))

    def scale(self, workload: Workload, replicas: int) -> Injected:
        """Another number of replicas of a workload."""
        return self._counted(Scaled(self.cluster, workload, replicas, *self._held))

    def autoscaler_block(self, workload: Workload, replicas: int | None) -> Injected:
        """A workload's autoscaler, held at a number of replicas."""
        return BlockedAutoscaler(self.cluster, workload, replicas, *self._held)

    @property
    def _held(self) -> tuple[Any, ...]:
        """Who holds a change of a workload, for how long, and what limits it."""
        limits = self.target.inventory.limits
        return (self.ledger, self.reaper, self.settings.lease_s, limits)

    @property
    def reaper(self) -> Reaper | None:
        """Who takes changes in the API back when we are gone; nobody if its image is `none`."""
        image = self.target.inventory.reaper_image
        if self._reaper is None and image not in ("", "none"):
            grace_s = self.settings.grace_s
            self._reaper = Reaper(self.cluster, self.ledger, image, grace_s=grace_s)
        return self._reaper

    @property
    def _value(self) -> str:
        """The run's name as a label's value may be: 63 characters at most."""
        return self.ledger.run_id[:63].rstrip("-_.")

    def pods(self, kind: str, place: podwords.Place, words: podwords.Words) -> Injected:
        """A fault on chosen pods: a kind in `podwords.KINDS`."""
        inventory = self.target.inventory
        make = podwords.KINDS[kind]
        nodes = place.nodes(inventory)
        return self._counted(make(self.cluster, inventory, nodes, words, place.namespace))

    def kept_down(self, nodes: Sequence[Node], selector: str, lease_s: float) -> Injected:
        """The killing, at once, of all pods of some nodes, and of what comes up there after."""
        inventory = self.target.inventory
        return self._counted(podwords.kept_down(self.cluster, inventory, nodes, selector, lease_s))

    def _counted(self, fault: _Api) -> _Api:
        """It counts what the run took before."""
        fault.taken = self._taken
        return fault

    @property
    def broken(self) -> dict[str, str]:
        """The nodes that are lost now, as far as the limits go, each with what took it."""
        return _by_name((names, one) for names, one in self._active() if self._loses(one))

    @property
    def touched(self) -> dict[str, str]:
        """The nodes and pods on which something is still injected, each with what."""
        return _by_name(self._active())

    def nodes_under(self, kinds: Container[str]) -> Callable[[], set[str]]:
        """The nodes that some kinds of faults are on, whenever it is called."""
        return lambda: {
            name
            for names, one in self._active()
            for name in names
            if one.to_dict()["fault"] in kinds
        }

    def _active(self) -> Iterator[tuple[frozenset[str], Injected]]:
        # Pods that are killed are their owners' share, wherever they are; so are their containers.
        return (
            (names, one)
            for names, one in self._made
            if not isinstance(one, PodFault) and not is_over(one) and not _is_one_kill(one)
        )

    def _loses(self, injection: Injected) -> bool:
        if isinstance(injection, Injection):
            return radius.loses(self.target.inventory, injection.fault, injection.nodes)
        return isinstance(injection, NodeFault)

    def check_nodes(self, nodes: Sequence[Node]) -> None:
        """`TooMuch` when losing these, too, is more than the target's limits allow."""
        radius.check_nodes(self.target.inventory, nodes, self.broken, self.touched)

    def check_where(self, nodes: Sequence[Node], faults: Sequence[Fault]) -> None:
        """`TooMuch` when these faults on nodes and pods are more than the limits allow."""
        inventory, hosts = self.target.inventory, [node for node in nodes if not node.pod]
        lost = any(radius.loses(inventory, fault, hosts) for fault in faults)
        if hosts:
            radius.check_nodes(inventory, hosts, self.broken, self.touched, lost)
        self.check_pods([node.pod for node in nodes if node.pod])

    def check_pods(self, refs: Sequence[PodRef]) -> None:
        """`TooMuch` when breaking these pods is more than the limits allow."""
        if refs:
            radius.check_pods(self.cluster, refs, self.target.inventory.limits, self._taken)

    @property
    def cluster(self) -> Cluster:
        """The target's Kubernetes API; `Unsupported` where it has none."""
        if self.target.cluster is None:
            raise Unsupported("this target has no Kubernetes API: give the inventory a kubeconfig")
        return self.target.cluster

    def arm(self, injections: Sequence[Injected]) -> None:
        """Check all, then arm all; what one of them is refused for comes before any is armed."""
        for injection in injections:
            injection.check()
        begun: list[Injected] = []
        for injection in injections:
            begun.append(injection)
            self._note(injection)
            try:
                injection.arm()
            except AftershockError:
                for one in begun:
                    with contextlib.suppress(AftershockError):  # it is tried again at the end
                        one.revert()
                raise

    def _note(self, injection: Injected) -> None:
        places = getattr(injection, "breaks", injection.nodes)
        self._made.append((frozenset(node.name for node in places), injection))

    def expect(self, injections: Iterable[Injected]) -> None:
        """They count for the limits as if they were armed, until they are forgotten."""
        for injection in injections:
            self._note(injection)

    def forget(self, nodes: Iterable[Node] | None = None, kinds: Iterable[str] = ()) -> None:
        """What `revert` would heal counts no more."""
        healed = self._meant(nodes, kinds)
        self._made = [(names, one) for names, one in self._made if one not in healed]

    def revert(self, nodes: Iterable[Node] | None = None, kinds: Iterable[str] = ()) -> list[str]:
        """Revert in order of firing, each whatever becomes of the others; return what failed.

        `nodes`: only what was injected on some of these, and on no others. `kinds`: only such.
        """
        wanted = self._meant(nodes, kinds)
        for injection in wanted:  # what kills again would kill what comes back
            if stop := getattr(injection, "stop", None):
                stop()
        problems = []
        for injection in wanted:
            try:
                injection.revert()
            except AftershockError as error:
                problems.append(str(error))
        return problems

    def _meant(self, nodes: Iterable[Node] | None, kinds: Iterable[str]) -> list[Injected]:
        chosen = None if nodes is None else {node.name for node in nodes}
        wanted = set(kinds)
        return [
            injection
            for names, injection in self._made
            if (chosen is None or (names and names <= chosen))
            and (not wanted or injection.to_dict()["fault"] in wanted)
        ]


def _is_one_kill(injection: Injected) -> bool:
    return isinstance(injection, ContainerKill) and injection.times == 1


def _by_name(injected: Iterable[tuple[frozenset[str], Injected]]) -> dict[str, str]:
    """What is on each node and pod, in words."""
    found: dict[str, list[str]] = {}
    for names, one in injected:
        for name in names:
            found.setdefault(name, []).append(str(one.to_dict()["fault"]))
    return {name: ", ".join(dict.fromkeys(kinds)) for name, kinds in sorted(found.items())}
