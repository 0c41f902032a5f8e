"""Faults from an experiment's words: zones, nodes, prefixes, host names, ports, commands.

Everything is checked here, before anything is touched. Numbers and truths may be words, as those of
the command line are.
"""

from __future__ import annotations

import difflib
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from ipaddress import ip_network
from math import isfinite
from typing import Any, cast

from aftershock.errors import InvalidFault
from aftershock.faults.base import Fault, PerNode
from aftershock.faults.command import Command
from aftershock.faults.dns import Dns
from aftershock.faults.partition import Partition
from aftershock.faults.reset import Reset
from aftershock.faults.shapes import shape
from aftershock.faults.shaping import Bandwidth, Corrupt, Delay, Duplicate, Loss, Reorder
from aftershock.faults.traffic import EVERYONE, Direction, Network, Traffic, networks, parse_ports
from aftershock.inventory import Inventory, Node

Names = dict[str, tuple[str, ...]]
Words = str | Sequence[str]

_KINDS: dict[str, Callable[..., Fault]] = {
    "delay": Delay,
    "loss": Loss,
    "duplicate": Duplicate,
    "corrupt": Corrupt,
    "reorder": Reorder,
    "bandwidth": Bandwidth,
    "dns": Dns,
    "reset": Reset,
}
NETWORK = ("partition", *_KINDS)
_TEXTS = ("spare", "protocols", "peer_ports", "local_ports", "hook")
_FLAGS = ("cut_controller", "cut_gateway", "cut_metadata", "allow_rdma")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def network_fault(kind: str, traffic: Traffic, parameters: Mapping[str, Any]) -> Fault:
    """A fault of a kind in `NETWORK`; `InvalidFault` names the parameter and the mend."""
    if kind == "partition":
        return Partition(**{one.name: getattr(traffic, one.name) for one in fields(traffic)})
    told = {name: _parameter(kind, name, value) for name, value in parameters.items()}
    return _KINDS[kind](traffic=traffic, **told)


def shape_fault(
    inventory: Inventory, where: str, kind: str, groups: str, first: str, seed: int
) -> PerNode:
    """A partition's shape between the zones or the nodes (`groups`) of what `where` chooses."""
    if groups not in ("zones", "nodes"):
        raise InvalidFault(f"groups {groups!r}: zones or nodes")
    members: dict[str, list[Node]] = {}
    for node in inventory.select(where):
        members.setdefault(node.zone if groups == "zones" else node.name, []).append(node)
    deaf = shape(kind, list(members), seed, first)
    by_node: dict[str, Fault] = {}
    for group, others in deaf.items():
        unheard = [node for other in sorted(others) for node in members[other]]
        for node in members[group] if unheard else ():
            peers = networks(address for other in unheard for address in other.addresses)
            by_node[node.name] = Partition(peers, direction="ingress")
    told = {name: sorted(others) for name, others in deaf.items() if others}
    return PerNode("partition", by_node, {"shape": kind, "seed": seed, "deaf_to": told})


def command_fault(apply: Words, undo: Words, check: Words, timeout_s: Any) -> Command:
    """The user's own commands, each a line as a shell would split it, or a list of words."""
    return Command(
        tuple(_command("apply", apply)),
        tuple(_command("undo", undo)),
        tuple(_command("check", check)),
        number("command: timeout_s", timeout_s),
    )


