"""How an injection ended on each host: by whose doing, when, and what it left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aftershock.agent.hooks import CLSACT_LINE, is_ours
from aftershock.errors import AftershockError, HostUnreachable, InvalidInput
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
        """Whether it lasted on every host until we ordered its end."""
        return self.reverted and all(one.record["ordered"] for one in self.ended.values())

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

    def host(self, name: str) -> dict[str, Any]:
        """One host's part as plain data."""
        if name in self.errors:
            return {"error": str(self.errors[name])}
        if name not in self.ended:
            return {"never_armed": self.never.get(name, "")}
        one = self.ended[name]
        keep = ("state", "ordered", "ended_by", "dropped", "seen")
        kept = {key: one.record[key] for key in keep}
        return kept | {"reverted_at_monotonic_s": one.reverted_at, "left": list(one.left)}


def gather(
    injection: str, nodes: Sequence[Node], fleet: Fleet, before: Mapping[str, Sequence[str]]
) -> Aftermath:
    """Order the revert on every host and find out; a lost agent's part is told by a fresh one."""
    channels, errors = _reachable(nodes, fleet)
    records, refused = ask_all(channels, "revert", lambda _: {"injection": injection}, _REVERT_S)
    lost = [node for node in nodes if isinstance(refused.get(node.name), HostUnreachable)]
    for node in lost:
        fleet.let_go(node)
    fresh, unreachable = _reachable(lost, fleet)
    channels |= fresh
    errors |= unreachable
    strangers = {name: channels[name] for name in refused if name not in errors}
    order = {"injection": injection, "reason": "order"}
    told, untold = ask_all(strangers, "heal", lambda _: order, _HEAL_S)
    # No record is the answer of a host that never armed; of one that did, it is a loss.
    never = {
        name: str(error)
        for name, error in untold.items()
        if isinstance(error, InvalidInput) and name not in before
    }
    errors |= {name: error for name, error in untold.items() if name not in never}
    ended, blind = _compare(nodes, channels, records | told, before)
    return Aftermath(ended, never, errors | blind)


def forget(injection: str, nodes: Sequence[Node], fleet: Fleet) -> None:
    """Let the hosts drop their records, which were fetched."""
    channels, _ = _reachable(nodes, fleet)
    ask_all(channels, "forget", lambda _: {"injection": injection})


def _reachable(
    nodes: Sequence[Node], fleet: Fleet
) -> tuple[dict[str, AgentChannel], dict[str, AftershockError]]:
    try:
        return fleet.channels(nodes), {}
    except HostUnreachable:
        pass  # some aren't: find out which
    channels: dict[str, AgentChannel] = {}
    errors: dict[str, AftershockError] = {}
    for node in nodes:
        try:
            channels[node.name] = fleet.fresh(node)
        except HostUnreachable as error:
            errors[node.name] = error
    return channels, errors


def _compare(
    nodes: Sequence[Node],
    channels: Mapping[str, AgentChannel],
    records: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, Sequence[str]],
) -> tuple[dict[str, Ended], dict[str, AftershockError]]:
    devices = {node.name: list(node.devices) for node in nodes}
    asked = {name: channels[name] for name in records}
    after, errors = ask_all(asked, "fingerprint", lambda name: {"devices": devices[name]})
    ended = {}
    for name, lines in after.items():
        record = records[name]
        owned, now = set(record["owned"]), set(lines)
        was = set(before.get(name) or record.get("before") or lines)
        at = record["reverted_at"]
        ended[name] = Ended(
            record,
            left=tuple(sorted(owned & now)),
            changed_by_others=tuple(_marked(was - owned, now - owned)),
            reverted_at=channels[name].to_monotonic(at) if at is not None else None,
        )
    return ended, errors


def _marked(was: set[str], now: set[str]) -> list[str]:
    """What is gone and what is new, apart from what other injections of ours attached."""
    if any(is_ours(line) for line in now):
        now = {line for line in now if not line.endswith(CLSACT_LINE)}
    gone, new = (
        sorted(line for line in lines if not is_ours(line)) for lines in (was - now, now - was)
    )
    return [f"- {line}" for line in gone] + [f"+ {line}" for line in new]
