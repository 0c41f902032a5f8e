"""Inventory files: YAML, or JSON as `aftershock lab up` writes it; errors name file and line.

What a host says stands on its own; what it leaves out comes from the file's `ssh` block. See
docs/inventory.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aftershock.inventory import FromApi, Inventory, Limits, Node, NodePod, Ssh
from aftershock.inventory_yaml import Block, File, Said

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SSH = tuple(field.name for field in fields(Ssh) if field.name != "address")
_API = ("kubeconfig", "namespace", "selector", "reaper_image", "zone_label")
_FROM_API = ("node_selector", "device", "devices")
_KUBERNETES = (*_API, "context", *_FROM_API)
_LIMITS = tuple(field.name for field in fields(Limits))
_TARGET = ("target", "gateway_url", "model", *_API)
_NODE = ("name", "zone", "address", "addresses", "device", "devices", "env", "agentless")
_MORE = ("kubernetes", "limits")
_PLACE = ("netns", "pid", "enter_pid")
_AGENT = tuple(f.name for f in fields(NodePod) if f.name not in ("node", "emulated"))
_HOST = (*_NODE, *_PLACE, "via", "agent", "node", "pod", "ssh_address", "ssh", *_SSH)
_JUMP = ("address", *_SSH)
DEFAULT_IMAGE = "python:3.12-alpine"  # of the reaper: any that has python3
_OUTSIDE = "outside"  # the zone of a witness that names none


def read_inventory(path: str | Path) -> Inventory:
    """An inventory file's target; InvalidInput with file and line says what is wrong."""
    file = File(Path(path))
    # `configuration` is Chaos Toolkit's: the file may be its --var-file, too.
    known = (*_TARGET, "hosts", "nodes", "ssh", "agent", "witness", *_MORE, "configuration")
    top = Block(file, file.read(), "the inventory", known)
    if "hosts" in top and "nodes" in top:
        raise top.wrong("nodes", "hosts and nodes mean the same: keep one of them")
    listed = top.raw("hosts") or top.raw("nodes")
    asked = top.raw("kubernetes")
    if not (listed is None and asked) and (
        listed is None or not isinstance(listed.value, list) or not listed.value
    ):
        raise file.wrong(listed.line if listed else top.line, "no hosts: list them below `hosts:`")
    common = top.raw("ssh")
    ssh = Block(file, common, "ssh", _SSH) if common else None
    api = _kubernetes(file, top)
    pods = top.raw("agent")
    agent = Block(file, pods, "agent", _AGENT) if pods else None
    ways = _Ways(ssh, agent, api["kubeconfig"])
    listed_hosts = listed.value if listed else ()
    blocks = [Block(file, said, _title(said), _HOST) for said in listed_hosts]
    witness = top.raw("witness")
    outside = Block(file, witness, "witness", _HOST) if witness else None
    everyone = [*blocks, outside] if outside else blocks
    _refuse_twins(everyone)
    return Inventory(
        target=top.word("target") or file.path.stem,
        nodes=tuple(_node(block, ways) for block in blocks),
        gateway_url=_url(top),
        model=top.needed("model", "name the model that the service runs"),
        witness=_node(outside, ways, _OUTSIDE) if outside else None,
        limits=_limits(file, top),
        from_api=_from_api(file, top, ways, hosts=listed is not None),
        **api,
    )


def _kubernetes(file: File, top: Block) -> dict[str, Any]:
    """The way in to the API: below `kubernetes:`, or for hosts that are listed also at the top."""
    said = top.raw("kubernetes")
    if said is None:
        kubeconfig = top.path("kubeconfig")
        return {
            "kubeconfig": kubeconfig,
            "namespace": top.word("namespace") or "default",
            "selector": top.word("selector") or "",
            "reaper_image": top.word("reaper_image") or (DEFAULT_IMAGE if kubeconfig else ""),
            "zone_label": top.word("zone_label") or FromApi().zone_label,
        }
    block = Block(file, said, "kubernetes", _KUBERNETES)
    if twice := [name for name in _API if name in top]:
        raise top.wrong(twice[0], f"{twice[0]} belongs below `kubernetes:`: move it there")
    context = block.word("context")
    return {
        "kubeconfig": (block.path("kubeconfig") or "") + (f"#{context}" if context else ""),
        "namespace": block.word("namespace") or "",
        "selector": block.word("selector") or "",
        "reaper_image": block.word("reaper_image") or DEFAULT_IMAGE,
        "zone_label": block.word("zone_label") or FromApi().zone_label,
    }


