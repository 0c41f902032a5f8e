"""An injection on a fleet: how few words it needs, and what becomes of it when some hosts fail."""

import os
import signal
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from wires import World, arrives, cut_off, lost

from aftershock.errors import HostUnreachable, InvalidInput, NotApplied
from aftershock.faults.partition import networks
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.ledger import Ledger, read

pytestmark = pytest.mark.root


@pytest.mark.parametrize("prefixes", [1, 2000])
def test_a_host_hears_of_a_fault_twice_until_it_bites_and_twice_until_it_is_over(
    wires: World, fleet: Fleet, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, prefixes: int
) -> None:
    words: Counter[str] = Counter()
    post = AgentChannel.post

    def counting(self: AgentChannel, op: str, **options: Any) -> Any:
        words[op] += op != "beat"
        return post(self, op, **options)

    fleet.channels([wires["a"]])
    monkeypatch.setattr(AgentChannel, "post", counting)
    peers = networks([wires["w"].addresses[0], *(f"192.0.2.{n % 250}/32" for n in range(prefixes))])
    for number in range(2):
        injection = Injection(
            cut_off(wires, peers=peers), [wires["a"]], lease_s=30, ledger=ledger, fleet=fleet
        )
        injection.arm()
        injection.fire()
        assert words - Counter(facts=1) == Counter(arm=number + 1, fire=number + 1) + Counter(
            {op: number for op in ("revert", "forget") if number}
        )
        assert lost(wires["w"], wires["a"])
        injection.revert()
        assert arrives(wires["w"], wires["a"])
    assert words == Counter(facts=1, arm=2, fire=2, revert=2, forget=2)


def gone(wires: World) -> Any:
    """A host that nobody reaches."""
    return replace(wires["b"], name="node-gone", netns="/run/netns/as-tnone")


@pytest.mark.parametrize("at_least", [0, 2])
def test_all_or_nothing_is_the_default(
    wires: World, fleet: Fleet, ledger: Ledger, at_least: int
) -> None:
    nodes = [wires["a"], gone(wires)]
    injection = Injection(
        cut_off(wires), nodes, lease_s=30, ledger=ledger, fleet=fleet, at_least=at_least
    )
    with pytest.raises(HostUnreachable, match="node-gone"):
        injection.arm()
    assert arrives(wires["w"], wires["a"])
    assert not read(ledger.path).is_open(), "nothing was begun, so nothing is to be recovered"


def test_enough_hosts_are_enough(wires: World, fleet: Fleet, ledger: Ledger) -> None:
    injection = Injection(
        cut_off(wires),
        [wires["a"], gone(wires)],
        lease_s=30,
        ledger=ledger,
        fleet=fleet,
        witness=wires["w"],
        at_least=1,
    )
    injection.arm()
    injection.fire()
    assert lost(wires["w"], wires["a"])
    assert injection.observe()["bit"] is True
    injection.revert()
    assert arrives(wires["w"], wires["a"])
    told = injection.to_dict()
    assert told["hosts"] == ["node-a"] and told["clean"] is True
    assert "no network namespace" in told["failed_hosts"]["node-gone"]


def test_a_host_that_fails_at_the_arming_is_undone_and_left_out(
    wires: World, fleet: Fleet, ledger: Ledger
) -> None:
    """On `b` a filter of another kind holds the first place, so a clsact partition is refused."""
    wires.tc("b", "qdisc", "add", "dev", "eth0", "clsact")
    words = "filter add dev eth0 ingress protocol ip prio 1 u32 match u32 0 0 classid 1:1"
    wires.tc("b", *words.split())
    for at_least in (2, 1):
        injection = Injection(
            cut_off(wires, hook="clsact"),
            [wires["a"], wires["b"]],
            lease_s=30,
            ledger=ledger,
            fleet=fleet,
            at_least=at_least,
        )
        if at_least == 2:
            with pytest.raises(NotApplied, match=r"node-b.*undone"):
                injection.arm()
            continue
        injection.arm()
        injection.fire()
        assert lost(wires["w"], wires["a"]) and arrives(wires["w"], wires["b"])
        injection.revert()
        told = injection.to_dict()
        assert list(told["failed_hosts"]) == ["node-b"] and told["clean"] is True
    assert arrives(wires["w"], wires["a"])
    assert "u32" in wires.tc("b", "filter", "show", "dev", "eth0", "ingress")


def test_a_host_that_dies_between_arming_and_firing_is_looked_after_at_the_end(
    wires: World, fleet: Fleet, ledger: Ledger
) -> None:
    injection = Injection(
        cut_off(wires),
        [wires["a"], wires["b"]],
        lease_s=30,
        ledger=ledger,
        fleet=fleet,
        at_least=1,
    )
    injection.arm()
    channel = fleet.channels([wires["b"]])["node-b"]
    os.kill(channel.pid, signal.SIGKILL)
    while channel.is_open:
        time.sleep(0.01)
    injection.fire()
    assert lost(wires["w"], wires["a"]) and arrives(wires["w"], wires["b"])
    injection.revert()
    told = injection.to_dict()
    assert told["hosts"] == ["node-a"] and "node-b" in told["failed_hosts"]
    assert not read(ledger.path).is_open()


def test_more_hosts_than_there_are_cannot_be_asked_for(
    wires: World, fleet: Fleet, ledger: Ledger
) -> None:
    with pytest.raises(InvalidInput, match="at_least 2: from 0"):
        Injection(cut_off(wires), [wires["a"]], lease_s=5, ledger=ledger, fleet=fleet, at_least=2)


def test_a_channel_that_is_lost_heals_no_fault_that_may_have_cut_it(
    wires: World, fleet: Fleet, ledger: Ledger
) -> None:
    """Only the deadline does: before any order came, which is an early heal."""
    injection = Injection(
        cut_off(wires),
        [wires["a"]],
        lease_s=4,
        ledger=ledger,
        fleet=fleet,
        deadline_only=True,
    )
    injection.arm()
    begin = time.monotonic()
    injection.fire()
    fleet.channels([wires["a"]])["node-a"].abandon(patience_s=0)
    time.sleep(0.7)
    assert lost(wires["w"], wires["a"]), "the channel's loss heals nothing"
    while not arrives(wires["w"], wires["a"], within_s=0.1):
        assert time.monotonic() < begin + 7
    injection.revert()
    told = injection.to_dict()
    assert told["per_host"]["node-a"]["ended_by"] == "deadline"
    assert told["healed_early"] is True and told["clean"] is True
