"""However the agent or its controller ends, the host heals, and the record says who ordered it."""

import json
import os
import signal
import time
from concurrent.futures import Future

import pytest
from wires import HOOKS, Inject, World, arrives, back_after, is_gone, lost, wait_for

from aftershock import aftermath
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection

pytestmark = pytest.mark.root


def ended(injection: Injection, host: str = "node-a") -> dict[str, object]:
    """Revert, and what the host then says of its part."""
    injection.revert()
    told = injection.to_dict()
    assert told["clean"] is True and told["reverted"] is True, told
    return {**told["per_host"][host], "healed_early": told["healed_early"]}


def pid_of(fleet: Fleet, wires: World, name: str = "a") -> int:
    return fleet.fresh(wires[name]).pid


def test_sigkill_of_the_agent_heals_within_100_ms(
    wires: World, inject: Inject, fleet: Fleet
) -> None:
    injection = inject(hook="tcx")
    agent = pid_of(fleet, wires)
    took = back_after(wires["w"], wires["a"], lambda: os.kill(agent, signal.SIGKILL), 2.0)
    assert took < 0.1
    part = ended(injection)
    assert part["ordered"] is False and part["healed_early"] is True
    assert part["ended_by"] == "the agent's death"


def test_sigkill_of_the_agent_without_tcx_is_healed_by_the_watcher(
    wires: World, inject: Inject, fleet: Fleet
) -> None:
    injection = inject(hook="clsact")
    agent = pid_of(fleet, wires)
    assert back_after(wires["w"], wires["a"], lambda: os.kill(agent, signal.SIGKILL), 5.0) < 2.0
    assert wait_for(lambda: "clsact" not in wires.tc("a", "qdisc", "show", "dev", "eth0"))
    part = ended(injection)
    assert part["ordered"] is False and part["ended_by"] == "watcher"


def test_a_filter_bites_no_more_once_agent_and_watcher_are_killed(
    wires: World, inject: Inject, fleet: Fleet
) -> None:
    """It stays, since nobody is left to take it off; what it does ends with the agent."""
    injection = inject(hook="clsact")
    channel = fleet.fresh(wires["a"])
    watcher = channel.ask("record", injection=injection.id)["watcher"]["pid"]
    os.kill(watcher, signal.SIGKILL)
    assert lost(wires["w"], wires["a"]), "the watcher alone takes nothing along"
    agent = channel.pid
    assert back_after(wires["w"], wires["a"], lambda: os.kill(agent, signal.SIGKILL), 5.0) < 1.0
    assert "clsact" in wires.tc("a", "qdisc", "show", "dev", "eth0")
    part = ended(injection)
    assert part["ended_by"] == "the agent's death" and part["ordered"] is False
    assert "clsact" not in wires.tc("a", "qdisc", "show", "dev", "eth0")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_heals(
    wires: World, inject: Inject, fleet: Fleet, hook: str, number: signal.Signals
) -> None:
    injection = inject(hook=hook)
    agent = pid_of(fleet, wires)
    assert back_after(wires["w"], wires["a"], lambda: os.kill(agent, number), 3.0) < 1.0
    assert wait_for(lambda: is_gone(agent))
    part = ended(injection)
    assert part["ordered"] is False and part["ended_by"] == number.name


@pytest.mark.parametrize("hook", HOOKS)
def test_a_lost_channel_heals(wires: World, inject: Inject, fleet: Fleet, hook: str) -> None:
    injection = inject(hook=hook)
    channel = fleet.fresh(wires["a"])
    agent = channel.pid
    assert back_after(wires["w"], wires["a"], lambda: channel.abandon(0), 3.0) < 1.0
    assert wait_for(lambda: is_gone(agent))
    assert ended(injection)["ended_by"] == "channel lost"


@pytest.mark.parametrize("hook", HOOKS)
def test_the_deadline_heals(wires: World, inject: Inject, hook: str) -> None:
    injection = inject(hook=hook, lease_s=4.0)
    assert lost(wires["w"], wires["a"])
    assert arrives(wires["w"], wires["a"], within_s=6.0)
    part = ended(injection)
    assert part["ended_by"] == "deadline" and part["ordered"] is False


@pytest.mark.parametrize("hook", HOOKS)
def test_the_kernel_keeps_the_deadline_of_a_stopped_agent(
    wires: World, inject: Inject, fleet: Fleet, hook: str
) -> None:
    injection = inject(hook=hook, lease_s=4.0)
    agent = pid_of(fleet, wires)
    os.kill(agent, signal.SIGSTOP)
    assert lost(wires["w"], wires["a"])
    assert arrives(wires["w"], wires["a"], within_s=6.0)
    os.kill(agent, signal.SIGCONT)
    part = ended(injection)
    assert part["ordered"] is False and part["healed_early"] is True


