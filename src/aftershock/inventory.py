"""What the target is made of: nodes in zones, the way to each, and the service's front door."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from aftershock.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Ssh:
    """The way in over SSH. The ledger keeps it, so no secret is in it.

    `key` is a private key's file (none: an SSH agent's keys and the user's usual ones),
    `password_env` names the environment variable that holds a password. `known_hosts` is used in
    the place of the user's own file. `sudo`: become root by it where the user is not; `python`
    runs the agent there. `jump` is the host to go through. `timeout_s` bounds the way in.
    """

    address: str
    port: int = 22
    user: str | None = None
    key: str | None = None
    password_env: str | None = None
    known_hosts: str | None = None
    sudo: bool = True
    python: str = "python3"
    jump: Ssh | None = None
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class NodePod:
    """The way in through a privileged pod of ours on a Kubernetes node.

    `node` is the node's name in the cluster; `image` has a Python 3.9 or newer as `python`, and
    `namespace` lets privileged pods in. The pod ends when no agent was in it for `idle_s`, and
    after `lifetime_s` at the latest. `timeout_s` bounds its start. `emulated`: the API is a lab's,
    whose end is the pod's.
    """

    kubeconfig: str
    node: str
    image: str
    namespace: str = "aftershock"
    context: str | None = None
    python: str = "python3"
    lifetime_s: int = 21_600
    idle_s: float = 60.0
    timeout_s: float = 60.0
    emulated: bool = False


@dataclass(frozen=True, slots=True)
class PodRef:
    """A pod on a node, by what can't become another's; the name is for people."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Node:
    """One host of the target, this machine unless `ssh` or `agent` says how to get there.

    `netns` is the path of a network-namespace file on the host, `pid` a process on it whose network
    namespace is meant (a container's), `pod` a Kubernetes pod on it; none: the host's own. A
    network fault touches every one of `devices`. `enter_pid` is a process here whose PID and mount
    namespaces the agent joins, so that it ends when they do. `env` is what the agent is started
    with, beside what is there. `agentless`: nothing gets there but the Kubernetes API, so no agent
    is started for it.
    """

    name: str
    zone: str
    addresses: tuple[str, ...]
    devices: tuple[str, ...] = ("eth0",)
    netns: str | None = None
    enter_pid: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None
    ssh: Ssh | None = None
    agent: NodePod | None = None
    pod: PodRef | None = None
    agentless: bool = False

    @property
    def in_cluster(self) -> str:
        """Its name in its Kubernetes cluster."""
        return self.agent.node if self.agent else self.name

    @property
    def is_far(self) -> bool:
        """Whether it may be another machine than this one, with numbers of its own."""
        return bool(self.ssh or self.agent)

    @property
    def namespace(self) -> str | None:
        """The file of the network namespace to enter; None: the host's own."""
        return f"/proc/{self.pid}/ns/net" if self.pid else self.netns

    def outside(self) -> Node:
        """The same host, outside of the namespace."""
        return replace(self, netns=None, pid=None, pod=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        plain = asdict(replace(self, env={}))
        return {**plain, "env": dict(self.env)}


@dataclass(frozen=True, slots=True)
class FromApi:
    """That the nodes are to be asked of the Kubernetes API, and the zones by a label of theirs.

    `node_selector` is a label selector; all nodes without. `ssh`: the way to each, its address
    replaced by the node's own; `agent`: the pod on each, its node and cluster replaced; with
    neither they are agentless. `devices` as a node has them.
    """

    zone_label: str = "topology.kubernetes.io/zone"
    node_selector: str = ""
    devices: tuple[str, ...] = ("eth0",)
    ssh: Ssh | None = None
    agent: NodePod | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be broken at once, checked before the first thing is touched.

    `never` are namespaces whose pods are let alone. Shares are of all the target's zones and nodes,
    and of the pods of one owner (a Deployment's, say). The last zone is never lost, whatever they
    say.
    """

    never: tuple[str, ...] = ("kube-system", "kube-public", "kube-node-lease", "aftershock")
    max_zone_share: float = 0.5
    max_node_share: float = 0.5
    max_owner_share: float = 0.5


@dataclass(frozen=True, slots=True)
class Inventory:
    """A target: its nodes and where its service is reached.

    `kubeconfig` is a way in to its Kubernetes API, if it has one, as `cluster.access.find` reads
    it ("": the usual one). With `from_api` the nodes are still to be asked for there.

    `zone_label` is the label by which the cluster's nodes are in zones, for what is read from it.

    `witness` is a node outside every zone that fails (the lab's edge, where the gateway's traffic
    comes from); probes of reachability are sent from it.
    """

    target: str
    nodes: tuple[Node, ...]
    gateway_url: str
    model: str
    kubeconfig: str | None = None
    reaper_image: str = ""
    namespace: str = "default"
    selector: str = ""
    witness: Node | None = None
    limits: Limits = Limits()
    from_api: FromApi | None = None
    zone_label: str = "topology.kubernetes.io/zone"

    def zones(self) -> tuple[str, ...]:
        """The zones' names, in the order in which they first appear."""
        return tuple(dict.fromkeys(node.zone for node in self.nodes))

    def in_zone(self, zone: str) -> tuple[Node, ...]:
        """The nodes of a zone; an unknown zone is `InvalidInput`."""
        if zone not in self.zones():
            known = ", ".join(self.zones())
            raise InvalidInput(f"unknown zone {zone!r}: the target {self.target} has {known}")
        return tuple(node for node in self.nodes if node.zone == zone)

    def whole_zones(self, names: Container[str]) -> list[str]:
        """The zones all of whose nodes are among these names."""
        return [
            zone for zone in self.zones() if all(node.name in names for node in self.in_zone(zone))
        ]

    def select(self, where: str) -> tuple[Node, ...]:
        """Nodes by the names of zones and nodes, separated by commas; `all` means every node."""
        words = [word.strip() for word in where.split(",") if word.strip()]
        if not words:
            raise InvalidInput("where: name zones or nodes, separated by commas, or `all`")
        zones, names = self.zones(), [node.name for node in self.nodes]
        for word in words:
            if word not in ("all", *zones, *names):
                known = f"zones {', '.join(zones)} and nodes {', '.join(names)}"
                raise InvalidInput(f"where: no zone or node {word!r}: {self.target} has {known}")
        return tuple(
            node
            for node in self.nodes
            if "all" in words or node.name in words or node.zone in words
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON, as an inventory file may have it."""
        plain = asdict(self)
        if self.from_api is None:
            del plain["from_api"]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Inventory:
        """The inverse of `to_dict`."""
        fields = dict(plain)
        witness, limits = fields.pop("witness", None), dict(fields.pop("limits", None) or {})
        if "never" in limits:
            limits["never"] = tuple(limits["never"])
        fields |= {"limits": Limits(**limits), "from_api": _from_api(fields.get("from_api"))}
        nodes = tuple(node_from_dict(node) for node in fields.pop("nodes"))
        return cls(nodes=nodes, witness=node_from_dict(witness) if witness else None, **fields)


def node_from_dict(plain: Mapping[str, Any]) -> Node:
    """A node from plain data; a single `device` may stand for `devices`."""
    fields = dict(plain)
    if "device" in fields:
        fields["devices"] = (fields.pop("device"),)
    for name in ("addresses", "devices"):
        if name in fields:
            fields[name] = tuple(fields[name])
    agent, pod = fields.get("agent"), fields.get("pod")
    fields["agent"] = NodePod(**agent) if agent else None
    fields["pod"] = PodRef(**pod) if pod else None
    return Node(**{**fields, "ssh": _ssh_from_dict(fields.get("ssh"))})


def _from_api(plain: Mapping[str, Any] | None) -> FromApi | None:
    if not plain:
        return None
    ssh, devices = _ssh_from_dict(plain.get("ssh")), tuple(plain["devices"])
    agent = NodePod(**plain["agent"]) if plain.get("agent") else None
    return FromApi(**{**plain, "ssh": ssh, "agent": agent, "devices": devices})


def _ssh_from_dict(plain: Mapping[str, Any] | None) -> Ssh | None:
    return Ssh(**{**plain, "jump": _ssh_from_dict(plain.get("jump"))}) if plain else None
