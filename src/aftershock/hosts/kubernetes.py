"""An agent on a Kubernetes node: a short-lived privileged pod there, and `exec` into it.

The pod shares the node's network and PIDs; files of the host are reached by /proc/1/root, so it
needs no volume. The agent's file and its records lie there, in the host's /var/cache and /var/lib:
a later pod finds them. Pods' networks are found and entered by the agent (`agent/containers.py`).

Nothing of it stays: every pod belongs to a ConfigMap of the run, in whose end the API server takes
it along; it ends by itself when no agent has been in it for a minute, and after a deadline at the
latest. The ledger knows the ConfigMap before it is made.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from hashlib import sha256
from secrets import token_hex
from typing import Any

from aftershock.errors import AftershockError, HostUnreachable, NotReverted
from aftershock.hosts.agentpods import ConfigMap, PodsApi, manifest
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.execing import ExecStreams
from aftershock.hosts.starting import agent, program, settle
from aftershock.inventory import Node, NodePod
from aftershock.ledger import Ledger, undoes

_GONE_S = 10.0
# The program comes by the standard input: a URL has no room for it, nor `ps`.
_BOOT = """import os, sys
size = int(sys.argv.pop(1)); text = b""
while len(text) < size:
    more = os.read(0, size - len(text))
    if not more: sys.exit(1)
    text += more
exec(text)"""
_HOST_ROOT = "/proc/1/root"


class AgentPods:
    """The pods of one run: a node's is made when its first agent is started; `close` ends them."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.run = token_hex(4)
        self._ledger = ledger
        self._lock = threading.Lock()
        self._groups: dict[tuple[str, str | None, str], _Group] = {}
        self._closed = False

    def pod(self, way: NodePod, name: str) -> tuple[PodsApi, str]:
        """The API and the running pod of a node; made if it isn't there."""
        key = (way.kubeconfig, way.context, way.namespace)
        with self._lock:
            if self._closed:
                raise HostUnreachable(f"{name}: its agent's pod would come when all is over")
            if key not in self._groups:
                self._groups[key] = _Group(way, self.run, self._ledger)
            group = self._groups[key]
        return group.api, group.pod(way, name)

    def close(self) -> None:
        """End every pod of ours; NotReverted names what is left. Twice is fine."""
        with self._lock:
            groups, self._groups = self._groups, {}
            self._closed = True
        problems = []
        for group in groups.values():
            try:
                group.close()
            except AftershockError as error:
                problems.append(str(error))
        if problems:
            raise NotReverted(f"{'; '.join(problems)}; `aftershock recover` tries again")


class _Group:
    """Pods in one namespace of one cluster, and the ConfigMap that owns them."""

    def __init__(self, way: NodePod, run: str, ledger: Ledger | None) -> None:
        self.api = PodsApi(way)
        self._way, self._run, self._ledger = way, run, ledger
        self._owner: ConfigMap | None = None
        self._entry: str | None = None
        self._lock = threading.Lock()
        self._starting: dict[str, threading.Lock] = {}

    def pod(self, way: NodePod, name: str) -> str:
        """The node's pod, running."""
        title = f"aftershock-agent-{self._run}-{sha256(way.node.encode()).hexdigest()[:8]}"
        with self._lock:
            own = self._starting.setdefault(way.node, threading.Lock())
        with own:  # two agents of a node share its pod
            if self.api.runs(title):
                return title
            with self._lock:
                owner = self._owned(way, name)
            self.api.remove(title)
            self.api.start(manifest(way, title, self._run, owner), way, name)
        return title

    def _owned(self, way: NodePod, name: str) -> ConfigMap:
        if self._owner is None:
            # Whether the cluster would let it in is asked before anything is made.
            self.api.admit(manifest(way, f"aftershock-agent-{self._run}", self._run, None), name)
            title = f"aftershock-{self._run}"
            if self._ledger:
                self._entry = self._ledger.intend_undo("node-agents", self._undo(title))
            self._owner = self.api.own(title, self._run, name)
        return self._owner

    def _undo(self, title: str) -> dict[str, Any]:
        way = self._way
        told = {"kubeconfig": way.kubeconfig, "context": way.context, "namespace": way.namespace}
        return {**told, "owner": title, "run": self._run, "emulated": way.emulated}

    def close(self) -> None:
        try:
            if self._owner:
                self.api.sweep(self._run, self._owner.name, _GONE_S)
                if self._ledger and self._entry:
                    self._ledger.undone(self._entry)
        finally:
            self.api.close()


@undoes("node-agents")
def undo_node_agents(undo: Mapping[str, Any]) -> str:
    """Delete a dead run's agent pods and their owner (for `recover`)."""
    way = NodePod(undo["kubeconfig"], "", "", undo["namespace"], undo["context"])
    try:
        api = PodsApi(way)
        try:
            count = api.sweep(undo["run"], undo["owner"], _GONE_S)
        finally:
            api.close()
    except HostUnreachable:
        if not undo["emulated"]:
            raise
        return "the lab is gone, and its node agents' pods with it"
    return f"deleted {count} pods of node agents in {undo['namespace']}"


class PodHost:
    """Starts an agent on a node, or in a pod's network on it, through the node's agent pod."""

    def __init__(self, node: Node, pods: AgentPods) -> None:
        assert node.agent
        self.node, self.way, self._pods = node, node.agent, pods

    def start(self) -> AgentChannel:
        """A running agent; HostUnreachable or Unsupported name the host and the mend."""
        name, way = self.node.name, self.way
        api, pod = self._pods.pod(way, name)
        content, digest = agent()
        program = self._program(api)
        size = str(len(content))
        words = [way.python, "-I", "-S", "-c", _BOOT, str(len(program)), name, digest, size]
        streams = ExecStreams(name, api.client, way.namespace, pod, words, way.timeout_s)
        try:
            streams.send(program, way.timeout_s)
            settle(streams, content, self.node, way.python, way.timeout_s)
        except BaseException as error:
            streams.end(0)
            if isinstance(error, OSError):
                raise streams.silent() from error
            raise
        return AgentChannel(name, streams)

    def _program(self, api: PodsApi) -> bytes:
        """What starts the agent: environment, namespace, and the starter that SSH sends, too."""
        told = {
            "AFTERSHOCK_STATE": f"{_HOST_ROOT}/var/lib/aftershock",
            "XDG_CACHE_HOME": f"{_HOST_ROOT}/var/cache",
            "AFTERSHOCK_HOST_ROOT": _HOST_ROOT,
            **self.node.env,
        }
        reached = f"','.join(sorted(kubelet_callers() | set({sorted(api.servers())!r})))"
        return program(self.node, told, reached)