def _from_api(file: File, top: Block, ways: _Ways, hosts: bool) -> FromApi | None:
    """How nodes are to be asked of the API, where no hosts are listed."""
    said = top.raw("kubernetes")
    if said is None:
        return None
    block = Block(file, said, "kubernetes", _KUBERNETES)
    idle = [name for name in _FROM_API if name in block]
    if hosts and idle:
        raise block.wrong(idle[0], f"{idle[0]} is for nodes from the API, and hosts are listed")
    if hosts:
        return None
    if ways.ssh and ways.agent:
        raise top.wrong("agent", "there are ssh and agent, and one way to each node: drop one")
    node = Block(file, Said({}, said.line), "kubernetes", _HOST)
    return FromApi(
        zone_label=block.word("zone_label") or FromApi().zone_label,
        node_selector=block.word("node_selector") or "",
        devices=block.words("devices" if "devices" in block else "device") or FromApi().devices,
        ssh=_way(node, ways.ssh, "") if ways.ssh else None,
        agent=_agent(node, ways, "") if ways.agent else None,
    )


def _limits(file: File, top: Block) -> Limits:
    said = top.raw("limits")
    if said is None:
        return Limits()
    block = Block(file, said, "limits", _LIMITS)
    told: dict[str, Any] = {
        name: block.number(name, 0, 1, float) for name in _LIMITS if name != "never"
    }
    told = {name: value for name, value in told.items() if value is not None}
    if "never" in block:
        told["never"] = block.words("never")
    return Limits(**told)


def _title(said: Said) -> str:
    name = said.value.get("name") if isinstance(said.value, Mapping) else None
    return f"host {name.value}" if isinstance(name, Said) else "a host"


def _url(top: Block) -> str:
    url = top.needed("gateway_url", "give the URL at which clients reach the service")
    if not re.fullmatch(r"https?://[^\s/]+.*", url):
        raise top.wrong("gateway_url", f"gateway_url is {url!r}: give http://HOST:PORT")
    return url


def _refuse_twins(blocks: list[Block]) -> None:
    seen: dict[tuple[str, str], Block] = {}
    for block in blocks:
        names = [block.word("name") or ""]
        for kind, words in (("name", names), ("address", _addresses(block))):
            for word in words:
                if other := seen.get((kind, word)):
                    raise block.wrong(kind, f"{kind} {word} is in line {other.at(kind)} already")
                seen[kind, word] = block


@dataclass(frozen=True)
class _Ways:
    """What the file says of the ways in, for hosts that don't say otherwise."""

    ssh: Block | None
    agent: Block | None
    kubeconfig: str | None


def _node(block: Block, ways: _Ways, zone: str | None = None) -> Node:
    name = block.needed("name", "give it one")
    if not _NAME.fullmatch(name):
        raise block.wrong("name", f"name {name!r}: letters, digits, dot, dash and underscore only")
    found = block.word("zone") or zone
    if found is None:
        raise block.wrong("zone", "no zone: say in which one it is, such as `zone: az-a`")
    if "," in found or found == "all":
        raise block.wrong(
            "zone", f"zone {found!r}: no commas, and not `all`, which means every one"
        )
    addresses = _addresses(block)
    if not addresses:
        raise block.wrong("address", "no address: give the one at which the others reach it")
    if "pod" in block:
        raise block.wrong("pod", "pods are named by experiments (`where`), not here: drop it")
    pid = block.number("pid", 1, 2**22)
    netns = block.word("netns")
    if pid and netns:
        raise block.wrong("pid", "pid and netns both say where to go: keep one of them")
    node = Node(
        name,
        found,
        addresses,
        devices=block.words("devices" if "devices" in block else "device") or ("eth0",),
        netns=netns,
        enter_pid=block.number("enter_pid", 1, 2**22),
        env=_env(block),
        pid=pid,
    )
    if block.truth("agentless"):
        return replace(node, agentless=True)
    if _is_by_pod(block, ways):
        return replace(node, agent=_agent(block, ways, name))
    return (
        replace(node, ssh=_way(block, ways.ssh, addresses[0])) if _is_far(block, ways.ssh) else node
    )


def _is_by_pod(block: Block, ways: _Ways) -> bool:
    """Whether a host's agent is in a pod on it."""
    via = block.word("via")
    far = via is None and not any(name in block for name in (*_PLACE, *_SSH, "ssh", "ssh_address"))
    if via is None and ways.ssh and ways.agent and (far or "agent" in block):
        raise block.wrong("via", "the file has both ssh and agent: say `via: ssh` or `via: pod`")
    by_pod = via == "pod" or (via is None and ("agent" in block or (far and bool(ways.agent))))
    other = [name for name in ("agent", "node") if name in block]
    if not by_pod and other:
        raise block.wrong(other[0], f"{other[0]} is for `via: pod`: say that, or drop it")
    if by_pod:
        for name in (*_PLACE, *_SSH, "ssh", "ssh_address"):
            if name in block:
                raise block.wrong(name, f"{name} is not for a host by its agent's pod: drop it")
    return by_pod


