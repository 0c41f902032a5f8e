"""The life of a fault as the controller sees it. The order of its steps is the safety argument:

1. every host is asked whether it can (facts, plan): a refusal comes before anything is touched;
2. the ledger says what is about to be armed, and where, so that `recover` can undo it;
3. the agents arm: their own record and their lease come first, the device second, the gate is shut;
4. the ledger says "fired", then all gates open at once;
5. the revert is ordered; what each agent recorded says whether the order came before the heal.

A step that fails on one host takes back what was done on all, unless `at_least` so many hosts are
enough: then it is taken back where it failed, and goes on without that host.

A host hears of a fault twice until it bites (arm, fire) and twice until it is over (revert,
forget), however many rules it has; its facts are asked for once.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

from aftershock.aftermath import Aftermath, forget, gather
from aftershock.errors import (
    AftershockError,
    HostUnreachable,
    InvalidInput,
    NotApplied,
    NotReverted,
    Unsupported,
)
from aftershock.evidence import Onlooker, Piece, bites, felt, wait_for_bite
from aftershock.faults.base import Facts, Fault, Plan, on
from aftershock.hosts.channel import ANSWER_S, AgentChannel
from aftershock.hosts.fleet import Fleet, ask_all, soon
from aftershock.hosts.local import NamespaceGone
from aftershock.inventory import Node, PodRef
from aftershock.ledger import Ledger
from aftershock.onlookers import onlooker_for, touches

_ARM_S = 30.0
_DEAF_S = 1.0
_SEEN_S = 3.0
_HEALED_S = 15.0  # after the deadline
_LONGEST_S = 86_400


class Injection:
    """One fault on some nodes: `check`, `arm`, `fire`, `observe`, `revert`, in this order.

    `lease_s` counts from the arming and bounds the fault whatever happens to this process.
    `witness` is a node that the fault cuts from the hosts; `controls` are nodes that it must reach
    all the time, or its silence proves nothing; `spared` are nodes which the hosts must still reach
    (the hosts themselves unless named). `deadline_only` is for a fault that cuts its
    own channel: losing that then heals nothing. `at_least`: how many hosts are enough; 0 for all.
    `onlooker` makes who sees the effect, where it isn't to be the usual one for such a fault.
    """

    def __init__(
        self,
        fault: Fault,
        nodes: Sequence[Node],
        *,
        lease_s: float,
        ledger: Ledger,
        fleet: Fleet,
        witness: Node | None = None,
        spared: Sequence[Node] | None = None,
        controls: Sequence[Node] = (),
        grace_s: float = 10.0,
        deadline_only: bool = False,
        at_least: int = 0,
        onlooker: Callable[[Sequence[Node]], Onlooker] | None = None,
        pods: Sequence[PodRef] = (),
    ) -> None:
        for name, seconds in (("lease_s", lease_s), ("grace_s", grace_s)):
            if not 0 < seconds <= _LONGEST_S:
                raise InvalidInput(f"{name} {seconds}: more than 0 seconds, at most a day")
        if not nodes:
            raise InvalidInput(f"{fault.name}: no nodes: nothing would happen")
        if not 0 <= at_least <= len(nodes):
            raise InvalidInput(
                f"{fault.name}: at_least {at_least}: from 0 (every host) to {len(nodes)}, the hosts"
            )
        if witness and not touches(fault, witness):
            raise InvalidInput(
                f"{fault.name}: it doesn't touch the witness {witness.name}: name another"
            )
        self.id = f"{fault.name}-{secrets.token_hex(4)}"
        self.fault = fault
        self.nodes = list(nodes)  # those that it is on: shorter where `at_least` allows
        self.pods = tuple(pods) or tuple(node.pod for node in nodes if node.pod)
        self.failed: dict[str, AftershockError] = {}
        self.fired_at: float | None = None
        self.skew_ms: float | None = None
        self.pieces: list[Piece] = []
        self.bit = False
        self.aftermath: Aftermath | None = None
        self._lease = {"lease_s": lease_s, "grace_s": grace_s, "deadline_only": deadline_only}
        self._ledger = ledger
        self._fleet = fleet
        self._witness = witness
        self._at_least = at_least or len(nodes)
        kept = spared if spared is not None else tuple(nodes)
        self._onlooker = (
            onlooker(self.nodes)
            if onlooker
            else onlooker_for(fault, self.nodes, witness, kept, controls)
        )
        self._plans: dict[str, Plan] = {}
        self._before: dict[str, list[str]] = {}
        self._fired: dict[str, float] = {}
        self._armed = False
        self._agents: dict[str, Any] = {}
        self._deadline = 0.0
        self._ordered_at = inf
        self._doubtful: list[Node] = []  # failed, and could not be looked after by then

    def check(self) -> None:
        """Ask every host whether it can; what can't be is refused before anything is touched."""
        if self._plans:
            return
        channels, errors = self._fleet.reach(self.nodes)
        plans, refused = self._planned(channels, self.nodes)
        if errors | refused:
            self._go_on_without(errors | refused)
        self._plans = plans

    def arm(self) -> None:
        """Prepare and check everything on every host; nothing is felt. All hosts or none."""
        self.check()
        channels = self._hosts()
        self._onlooker.look_before(self._everyone())
        self._agents = {name: channel.who() for name, channel in channels.items()}
        self._armed = True
        self._deadline = time.monotonic() + self._lease["lease_s"]
        self._note_arming()
        records, errors = ask_all(channels, "arm", self._request, _ARM_S + self._slow_s)
        self._before = {name: record["before"] for name, record in records.items()}
        if errors:
            self._settle("arming", errors)
        self._ledger.note("armed", injection=self.id)

    def _note_arming(self) -> None:
        nodes = [node.to_dict() for node in self.nodes]
        told = {"fault": self.fault.to_dict(), "nodes": nodes, "agents": self._agents}
        self._ledger.note("arming", injection=self.id, **told, **self._lease)

    def fire(self) -> float:
        """Let it bite everywhere at once; the earliest instant, on this process' own clock."""
        if not self._before or self.fired_at is not None:
            raise InvalidInput(f"{self.id}: arm it first, and fire it once")
        channels = self._hosts()
        self._ledger.note("fired", injection=self.id)
        at, asked = soon(channels), time.monotonic()
        patience = _DEAF_S if self._lease["deadline_only"] else ANSWER_S + self._slow_s
        answers, errors = ask_all(
            channels, "fire", lambda name: {"injection": self.id, "at": at[name]}, patience
        )
        if self._lease["deadline_only"]:  # the answer may be the first thing that it cut
            errors = {n: error for n, error in errors.items() if not _is_cut_off(error)}
        if errors:
            self._settle("firing", errors)
        self._fired = {
            name: channels[name].to_monotonic(answer["fired_at"])
            for name, answer in answers.items()
        }
        if len(self._fired) < len(self.nodes):  # when the others did is known after the heal only
            self.fired_at = min([asked, *self._fired.values()])
            return self.fired_at
        self.fired_at = min(self._fired.values())
        self.skew_ms = (max(self._fired.values()) - self.fired_at) * 1000
        return self.fired_at

    def observe(self, within_s: float | None = None) -> dict[str, Any]:
        """Look until the effect is proven or time is over; `bit` stays true once it was seen."""
        if within_s is None:
            within_s = getattr(self._onlooker, "patience_s", _SEEN_S)
        if self.fired_at is None:
            raise InvalidInput(f"{self.id}: fire it first")
        self.pieces = wait_for_bite(self._onlooker, self._everyone(), self.id, within_s)
        self.bit = self.bit or bites(self.pieces, self._onlooker.needed)
        return self.evidence

    @property
    def evidence(self) -> dict[str, Any]:
        """What was seen of the effect when it was last looked for."""
        return {"bit": self.bit, "pieces": [piece.to_dict() for piece in self.pieces]}

    def revert(self) -> Aftermath:
        """Take it back everywhere, learn how each host's part ended, and compare fingerprints.

        Harmless when it is over already, whoever ended it. NotReverted names what could not be
        taken back, or looked after; the leases on the hosts stay the backstop.
        """
        if self.aftermath and self.aftermath.is_complete:
            return self.aftermath
        if not self._armed:
            self.aftermath = Aftermath({}, {}, {})
            return self.aftermath
        with contextlib.suppress(InvalidInput):  # a full disk must not keep a fault alive
            self._ledger.note("reverting", injection=self.id)
        self._ordered_at = min(self._ordered_at, time.monotonic())
        everywhere = [*self.nodes, *self._doubtful]
        self.aftermath = self._gather(everywhere)
        if self.aftermath.errors:
            said = "; ".join(str(error) for error in self.aftermath.errors.values())
            raise NotReverted(f"{self.id}: {said}; `aftershock recover` tries again")
        self._look_after()
        with contextlib.suppress(InvalidInput):
            self._ledger.note("reverted", injection=self.id)
            forget(self.id, everywhere, self._fleet)  # only now: `recover` would ask for it
        return self.aftermath

    def _look_after(self) -> None:
        """What an onlooker has to tell of it now that it is over."""
        if self.fired_at is None:
            return
        if look := getattr(self._onlooker, "look_after", None):
            with contextlib.suppress(AftershockError):
                self.pieces += look(self._everyone())
        weigh = getattr(self._onlooker, "weigh", None)
        if weigh and self.aftermath:
            ended = self.aftermath.ended
            self.pieces += weigh({name: one.record["seen"] for name, one in ended.items()})

    def _gather(self, nodes: Sequence[Node]) -> Aftermath:
        """A host that its own fault cuts off from us heals at the deadline, and is asked then.

        What lasted beyond our order, which could not be heard there, was not healed early.
        """
        while True:
            # A command is undone, and then looked for.
            found = gather(self.id, nodes, self._fleet, self._before, 2 * self._slow_s)
            if not self._lease["deadline_only"]:
                return found
            if not any(map(_is_cut_off, found.errors.values())) or self._is_overdue():
                return found.obeying(self._ordered_at)
            time.sleep(_DEAF_S)

    def _is_overdue(self) -> bool:
        return time.monotonic() > self._deadline + _HEALED_S

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the journal; what hasn't happened yet is None."""
        after = self.aftermath
        return {
            "id": self.id,
            "fault": self.fault.name,
            "parameters": self.fault.to_dict(),
            "hosts": [node.name for node in self.nodes],
            "failed_hosts": {name: str(error) for name, error in self.failed.items()},
            "fired_at": _utc(self.fired_at),
            "fired_at_monotonic_s": self.fired_at,
            "skew_ms": self.skew_ms,
            "bit": self.bit,
            "felt": felt(self.pieces),
            "evidence": self.evidence,
            "level": getattr(self._onlooker, "level", None),
            "ordered": after.ordered if after else None,
            "reverted": after.reverted if after else None,
            "healed_early": after.healed_early if after else None,
            "clean": after.clean if after else None,
            "foreign_changes": after.foreign_changes if after else None,
            "per_host": {node.name: self._host(node) for node in self.nodes},
            **self._lease,
        }

    def _host(self, node: Node) -> dict[str, Any]:
        plan = self._plans.get(node.name)
        about = {
            "plan": plan.to_dict() if plan else None,
            "fired_at_monotonic_s": self._fired.get(node.name),
        }
        return about | (self.aftermath.host(node.name) if self.aftermath else {})

    def _hosts(self) -> dict[str, AgentChannel]:
        return self._fleet.channels(self.nodes)

    def _everyone(self) -> dict[str, AgentChannel]:
        return self._fleet.channels([*self.nodes, *([self._witness] if self._witness else [])])

    def _planned(
        self, channels: Mapping[str, AgentChannel], nodes: Sequence[Node]
    ) -> tuple[dict[str, Plan], dict[str, AftershockError]]:
        """Each host's plan, and what speaks against one."""
        facts, errors = self._facts(channels, nodes)
        plans: dict[str, Plan] = {}
        for name, plain in facts.items():
            try:
                plans[name] = on(self.fault, name).plan(Facts.from_dict(plain))
            except AftershockError as error:
                errors[name] = type(error)(f"{name}: {error}")
        return plans, errors

    def _facts(
        self, channels: Mapping[str, AgentChannel], nodes: Sequence[Node]
    ) -> tuple[dict[str, Any], dict[str, AftershockError]]:
        """What plans need to know; an agent is asked once."""
        devices = {node.name: list(node.devices) for node in nodes}
        wants = list(self.fault.wants)
        unknown = {
            name: one
            for name, one in channels.items()
            if _key(devices[name], wants) not in one.facts
        }
        told, errors = ask_all(
            unknown, "facts", lambda name: {"devices": devices[name], "wants": wants}
        )
        for name, facts in told.items():
            channels[name].facts[_key(devices[name], wants)] = facts
        known = {name: one for name, one in channels.items() if name not in errors}
        return {name: one.facts[_key(devices[name], wants)] for name, one in known.items()}, errors

    def _request(self, name: str) -> dict[str, Any]:
        steps = [step.request() for step in self._plans[name].steps]
        return {"injection": self.id, "steps": steps, **self._lease}

    @property
    def _slow_s(self) -> float:
        """How long the slowest of a user's commands may take."""
        steps = [step for plan in self._plans.values() for step in plan.steps]
        return max((float(step.options.get("timeout_s", 0.0)) for step in steps), default=0.0)

    def _settle(self, step: str, errors: Mapping[str, AftershockError]) -> None:
        """Go on without the hosts that failed if the rest is enough; else take back all of it."""
        if len(self.nodes) - len(errors) >= self._at_least:
            failed = [node for node in self.nodes if node.name in errors]
            undone = gather(self.id, failed, self._fleet, self._before)
            self._doubtful += [node for node in failed if node.name in undone.errors]
            self._go_on_without(errors)
            return
        said = "; ".join(str(error) for error in errors.values())
        try:
            self.revert()
        except NotReverted as error:
            raise NotApplied(f"{step} {self.id}: {said}; and taking it back: {error}") from error
        raise NotApplied(f"{step} {self.id}: {said}; what was done on the other hosts is undone")

    def _go_on_without(self, errors: Mapping[str, AftershockError]) -> None:
        left = [node for node in self.nodes if node.name not in errors]
        if len(left) < self._at_least:
            if len(errors) == 1:
                raise next(iter(errors.values()))
            kind = HostUnreachable if _are_all(errors, HostUnreachable) else Unsupported
            raise kind("; ".join(str(error) for error in errors.values()))
        self.failed |= errors
        self.nodes[:] = left  # in place: the onlooker has the same list


def _are_all(errors: Mapping[str, AftershockError], kind: type[AftershockError]) -> bool:
    return all(isinstance(error, kind) for error in errors.values())


def _key(devices: Sequence[str], wants: Sequence[str]) -> tuple[str, ...]:
    return (*devices, "", *wants)


def _is_cut_off(error: BaseException) -> bool:
    return isinstance(error, HostUnreachable) and not isinstance(error, NamespaceGone)


def _utc(monotonic: float | None) -> str | None:
    if monotonic is None:
        return None
    ago = timedelta(seconds=time.monotonic() - monotonic)
    return (datetime.now(UTC) - ago).isoformat(timespec="milliseconds")
