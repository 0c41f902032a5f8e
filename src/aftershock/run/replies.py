"""What each replica of the service answers by itself, asked from its own host past any gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aftershock.errors import AftershockError, InvalidInput, Unsupported
from aftershock.evidence import Piece
from aftershock.hosts.channel import AgentChannel
from aftershock.inventory import Node
from aftershock.run import wording

if TYPE_CHECKING:
    from aftershock.run.session import Run

_PORT = 8000
_MORE_S = 5.0
HEALTH, COMPLETIONS, METRICS = "/health", "/v1/completions", "/metrics"
Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replica:
    """A server of the model, and where it listens."""

    name: str
    node: Node
    url: str


def replicas(run: Run, where: str, port: Any = 0) -> list[Replica]:
    """The replicas on some hosts: pods of the target's selector, or else one a host."""
    nodes, asked = run.target.inventory.select(where), wording.whole("port", port)
    cluster = run.target.cluster
    if cluster is None:
        return [_at(one.name, one, one.addresses[0], asked or _PORT) for one in nodes]
    hosts = {one.in_cluster: one for one in nodes}
    found = []
    for pod in cluster.described(run.target.inventory.selector):
        host = hosts.get((pod.get("spec") or {}).get("nodeName") or "")
        address = (pod.get("status") or {}).get("podIP")
        if host and address and "deletionTimestamp" not in pod["metadata"]:
            listens = asked or _declared(pod) or _PORT
            found.append(_at(pod["metadata"]["name"], host, address, listens))
    if not found:
        raise InvalidInput(f"where {where!r}: no replica of the service is there")
    return found


def _declared(pod: Mapping[str, Any]) -> int:
    ports = [one for c in pod["spec"]["containers"] for one in c.get("ports") or ()]
    return int(ports[0]["containerPort"]) if ports else 0


def _at(name: str, node: Node, address: str, port: int) -> Replica:
    host = f"[{address}]" if ":" in address else address
    return Replica(name, node, f"http://{host}:{port}")


def answers(run: Run, where: str, port: Any, timeout_s: Any) -> list[Told]:
    """See `aftershock.probes.engine.replies`."""
    wait_s = wording.number("timeout_s", timeout_s)
    if not 0 < wait_s <= 60:
        raise InvalidInput(f"timeout_s {wait_s:g}: more than 0, at most 60 seconds")
    return _answers(run, replicas(run, where, port), wait_s)


def _answers(run: Run, asked: Sequence[Replica], wait_s: float) -> list[Told]:
    """`/health` and one token of each, all at once."""
    body = json.dumps({"model": run.target.inventory.model, "prompt": "Hi", "max_tokens": 1})
    posted = []
    for one in asked:
        channel = run.target.agents.fresh(one.node)
        health = channel.post("ask", url=one.url + HEALTH, body=None, timeout_s=wait_s)
        token = channel.post("ask", url=one.url + COMPLETIONS, body=body, timeout_s=wait_s)
        posted.append((one, channel, health, token))
    return [_answer(*each, wait_s) for each in posted]


def _answer(one: Replica, channel: AgentChannel, health: Any, token: Any, wait_s: float) -> Told:
    healthy = channel.result(health, "ask", wait_s + _MORE_S)
    told = channel.result(token, "ask", wait_s + _MORE_S)
    has_token = told["status"] == 200 and _has_token(told["body"])
    why = told["said"] or ("" if has_token else f"status {told['status']}, {told['body'][:120]}")
    is_healthy = healthy["status"] == 200
    return {
        "replica": one.name,
        "node": one.node.name,
        "healthy": is_healthy,
        "token": has_token,
        "took_s": round(told["took_s"], 4),
        "why": why,
        "hung": is_healthy and not has_token,
    }


def _has_token(body: str) -> bool:
    try:
        return bool(json.loads(body)["choices"][0]["text"])
    except (ValueError, LookupError, TypeError):
        return False


class Contradiction:
    """Pieces for hosts whose `/health` answers while one token is not to be had."""

    def __init__(self, run: Run, nodes: Sequence[Node], timeout_s: float) -> None:
        self._run, self._timeout_s = run, timeout_s
        self._names = [one.name for one in nodes]
        self._replicas = replicas(run, ",".join(self._names))

    def pieces(self) -> Mapping[str, Piece]:
        """A piece a host: whether every replica there hangs so."""
        try:
            told = _answers(self._run, self._replicas, self._timeout_s)
        except AftershockError as error:
            return {name: Piece("hung", name, None, str(error)) for name in self._names}
        found = {}
        for name in self._names:
            own = [one for one in told if one["node"] == name]
            hung = [one for one in own if one["hung"]]
            seen = f"{len(hung)} of {len(own)} replicas answer /health, and give no token"
            if own and not own[0]["healthy"]:
                seen += ": /health does not answer either"
            found[name] = Piece("hung", name, len(hung) == len(own) > 0, seen)
        return found


def pages(run: Run, where: str, port: Any) -> dict[str, str]:
    """Replica → its page of metrics; `Unsupported` names one that has none."""
    told = {}
    for one in replicas(run, where, port):
        channel = run.target.agents.fresh(one.node)
        answer = channel.ask("ask", 15.0, url=one.url + METRICS, body=None, timeout_s=10.0)
        if answer["status"] != 200:
            why = answer["said"] or f"status {answer['status']}"
            raise Unsupported(f"{one.name}: {one.url}{METRICS} has no metrics ({why})")
        told[one.name] = answer["body"]
    return told
