"""Heals what earlier runs left behind, wherever it is called from, and says what it found."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aftershock import ledger
from aftershock.agent.clock import boot_id, is_there
from aftershock.errors import AftershockError, HostUnreachable, InvalidInput
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet, Host, host_for
from aftershock.hosts.local import NamespaceGone
from aftershock.inventory import Node, node_from_dict

_PATIENCE_S = 5.0
_HEAL_S = 15.0


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


def recover(force: bool = False, way: Callable[[Node], Host] = host_for) -> Recovered:
    """Heal what runs left whose controller is gone; twice is harmless.

    A run whose controller lives is only reported, unless `force`. What could not be healed stays
    in the ledger for the next time.
    """
    fleet = Fleet(way)
    try:
        found = [finding for run in ledger.runs() for finding in _run(run, fleet, force)]
    finally:
        fleet.close()
    _sweep_records()
    return Recovered(tuple(found))


def main_text(include_running: bool = False) -> list[str]:
    """What `aftershock recover` prints."""
    return recover(force=include_running).lines()


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
    findings = []
    for plain in arming["nodes"]:
        node = node_from_dict(plain)
        agent = arming["agents"][node.name]
        try:
            sentence, healed = _node(injection, node, agent, fleet), True
            if not run.is_going_on():  # its controller would still want to learn of it
                _forget(injection, node, fleet)
        except AftershockError as error:
            sentence, healed = str(error), False
        findings.append(Finding(run.run_id, f"{injection} on {node.name}: {sentence}", healed))
    return findings


def _node(injection: str, node: Node, agent: Mapping[str, Any], fleet: Fleet) -> str:
    here = agent["here"]
    if here["boot"] != boot_id():
        return "the machine was restarted since, so nothing of it is left"
    try:
        channel = fleet.fresh(node)
    except NamespaceGone:  # only its agent may still run
        _end_process(here)
        return "its network namespace is gone, and the fault with it"
    sentence, owned = _heal(channel, injection)
    left = sorted(owned.intersection(channel.ask("fingerprint", devices=list(node.devices))))
    if left:
        raise HostUnreachable(f"still there: {'; '.join(left)}: remove it by hand")
    _end_process(here)
    return sentence


def _sweep_records() -> None:
    """Records here of injections that no ledger holds open: their host is gone or was restarted."""
    held = {injection for run in ledger.runs() for injection in run.injections}
    for path in (ledger.state_dir() / "records").glob("*@*"):
        if path.name.partition("@")[0] not in held:
            path.unlink(missing_ok=True)


def _forget(injection: str, node: Node, fleet: Fleet) -> None:
    with contextlib.suppress(HostUnreachable):
        fleet.fresh(node).ask("forget", injection=injection)


def _heal(channel: AgentChannel, injection: str) -> tuple[str, set[str]]:
    try:
        record = channel.ask("record", injection=injection)
    except InvalidInput:
        return "it had not been armed, so nothing is left", set()
    before = record["state"]
    record = channel.ask("heal", _HEAL_S, injection=injection, reason="recover")
    ended = record["ended_by"]
    how = f"it had healed already ({ended})" if before == "reverted" else f"healed now ({ended})"
    return f"{how}, nothing is left", set(record["owned"])


def _end_process(agent: Mapping[str, Any]) -> None:
    """An agent heals on SIGTERM; one that doesn't heed it is a hanging one."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not is_there(agent):
            return
        os.kill(agent["pid"], number)
        until = time.monotonic() + _PATIENCE_S
        while is_there(agent) and time.monotonic() < until:
            time.sleep(0.02)
