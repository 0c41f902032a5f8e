"""Heals what earlier runs left behind, wherever it is called from, and says what it found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aftershock import ledger
from aftershock.agent.clock import boot_id, end_process
from aftershock.errors import AftershockError, HostUnreachable, InvalidInput, NotReverted
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import AT_ONCE, Fleet, Host
from aftershock.hosts.local import NamespaceGone
from aftershock.inventory import Node, node_from_dict

_HEAL_S = 15.0
_RESTARTED = "the machine was restarted since, so nothing of it is left"
# What has a name on the host, by which somebody may have made it again as they found it.
_NAMED = {"throttle", "delay", "fail", "limit", "oom", "swap-out"}
_NAMESPACE_GONE = "its network namespace is gone, and the fault with it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found, in a sentence; `healed` is False where something is still left."""

    run: str
    sentence: str
    healed: bool


@dataclass(frozen=True, slots=True)
class Recovered:
    """All that was found."""

    findings: tuple[Finding, ...]

    @property
    def healed(self) -> bool:
        """Whether nothing is left that should not be."""
        return all(finding.healed for finding in self.findings)

    def lines(self) -> list[str]:
        """What `aftershock recover` prints."""
        if not self.findings:
            return [f"Nothing was left behind (looked in {ledger.state_dir()})."]
        return [f"{finding.run}: {finding.sentence}" for finding in self.findings]


def recover(force: bool = False, way: Callable[[Node], Host] | None = None) -> Recovered:
    """Heal what runs left whose controller is gone; twice is harmless.

    A run whose controller lives is only reported, unless `force`. What could not be healed stays
    in the ledger for the next time.
    """
    fleet = Fleet(way)
    found: list[Finding] = []
    try:
        found += [finding for run in ledger.runs() for finding in _run(run, fleet, force)]
    finally:
        try:
            fleet.close()
        except NotReverted as error:  # the ways to the hosts: what was found must still be told
            found.append(Finding("recover", str(error), False))
    _sweep_records()
    return Recovered(tuple(found))


def _run(run: ledger.Run, fleet: Fleet, force: bool) -> Iterator[Finding]:
    if run.is_going_on() and not force:
        number = run.controller["pid"] if run.controller else "?"
        yield Finding(run.run_id, f"still going on (process {number}): left alone", True)
        return
    # Partitions first: an API may be reachable only after them.
    findings = []
    for injection, arming in run.injections.items():
        findings += _injection(run, injection, arming, fleet)
    findings += [_undo(run.run_id, entry) for entry in run.undos.values()]
    yield from findings
    if all(finding.healed for finding in findings) and not run.is_going_on():
        run.path.unlink(missing_ok=True)


def _undo(run_id: str, entry: Mapping[str, Any]) -> Finding:
    try:
        return Finding(
            run_id, ledger.take_back(entry["kind"], entry["module"], entry["undo"]), True
        )
    except Exception as error:  # whatever a handler raises must not keep the rest from healing
        return Finding(run_id, f"{entry['kind']}: could not be taken back: {error}", False)


def _injection(
    run: ledger.Run, injection: str, arming: Mapping[str, Any], fleet: Fleet
) -> list[Finding]:
    nodes = [node_from_dict(plain) for plain in arming["nodes"]]
    reached, errors = fleet.reach(nodes)

    def part(node: Node) -> Finding:
        way, agent = errors.get(node.name) or reached[node.name], arming["agents"][node.name]
        try:
            sentence, healed = _node(injection, node, agent, way, fleet), True
            if not run.is_going_on():  # its controller would still want to learn of it
                _forget(injection, node, fleet)
        except AftershockError as error:
            sentence, healed = str(error), False
        return Finding(run.run_id, f"{injection} on {node.name}: {sentence}", healed)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(part, nodes))