def traffic_of_words(
    inventory: Inventory,
    nodes: Sequence[Node],
    peers: str,
    direction: str,
    more: Mapping[str, Any] | None = None,
) -> Traffic:
    """The packets between nodes and `peers`: zones, nodes, prefixes and host names, with commas.

    No peers mean everything. The nodes themselves are spared, unless `peers` names one of them.
    `more` has the other fields of `Traffic`, texts and truths; `InvalidFault` for what is none.
    """
    told = _checked(more or {})
    far, names = resolve(peers, inventory) if peers.strip() else (EVERYONE, {})
    spare, spared_names = resolve(told.pop("spare", ""), inventory)
    _refuse_mixed_families(nodes, far)
    own = networks(address for node in nodes for address in node.addresses)
    if not set(own) & set(far):
        within = Traffic(far)
        spare += tuple(net for net in own if within.touches(str(net.network_address)))
    return Traffic(
        peers=far,
        spare=spare,
        protocols=_parts(told.pop("protocols", "")),
        peer_ports=parse_ports(told.pop("peer_ports", "")),
        local_ports=parse_ports(told.pop("local_ports", "")),
        direction=cast(Direction, direction),
        names={**names, **spared_names},
        **told,
    )


def resolve(text: str, inventory: Inventory) -> tuple[tuple[Network, ...], Names]:
    """The networks that words stand for, and what the host names among them were resolved to."""
    found: list[Network] = []
    names: Names = {}
    for word in _parts(text):
        outside = [inventory.witness] if inventory.witness else []
        nodes = [
            *(node for node in inventory.nodes if word in (node.name, node.zone)),
            *(node for node in outside if node.name == word),
        ]
        if nodes:
            found += networks(address for node in nodes for address in node.addresses)
        elif _is_network(word):
            found += networks([word])
        else:
            names[word] = _addresses(word, inventory)
            found += networks(names[word])
    return tuple(dict.fromkeys(found)), names


def number(name: str, value: Any) -> float:
    """A finite number, or a sentence that asks for one."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if isinstance(value, bool) or not isfinite(found):
        raise InvalidFault(f"{name} is {value!r}: give a number")
    return found


def whole(name: str, value: Any) -> int:
    """A whole number, 0 where nothing is given, or a sentence that asks for one."""
    found = number(name, value or 0)
    if found != int(found):
        raise InvalidFault(f"{name} is {value!r}: give a whole number")
    return int(found)


def truth(name: str, value: Any) -> bool:
    """A truth, or a sentence that asks for one."""
    if isinstance(value, bool):
        return value
    if (word := str(value).lower()) not in _TRUTHS:
        raise InvalidFault(f"{name} is {value!r}: give true or false")
    return _TRUTHS[word]


def _parameter(kind: str, name: str, value: Any) -> Any:
    if name == "over_tls":
        return truth(f"{kind}: {name}", value)
    return value if name == "distribution" else number(f"{kind}: {name}", value)


def _command(name: str, words: Words) -> list[str]:
    if not isinstance(words, str):
        return [str(word) for word in words]
    try:
        return shlex.split(words)
    except ValueError as error:
        raise InvalidFault(f"command: {name} {words!r}: {error}") from None


def _addresses(name: str, inventory: Inventory) -> tuple[str, ...]:
    if "/" in name or ":" in name or name.replace(".", "").isdigit():
        networks([name])  # a prefix that is none: its own reason is better than a resolver's
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        known = ", ".join((*inventory.zones(), *(node.name for node in inventory.nodes)))
        raise InvalidFault(
            f"peer {name!r} is no prefix and does not resolve ({error}): name one of {known}, a "
            "prefix, or a host that resolves here"
        ) from None
    return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _refuse_mixed_families(nodes: Sequence[Node], peers: Sequence[Network]) -> None:
    theirs = {net.version for net in peers}
    for node in nodes:
        ours = {net.version for net in networks(node.addresses)}
        if ours and not ours & theirs:
            raise InvalidFault(
                f"{node.name} has IPv{ours.pop()} addresses and the peers have IPv{theirs.pop()} "
                "ones, so no packet is between them: name the peers by the same family"
            )


def _is_network(word: str) -> bool:
    try:
        ip_network(word, strict=False)
    except ValueError:
        return False
    return True


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _checked(more: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    known = (*_TEXTS, *_FLAGS)
    for name, value in more.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            mend = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise InvalidFault(f"traffic: unknown {name!r}: {mend}")
        told[name] = truth(f"traffic: {name}", value) if name in _FLAGS else str(value)
    return told
