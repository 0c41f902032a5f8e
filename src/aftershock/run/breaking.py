"""The faults of a run: armed, fired and confirmed within it, and healed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aftershock.capacity.base import ApiFault
from aftershock.capacity.nodes import NodeFault
from aftershock.errors import AftershockError, InvalidFault
from aftershock.faults.base import Fault
from aftershock.hosts.fleet import NoWay
from aftershock.inventory import Inventory, Node
from aftershock.run import NoRun, wording
from aftershock.run.injecting import Injected, Injections
from aftershock.run.judging import T_EFFECT, T_HEALED
from aftershock.run.places import are_pods, places
from aftershock.run.podwords import Place
from aftershock.run.wording import NETWORK, Words
from aftershock.slo.verdict import on_hosts

if TYPE_CHECKING:
    from aftershock.run.session import Run

Told = dict[str, Any]


class Foreseen(Exception):
    """What would have been armed, in a run that breaks nothing."""

    def __init__(self, parts: Sequence[Injected] = (), lines: Sequence[str] = ()) -> None:
        """`lines`: what it would do that is no injection, in words."""
        super().__init__()
        self.parts, self.lines = parts, lines


class Breaking:
    """What actions call. Each method tells of the injections it made, with their evidence."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._injections: Injections | None = None
        self._foreseeing = False

    def begin(self, injections: Injections) -> None:
        """The target is up: from now on something can be broken."""
        self._injections = injections

    @property
    def injections(self) -> Injections:
        """What makes injections; `NoRun` before the target is up."""
        if self._injections is None:
            raise NoRun("the run has not begun")
        return self._injections

    @property
    def foreseeing(self) -> bool:
        """Whether nothing is armed: what would be raises `Foreseen`."""
        return self._foreseeing

    @property
    def made(self) -> list[Injected]:
        """Every injection so far."""
        return list(self._injections) if self._injections else []

    @property
    def _inventory(self) -> Inventory:
        return self._run.target.inventory

    def fail_zone(self, zone: str, lease_s: float, selector: str, peers: str) -> Told:
        """See `aftershock.actions.zone.fail_zone`."""
        return self._fail(self._inventory.in_zone(zone), lease_s, selector, peers)

    def fail_nodes(self, where: str, lease_s: float, selector: str, peers: str) -> Told:
        """See `aftershock.actions.kubernetes.fail_nodes`."""
        return self._fail(self._inventory.select(where), lease_s, selector, peers)

    def _fail(self, nodes: Sequence[Node], lease_s: float, selector: str, peers: str) -> Told:
        self.injections.check_nodes(nodes)
        fault = self._cut_off(nodes, peers)
        lease = wording.number("lease_s", lease_s)
        self._run.phase("arming")
        with self._run.watcher.paused():
            parts: list[Injected] = []
            if self._run.target.cluster is None:
                parts = [self.injections.network(fault, nodes, lease)]
            else:
                closing: list[NodeFault] = [
                    self.injections.cordon(nodes),
                    self.injections.taint(nodes, "NoSchedule"),
                ]
                parts = [
                    self.injections.cut_off(fault, nodes, lease, closing),
                    *closing,
                    self.injections.kept_down(nodes, selector, lease),
                ]
            self._fire(parts)
        return self._confirm(parts)

    def cordon_nodes(self, where: str) -> Told:
        """See `aftershock.actions.kubernetes.cordon_nodes`."""
        nodes = self._inventory.select(where)
        self.injections.check_nodes(nodes)
        return self._confirm(self._fire([self.injections.cordon(nodes)]))

    def taint_nodes(self, where: str, effect: str) -> Told:
        """See `aftershock.actions.kubernetes.taint_nodes`."""
        nodes = self._inventory.select(where)
        self.injections.check_nodes(nodes)
        return self._confirm(self._fire([self.injections.taint(nodes, effect)]))

    def pods(self, kind: str, place: Place, words: Mapping[str, Any]) -> Told:
        """See `kill_pods`, `evict_pods` and others of `aftershock.actions.kubernetes`."""
        return self._confirm(self._fire([self.injections.pods(kind, place, words)]))

    def partition_zone(self, zone: str, lease_s: float, peers: str) -> Told:
        """See `aftershock.actions.network.partition_zone`."""
        nodes = self._inventory.in_zone(zone)
        self.injections.check_nodes(nodes)
        return self._break(nodes, [self._cut_off(nodes, peers)], lease_s)

    def network(
        self,
        where: str,
        kinds: Mapping[str, Mapping[str, Any]],
        peers: str,
        direction: str,
        traffic: Mapping[str, Any] | None,
        lease_s: float,
    ) -> Told:
        """Network faults by kind with their parameters, all at once on the same traffic."""
        nodes = places(self._inventory, self._run.target.cluster, where)
        chosen = wording.traffic_of_words(self._inventory, nodes, peers, direction, traffic)
        faults = [wording.network_fault(kind, chosen, words) for kind, words in kinds.items()]
        if not faults:
            raise InvalidFault("nothing to degrade: give a delay, a loss, or another fault")
        self.injections.check_where(nodes, faults)
        return self._break(nodes, faults, lease_s)

    def shape(
        self, where: str, kind: str, groups: str, first: str, seed: int, lease_s: float
    ) -> Told:
        """See `aftershock.actions.network.partition_shape`."""
        everyone = self._inventory.select(where)
        chance = int(wording.number("seed", seed))
        fault = wording.shape_fault(self._inventory, where, kind, groups, first, chance)
        nodes = [node for node in everyone if node.name in fault.by_node]
        self.injections.check_where(nodes, [fault])
        return self._break(nodes, [fault], lease_s, everyone)

    def command(
        self, where: str, apply: Words, undo: Words, check: Words, timeout_s: float, lease_s: float
    ) -> Told:
        """See `aftershock.actions.command.run_command`."""
        nodes = self._inventory.select(where)
        fault = wording.command_fault(apply, undo, check, timeout_s)
        self.injections.check_where(nodes, [fault])
        return self._break(nodes, [fault], lease_s)

    def heal_zone(self, zone: str, kinds: Iterable[str] = ()) -> Told:
        """See `aftershock.actions.zone.heal_zone`."""
        return self._heal(self._inventory.in_zone(zone), kinds)

    def heal(self, where: str, kinds: Iterable[str] = NETWORK) -> Told:
        """See `aftershock.actions.network.heal_network`."""
        if where.strip() == "all":
            return self._heal(None, kinds)
        if are_pods(where):  # they may be gone by now: whatever was done to pods
            return self._heal([node for one in self.made for node in one.nodes if node.pod], kinds)
        return self._heal(self._inventory.select(where), kinds)

    def heal_everything(self) -> Told:
        """See `aftershock.actions.zone.heal_everything`."""
        return self._heal(None, ())

    def heal_kinds(self, kinds: Iterable[str]) -> Told:
        """Heal all injections of these kinds."""
        return self._heal(None, kinds)

    def _cut_off(self, nodes: Sequence[Node], peers: str) -> Fault:
        traffic = wording.traffic_of_words(self._inventory, nodes, peers, "both")
        return wording.network_fault("partition", traffic, {})

    def _break(
        self,
        nodes: Sequence[Node],
        faults: Sequence[Fault],
        lease_s: float,
        everyone: Sequence[Node] | None = None,
    ) -> Told:
        lease = wording.number("lease_s", lease_s)
        self._run.phase("arming")
        with self._run.watcher.paused():
            parts = [self.injections.network(fault, nodes, lease, everyone) for fault in faults]
            self._fire(parts)
        return self._confirm(parts)

    def inject(
        self, make: Callable[[Injections], Sequence[Injected]], watched: bool = False
    ) -> Told:
        """Arm, fire and confirm what is made; it becomes part of the run.

        `watched`: its firing lasts, so GPUs go on being read meanwhile.
        """
        self._run.phase("arming")
        with contextlib.nullcontext() if watched else self._run.watcher.paused():
            parts = make(self.injections)
            self._fire(parts)
        return self._confirm(parts)

    def foresee(self, injections: Injections) -> None:
        """From now on nothing is armed: what would be raises `Foreseen`."""
        self.begin(injections)
        self._foreseeing = True

    def foretell(self, line: str) -> None:
        """What is about to be done without an injection: where nothing is, it ends here."""
        if self._foreseeing:
            raise Foreseen(lines=[line])

    def _fire(self, injections: Sequence[Injected]) -> Sequence[Injected]:
        if self._foreseeing:
            for one in injections:
                if isinstance(one, ApiFault):
                    one.check()
                    continue
                for node in one.nodes:  # agents are not asked: they are not there yet
                    if node.agentless:
                        NoWay(node).start()
            raise Foreseen(injections)
        self.injections.arm(injections)
        timeline = self._run.timeline
        for injection in injections:
            fired_at = injection.fire()
            if T_EFFECT not in timeline.marks:
                timeline.mark(T_EFFECT, fired_at)
                self._run.phase("FIRED")
        return injections

    def _confirm(self, injections: Sequence[Injected]) -> Told:
        for injection in injections:
            injection.observe()
        told = [injection.to_dict() for injection in injections]
        for one in told:
            effect = "effect seen" if one["bit"] else "NO EFFECT SEEN"
            told_all = one["skew_ms"] is not None and len(one["hosts"]) > 1
            apart = f", {one['skew_ms']:.1f} ms apart" if told_all else ""
            where = on_hosts(one["fault"], one["hosts"])
            self._run.console.say("FIRED", f"{where}{apart}: {effect}")
        self.write()
        return {"injections": told}

    def write(self) -> None:
        """What was injected so far, on disk; a disk that refuses keeps no fault from healing."""
        with self._run.noting("injections.json"):
            told = [injection.to_dict() for injection in self.made]
            self._run.folder.write_json("injections.json", told)

    def _heal(self, nodes: Iterable[Node] | None, kinds: Iterable[str]) -> Told:
        if self._injections is None or self._foreseeing:
            if self._injections:
                self._injections.forget(nodes, kinds)
            return {"healed": 0, "injections": []}
        active = [told for one in self.made if not (told := one.to_dict())["reverted"]]
        if active:
            self._run.phase("reverting")
        if not all(one.get("deadline_only") for one in active):
            self._mark_heal(time.monotonic())
        with self._run.watcher.paused():
            problems = self._injections.revert(nodes, kinds)
        if active:  # what only its deadline heals was healed in the meantime
            self._mark_heal(_first_heal(one.to_dict() for one in self.made))
        self.write()
        if problems:
            raise AftershockError("; ".join(problems))
        return {"healed": len(active), "injections": [one.to_dict() for one in self.made]}

    def _mark_heal(self, at: float) -> None:
        """From the first heal on less is broken: that one counts."""
        marks = self._run.timeline.marks
        if T_EFFECT in marks and T_HEALED not in marks:
            self._run.timeline.mark(T_HEALED, at)


def _first_heal(told: Iterable[Mapping[str, Any]]) -> float:
    hosts = [host for one in told for host in one.get("per_host", {}).values()]
    healed: list[float] = [
        at for host in hosts if (at := host.get("reverted_at_monotonic_s")) is not None
    ]
    return min([*healed, time.monotonic()])
