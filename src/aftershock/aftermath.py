"""How an injection ended on each host: by whose doing, when, and what it left behind."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aftershock.agent.hooks import CLSACT_LINE, is_ours
from aftershock.errors import AftershockError, HostUnreachable, InvalidInput, NotReverted
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet, ask_all
from aftershock.inventory import Node

_REVERT_S = 5.0
_HEAL_S = 15.0


@dataclass(frozen=True, slots=True)
class Ended:
    """One host's part: the agent's record, and the device before and after."""

    record: Mapping[str, Any]
    left: tuple[str, ...]
    changed_by_others: tuple[str, ...]
    reverted_at: float | None
    fingerprint: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Aftermath:
    """All hosts' parts; `never` are hosts on which nothing had been armed."""

    ended: Mapping[str, Ended]
    never: Mapping[str, str]
    errors: Mapping[str, AftershockError]

    @property
    def is_complete(self) -> bool:
        """Whether every host told how it ended."""
        return not self.errors

    @property
    def ordered(self) -> bool:
        """Whether it lasted on every host until its end was ordered."""
        return self.reverted and not self.healed_early

    @property
    def reverted(self) -> bool:
        """Whether it is over on every host."""
        return not self.errors and all(
            one.record["state"] == "reverted" for one in self.ended.values()
        )

    @property
    def healed_early(self) -> bool:
        """Whether some host healed before it was ordered to."""
        return any(not one.record["ordered"] for one in self.ended.values())

    @property
    def clean(self) -> bool:
        """Whether nothing of ours is left on any host."""
        return self.reverted and not any(one.left for one in self.ended.values())

    @property
    def foreign_changes(self) -> dict[str, list[str]]:
        """What others changed meanwhile, by host: reported, and no fault of ours."""
        return {
            name: list(one.changed_by_others)
            for name, one in self.ended.items()
            if one.changed_by_others
        }

    def obeying(self, ordered_at: float) -> Aftermath:
        """The same, with what only the deadline ended counted as ordered if that came first."""
        ended = {
            name: replace(one, record={**one.record, "ordered": True})
            if one.reverted_at and one.reverted_at >= ordered_at
            else one
            for name, one in self.ended.items()
        }
        return replace(self, ended=ended)

    def host(self, name: str) -> dict[str, Any]:
        """One host's part as plain data."""
        if name in self.errors:
            return {"error": str(self.errors[name])}
        if name not in self.ended:
            return {"never_armed": self.never.get(name, "")}
        one = self.ended[name]
        keep = ("state", "ordered", "ended_by", "dropped", "seen")
        kept = {key: one.record[key] for key in keep}
        return kept | {
            "reverted_at_monotonic_s": one.reverted_at,
            "left": list(one.left),
            "fingerprint": dict(one.fingerprint),
        }


def gather(
    injection: str,
    nodes: Sequence[Node],
    fleet: Fleet,
    before: Mapping[str, Sequence[str]],
    slow_s: float = 0.0,
) -> Aftermath:
    """Order the revert on every host and find out; a lost agent's part is told by a fresh one.

    `slow_s`: how long a user's commands may take beside.
    """
    channels, errors = fleet.reach(nodes)
    one = {"injection": injection}
    records, refused = ask_all(channels, "revert", lambda _: one, _REVERT_S + slow_s)
    lost = [node for node in nodes if isinstance(refused.get(node.name), HostUnreachable)]
    for node in lost:
        fleet.let_go(node)
    fresh, unreachable = fleet.reach(lost)
    channels |= fresh
    errors |= unreachable
    errors |= {name: error for name, error in refused.items() if isinstance(error, NotReverted)}
    strangers = {name: channels[name] for name in refused if name not in errors}
    order = {"injection": injection, "reason": "order"}
    told, untold = ask_all(strangers, "heal", lambda _: order, _HEAL_S + slow_s)
    # No record is the answer of a host that never armed; of one that did, it is a loss.
    never = {
        name: str(error)
        for name, error in untold.items()
        if isinstance(error, InvalidInput) and name not in before
    }
    errors |= {name: error for name, error in untold.items() if name not in never}
    ended = {
        name: _ended(record, channels[name], before.get(name))
        for name, record in (records | told).items()
    }
    return Aftermath(ended, never, errors)


def forget(injection: str, nodes: Sequence[Node], fleet: Fleet) -> None:
    """Let the hosts drop their records, which were fetched."""
    channels, _ = fleet.reach(nodes)
    for channel in channels.values():
        with contextlib.suppress(HostUnreachable):  # then its record stays, and is swept some day
            channel.post("forget", injection=injection)


def _ended(record: Mapping[str, Any], channel: AgentChannel, before: Sequence[str] | None) -> Ended:
    """What a record says, and what is otherwise on the host than before."""
    owned, now = set(record["owned"]), set(record["after"])
    was = set(before or record.get("before") or record["after"])
    at = record["reverted_at"]
    return Ended(
        record,
        left=tuple(sorted(owned & now)),
        changed_by_others=tuple(_marked(was - owned, now - owned)),
        reverted_at=channel.to_monotonic(at) if at is not None else None,
        fingerprint={**_digest("before", was - owned), **_digest("after", now)},
    )


def _digest(when: str, lines: set[str]) -> dict[str, str | int]:
    """A fingerprint short enough to sign: how many lines, and the hash of them in order."""
    whole = "\n".join(sorted(lines)).encode()
    return {when: hashlib.sha256(whole).hexdigest()[:12], f"{when}_lines": len(lines)}


def _marked(was: set[str], now: set[str]) -> list[str]:
    """What is gone and what is new, apart from what other injections of ours attached."""
    gone, new = (_foreign(was, now), _foreign(now, was))
    return [f"- {line}" for line in gone] + [f"+ {line}" for line in new]


def _foreign(here: set[str], there: set[str]) -> list[str]:
    """Lines that are only here and not ours; a clsact qdisc may have come with a filter of ours."""
    ours = any(is_ours(line) for line in here)
    return sorted(
        line
        for line in here - there
        if not is_ours(line) and not (ours and line.endswith(CLSACT_LINE))
    )