def _agent(block: Block, ways: _Ways, name: str) -> NodePod:
    """The agent's pod: a host's own keys, then the file's."""
    said = block.raw("agent")
    own = Block(block.file, said, f"{block.what}: agent", _AGENT) if said else None
    told: dict[str, Any] = {}
    for source in (one for one in (ways.agent, own) if one):
        found = {
            "kubeconfig": source.path("kubeconfig"),
            "context": source.word("context"),
            "namespace": source.word("namespace"),
            "image": source.word("image"),
            "python": source.word("python"),
            "lifetime_s": source.number("lifetime_s", 60, 7 * 86_400),
            "idle_s": source.number("idle_s", 1, 86_400, float),
            "timeout_s": source.number("timeout_s", 1, 600, float),
        }
        told |= {key: value for key, value in found.items() if value is not None}
    told.setdefault("kubeconfig", ways.kubeconfig)
    for key, mend in (
        ("image", "name one that has Python 3.9 or newer (deploy/Dockerfile builds one)"),
        ("kubeconfig", "name the cluster's"),
    ):
        if told.get(key) is None:
            raise block.wrong("agent", f"its agent runs in a pod, and has no {key}: {mend}")
    return NodePod(node=block.word("node") or name, **told)


def _addresses(block: Block) -> tuple[str, ...]:
    key = "addresses" if "addresses" in block else "address"
    for address in (found := block.words(key)):
        try:
            ip_address(address)
        except ValueError:
            raise block.wrong(
                key,
                f"address {address!r} is no IP address: give one, since a name may mean another "
                "host during a fault; `ssh_address` may be a name",
            ) from None
    return found


def _env(block: Block) -> dict[str, str]:
    if (said := block.raw("env")) is None:
        return {}
    if not isinstance(said.value, Mapping):
        raise block.wrong("env", "env is a mapping of variables to texts")
    for name, value in said.value.items():
        if not isinstance(value.value, str) or not _VARIABLE.fullmatch(name):
            raise block.file.wrong(value.line, f"{block.what}: env {name}: give a text, in quotes")
    return {name: value.value for name, value in said.value.items()}


def _is_far(block: Block, ssh: Block | None) -> bool:
    """Whether a host is reached by SSH: this machine is broken only where the file says so."""
    via = block.word("via")
    if via not in (None, "ssh", "local"):
        raise block.wrong("via", f"via is {via!r}: give ssh, local or pod")
    own = [name for name in (*_SSH, "ssh_address", "ssh") if name in block]
    if via == "local" and own:
        raise block.wrong(own[0], f"{own[0]} is for SSH, and `via: local` is not: drop one of them")
    far = via == "ssh" or (
        via is None and bool(own or ssh or not any(name in block for name in _PLACE))
    )
    if far and "enter_pid" in block:
        raise block.wrong("enter_pid", "enter_pid is for this machine only: use pid")
    return far


def _way(block: Block, ssh: Block | None, address: str) -> Ssh:
    """The way in: a host's own keys, then those of its `ssh` block, then the file's."""
    said = block.raw("ssh")
    own = Block(block.file, said, f"{block.what}: ssh", _JUMP) if said else None
    sources = [source for source in (ssh, own, block) if source]
    told: dict[str, Any] = {}
    for source in sources:
        told |= _told(source)
    inner = own.word("address") if own else None
    way = Ssh(block.word("ssh_address") or inner or address, **told)
    jumps = [source for source in sources if "jump" in source]
    if not jumps:
        return way
    # A jump host is let in to as the host behind it, unless it says otherwise.
    shared = {name: getattr(way, name) for name in ("user", "key", "password_env", "known_hosts")}
    return replace(way, jump=_jump(jumps[-1], shared))


def _told(block: Block) -> dict[str, Any]:
    variable = block.word("password_env")
    if variable and not _VARIABLE.fullmatch(variable):
        raise block.wrong("password_env", f"password_env {variable!r}: the name of a variable")
    found: dict[str, Any] = {
        "port": block.number("port", 1, 65535),
        "user": block.word("user"),
        "key": block.path("key"),
        "password_env": variable,
        "known_hosts": block.path("known_hosts"),
        "sudo": block.truth("sudo"),
        "python": block.word("python"),
        "timeout_s": block.number("timeout_s", 0.1, 600, float),
    }
    return {name: value for name, value in found.items() if value is not None}


def _jump(block: Block, shared: dict[str, Any]) -> Ssh | None:
    """A jump host: `user@host:port`, or a mapping of its own."""
    said = block.raw("jump")
    if said is None:
        return None
    if isinstance(said.value, Mapping):
        own = Block(block.file, said, f"{block.what}: jump", _JUMP)
        told = {**shared, **_told(own)}
        return replace(Ssh(own.needed("address", "say where"), **told), jump=_jump(own, told))
    match = re.fullmatch(
        r"(?:(?P<user>[^@\s]+)@)?(?P<host>\[[0-9A-Fa-f:]+\]|[^:@\s]+)(?::(?P<port>\d{1,5}))?",
        str(said.value),
    )
    if not match or not 0 < int(match["port"] or 22) < 65536:
        raise block.wrong("jump", f"jump is {said.value!r}: give user@host:port")
    told = {**shared, **({"user": match["user"]} if match["user"] else {})}
    return Ssh(match["host"].strip("[]"), int(match["port"] or 22), **told)
