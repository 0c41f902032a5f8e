"""Steps given straight to an agent, without a fault around them."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aftershock.hosts.channel import AgentChannel
from aftershock.inventory import Node

_numbers = itertools.count(1)
EVERYBODY = ("0.0.0.0/0", "::/0")
HERE = Node("here", "none", ("127.0.0.1",), devices=())  # for faults of no device


def match(peers: Sequence[str] = EVERYBODY, **more: Any) -> dict[str, Any]:
    """Which packets, as a step says it."""
    rest: dict[str, Any] = {"spare": [], "protocols": [], "peer_ports": [], "local_ports": []}
    return {"peers": list(peers), **rest, **more}


def drop(loss: float = 1.0, **more: Any) -> dict[str, Any]:
    """A drop step that loses this share of what `a` sends."""
    chances = {"to_bad": 0.0, "to_good": 0.0, "in_good": loss, "in_bad": loss}
    return {**_step("drop"), "loss": chances, **more}


def tbf(rate_bit: int, **more: Any) -> dict[str, Any]:
    """A divert step through a token bucket."""
    bucket = {"kind": "tbf", "rate_bit": rate_bit, "burst_bytes": 20_000, "limit_bytes": 200_000}
    return {**_step("divert"), "qdisc": bucket, **more}


def netem(**options: Any) -> dict[str, Any]:
    """A divert step through netem."""
    return {**_step("divert"), "qdisc": {"kind": "netem", **options}}


def _step(kind: str) -> dict[str, Any]:
    where = {"device": "eth0", "directions": ["egress"], "hook": "tcx"}
    return {"kind": kind, **where, "match": match()}


class Holding:
    """An injection that an agent holds."""

    def __init__(self, channel: AgentChannel, injection: str) -> None:
        self.channel, self.injection = channel, injection

    def ask(self, op: str) -> Any:
        """fire, observe, revert, record."""
        return self.channel.ask(op, injection=self.injection)

    def counts(self, direction: str = "egress") -> dict[str, int]:
        """What the first step's program counted."""
        found: dict[str, int] = self.ask("observe")[0]["counts"][direction]
        return found


@contextmanager
def held(
    channel: AgentChannel, *steps: dict[str, Any], fire: bool = True, lease_s: float = 60
) -> Iterator[Holding]:
    """Armed and fired within; reverted afterwards, if it is not."""
    holding = Holding(channel, f"held-{next(_numbers)}")
    words = {"injection": holding.injection, "steps": list(steps), "lease_s": lease_s}
    channel.ask("arm", **words)
    try:
        if fire:
            holding.ask("fire")
        yield holding
    finally:
        if channel.is_open:
            holding.ask("revert")