def test_missed_heartbeats_heal(
    wires: World, inject: Inject, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    injection = inject(grace_s=1.5)
    channel = fleet.fresh(wires["a"])
    time.sleep(2.0)
    assert lost(wires["w"], wires["a"]), "beats from a thread of their own keep it"
    with monkeypatch.context() as silence:
        silence.setattr(channel, "post", lambda op, **_: Future())
        assert arrives(wires["w"], wires["a"], within_s=3.5)
        assert wait_for(lambda: not channel.is_open), "it ends, too"
    assert ended(injection)["ended_by"] == "heartbeat missed"


@pytest.mark.parametrize("hook", HOOKS)
def test_deadline_only_outlives_its_channel(
    wires: World, inject: Inject, fleet: Fleet, hook: str
) -> None:
    injection = inject(hook=hook, lease_s=3, grace_s=0.3, deadline_only=True)
    channel = fleet.fresh(wires["a"])
    agent = channel.pid
    channel.abandon(0)
    os.kill(agent, signal.SIGHUP)
    time.sleep(1.0)
    assert lost(wires["w"], wires["a"])
    assert arrives(wires["w"], wires["a"], within_s=6.0)
    assert wait_for(lambda: is_gone(agent))
    assert ended(injection)["ended_by"] == "deadline"


@pytest.mark.parametrize("hook", HOOKS)
def test_an_order_reaches_an_agent_whose_channel_is_lost(
    wires: World, inject: Inject, fleet: Fleet, hook: str
) -> None:
    injection = inject(hook=hook, deadline_only=True)
    channel = fleet.fresh(wires["a"])
    agent = channel.pid
    channel.abandon(0)
    assert lost(wires["w"], wires["a"])
    part = ended(injection)
    assert part["ordered"] is True and part["ended_by"] == "order"
    assert arrives(wires["w"], wires["a"])
    assert wait_for(lambda: is_gone(agent))


def test_injections_on_one_agent_have_leases_of_their_own(wires: World, inject: Inject) -> None:
    short = inject(lease_s=2.5, direction="ingress")  # a busy machine may need one to fire
    long = inject(direction="egress")
    assert arrives(wires["w"], wires["a"], within_s=6.0)
    assert lost(wires["a"], wires["w"])
    assert ended(short)["ended_by"] == "deadline"
    assert ended(long)["ordered"] is True


def test_a_revert_happens_once(wires: World, inject: Inject) -> None:
    injection = inject()
    first = injection.revert()
    assert injection.revert() is first
    assert injection.to_dict()["ordered"] is True
    json.dumps(injection.to_dict())


def test_an_order_relieves_an_agent_that_hangs(
    wires: World, inject: Inject, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aftermath, "_REVERT_S", 0.5)
    injection = inject()
    agent = pid_of(fleet, wires)
    os.kill(agent, signal.SIGSTOP)
    part = ended(injection)
    assert part["ended_by"] == "a hanging agent's end" and part["ordered"] is False
    assert arrives(wires["w"], wires["a"]) and wait_for(lambda: is_gone(agent))


def test_who_is_asked_in_the_place_of_an_agent_lets_that_go(
    wires: World, inject: Inject, fleet: Fleet
) -> None:
    """A cut line has not told it that nobody speaks to it any more, and it may hold another's."""
    over, still = inject(deadline_only=True, lease_s=1.0), inject(deadline_only=True, lease_s=6.0)
    agent = pid_of(fleet, wires)
    assert wait_for(lambda: record(fleet, wires, over)["state"] == "reverted")
    another = Fleet()
    try:
        heal = {"injection": over.id, "reason": "order"}
        told = another.fresh(wires["a"]).ask("heal", **heal)
        assert told["ended_by"] == "deadline"
        time.sleep(0.5)
        assert not is_gone(agent) and not arrives(wires["w"], wires["a"]), "it holds the other one"
        assert wait_for(lambda: is_gone(agent), 10.0), "until that is over, too"
    finally:
        another.close()
    assert ended(still)["ended_by"] == "deadline"
    over.revert()


def record(fleet: Fleet, wires: World, injection: Injection) -> dict[str, object]:
    told: dict[str, object] = fleet.fresh(wires["a"]).ask("record", injection=injection.id)
    return told