def _node(
    injection: str,
    node: Node,
    agent: Mapping[str, Any],
    way: AgentChannel | AftershockError,
    fleet: Fleet,
) -> str:
    there = agent.get("there") or agent["here"]
    if isinstance(way, NamespaceGone) and not node.is_far and there["boot"] != boot_id():
        return _RESTARTED
    if isinstance(way, NamespaceGone):
        _end_agent(agent, node, fleet)
        return _NAMESPACE_GONE
    if isinstance(way, AftershockError):
        raise way
    if way.hello["boot"] != there["boot"]:  # the host's boot decides, not ours
        return _after_restart(way, injection)
    if way.hello["netns"] != agent.get("netns", way.hello["netns"]):
        _end_agent(agent, node, fleet)  # the number of its process is somebody else's by now
        return _NAMESPACE_GONE
    sentence, record = _heal(way, injection)
    looked = {"devices": list(node.devices), "looks": record.get("looks", [])}
    if left := sorted(set(way.ask("fingerprint", **looked)).intersection(record.get("owned", ()))):
        raise HostUnreachable(f"still there: {'; '.join(left)}: remove it by hand")
    _end_agent(agent, node, fleet)
    return sentence


def _after_restart(way: AgentChannel, injection: str) -> str:
    """A restart takes all back that a kernel holds, and nothing of what a user's command did.

    A device's table and a cgroup's limits are looked at all the same: undone only while as we set
    them.
    """
    try:
        steps = way.ask("record", injection=injection)["steps"]
    except InvalidInput:
        return _RESTARTED
    kinds = {step["kind"] for step in steps}
    if kinds.isdisjoint({"command", *_NAMED}):
        return _RESTARTED
    said, _ = _heal(way, injection)
    if "command" in kinds:
        return f"the machine was restarted since; {said}"
    record = way.ask("record", injection=injection)
    undone, others = (", ".join(record.get(key, ())) for key in ("undone", "left_to_others"))
    told = f"{undone} had been made again as we had set it: undone" if undone else ""
    if others:
        told += f"{told and '; '}left to whoever made it by now: {others}"
    return f"the machine was restarted since, and {told}" if told else _RESTARTED


def _end_agent(agent: Mapping[str, Any], node: Node, fleet: Fleet) -> None:
    """End it where it runs: on another machine its number would be somebody else's."""
    if node.is_far:
        # By the channel that is there, or else by one that needs no namespace.
        fleet.fresh(node.outside()).ask("end", _HEAL_S, process=agent["there"])
    elif agent["here"]:
        end_process(agent["here"])


def _sweep_records() -> None:
    """Records here of injections that no ledger holds open: their host is gone or was restarted."""
    held = {injection for run in ledger.runs() for injection in run.injections}
    for path in (ledger.state_dir() / "records").glob("*@*"):
        if path.name.partition("@")[0] not in held:
            path.unlink(missing_ok=True)


def _forget(injection: str, node: Node, fleet: Fleet) -> None:
    with contextlib.suppress(HostUnreachable):
        fleet.fresh(node).ask("forget", injection=injection)


def _heal(channel: AgentChannel, injection: str) -> tuple[str, Mapping[str, Any]]:
    """What became of it, and its record; none of what had not been armed."""
    try:
        record = channel.ask("record", injection=injection)
    except InvalidInput:
        return "it had not been armed, so nothing is left", {}
    before = record["state"]
    commands = [step.get("undo") or {} for step in record["steps"]]
    slow_s = max((float(undo.get("timeout_s", 0)) for undo in commands), default=0.0)
    patience_s = _HEAL_S + 2 * slow_s  # a user's command is undone, and then looked for
    record = channel.ask("heal", patience_s, injection=injection, reason="recover")
    ended = record["ended_by"]
    how = f"it had healed already ({ended})" if before == "reverted" else f"healed now ({ended})"
    others = ", ".join(record.get("left_to_others", ()))
    return f"{how}, nothing is left{others and f' but what others have: {others}'}", record
