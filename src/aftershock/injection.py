"""The life of a fault as the controller sees it. The order of its steps is the safety argument:

1. every host is asked whether it can (facts, plan): a refusal comes before anything is touched;
2. the ledger says what is about to be armed, and where, so that `recover` can undo it;
3. the agents arm: their own record and their lease come first, the device second, the gate is shut;
4. the ledger says "fired", then all gates open at once;
5. the revert is ordered; what each agent recorded says whether the order came before the heal.

A step that fails on one host takes back what was done on all.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from aftershock.aftermath import Aftermath, forget, gather
from aftershock.agent.clock import identity
from aftershock.errors import AftershockError, InvalidInput, NotApplied, NotReverted
from aftershock.evidence import Piece, bites, wait_for_bite
from aftershock.faults.base import Facts, Fault, Plan, on
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet, ask_all
from aftershock.inventory import Node
from aftershock.ledger import Ledger
from aftershock.onlookers import onlooker_for, touches

_ARM_S = 30.0
_LONGEST_S = 86_400


class Injection:
    """One fault on some nodes: `arm`, `fire`, `observe`, `revert`, in this order.

    `lease_s` counts from the arming and bounds the fault whatever happens to this process.
    `witness` is a node that the fault cuts from the hosts; `controls` are nodes that it must reach
    all the time, or its silence proves nothing; `spared` are nodes which the hosts must still reach
    (the hosts themselves unless named). `deadline_only` is for a fault that cuts its
    own channel: losing that then heals nothing.
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
    ) -> None:
        for name, seconds in (("lease_s", lease_s), ("grace_s", grace_s)):
            if not 0 < seconds <= _LONGEST_S:
                raise InvalidInput(f"{name} {seconds}: more than 0 seconds, at most a day")
        if not nodes:
            raise InvalidInput(f"{fault.name}: no nodes: nothing would happen")
        if witness and not touches(fault, witness):
            raise InvalidInput(
                f"{fault.name}: it doesn't touch the witness {witness.name}: name another"
            )
        self.id = f"{fault.name}-{secrets.token_hex(4)}"
        self.fault = fault
        self.nodes = tuple(nodes)
        self.fired_at: float | None = None
        self.skew_ms: float | None = None
        self.pieces: list[Piece] = []
        self.bit = False
        self.aftermath: Aftermath | None = None
        self._lease = {"lease_s": lease_s, "grace_s": grace_s, "deadline_only": deadline_only}
        self._ledger = ledger
        self._fleet = fleet
        self._witness = witness
        kept = spared if spared is not None else nodes
        self._onlooker = onlooker_for(fault, nodes, witness, kept, controls)
        self._plans: dict[str, Plan] = {}
        self._before: dict[str, list[str]] = {}
        self._fired: dict[str, float] = {}
        self._armed = False

    def arm(self) -> None:
        """Prepare and check everything on every host; nothing is felt. All hosts or none."""
        channels = self._hosts()
        self._plan(channels)
        self._onlooker.look_before(self._everyone())
        agents = {name: {"here": identity(channel.pid)} for name, channel in channels.items()}
        nodes = [_plain(node) for node in self.nodes]
        about = {"fault": self.fault.to_dict(), "nodes": nodes, "agents": agents, **self._lease}
        self._ledger.note("arming", injection=self.id, **about)
        self._armed = True
        records, errors = ask_all(channels, "arm", self._request, _ARM_S)
        if errors:
            self._give_up("arming", errors)
        self._before = {name: record["before"] for name, record in records.items()}
        self._ledger.note("armed", injection=self.id)

    def fire(self) -> float:
        """Let it bite everywhere at once; the earliest instant, on this process' own clock."""
        if not self._before or self.fired_at is not None:
            raise InvalidInput(f"{self.id}: arm it first, and fire it once")
        channels = self._hosts()
        self._ledger.note("fired", injection=self.id)
        answers, errors = ask_all(channels, "fire", lambda _: {"injection": self.id})
        if errors:
            self._give_up("firing", errors)
        self._fired = {
            name: channels[name].to_monotonic(answer["fired_at"])
            for name, answer in answers.items()
        }
        self.fired_at = min(self._fired.values())
        self.skew_ms = (max(self._fired.values()) - self.fired_at) * 1000
        return self.fired_at

    def observe(self, within_s: float = 3.0) -> dict[str, Any]:
        """Look until the effect is proven or time is over; `bit` stays true once it was seen."""
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
        self.aftermath = gather(self.id, self.nodes, self._fleet, self._before)
        if self.aftermath.errors:
            said = "; ".join(str(error) for error in self.aftermath.errors.values())
            raise NotReverted(f"{self.id}: {said}; `aftershock recover` tries again")
        with contextlib.suppress(InvalidInput):
            self._ledger.note("reverted", injection=self.id)
        forget(self.id, self.nodes, self._fleet)
        return self.aftermath

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the journal; what hasn't happened yet is None."""
        after = self.aftermath
        return {
            "id": self.id,
            "fault": self.fault.name,
            "parameters": self.fault.to_dict(),
            "hosts": [node.name for node in self.nodes],
            "fired_at": _utc(self.fired_at),
            "fired_at_monotonic_s": self.fired_at,
            "skew_ms": self.skew_ms,
            "bit": self.bit,
            "evidence": self.evidence,
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

    def _plan(self, channels: dict[str, AgentChannel]) -> None:
        devices = {node.name: list(node.devices) for node in self.nodes}
        wants = list(self.fault.wants)
        facts, errors = ask_all(
            channels, "facts", lambda name: {"devices": devices[name], "wants": wants}
        )
        for error in errors.values():
            raise error
        self._plans = {
            name: on(self.fault, name).plan(Facts.from_dict(plain)) for name, plain in facts.items()
        }

    def _request(self, name: str) -> dict[str, Any]:
        steps = [step.request() for step in self._plans[name].steps]
        return {"injection": self.id, "steps": steps, **self._lease}

    def _give_up(self, step: str, errors: dict[str, AftershockError]) -> None:
        said = "; ".join(str(error) for error in errors.values())
        try:
            self.revert()
        except NotReverted as error:
            raise NotApplied(f"{step} {self.id}: {said}; and taking it back: {error}") from error
        raise NotApplied(f"{step} {self.id}: {said}; what was done on the other hosts is undone")


def _plain(node: Node) -> dict[str, Any]:
    return {name: getattr(node, name) for name in node.__dataclass_fields__} | {
        "env": dict(node.env)
    }


def _utc(monotonic: float | None) -> str | None:
    if monotonic is None:
        return None
    ago = timedelta(seconds=time.monotonic() - monotonic)
    return (datetime.now(UTC) - ago).isoformat(timespec="milliseconds")
