"""Packets that are led through a queue of ours: on which traffic it tells, and what stays."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from held import drop, held, match, tbf
from wires import HOOKS, World, arrives, inside, lost, share_lost, wait_for

from aftershock.agent import facts
from aftershock.errors import InvalidInput, NotApplied, Unsupported
from aftershock.hosts.channel import AgentChannel
from aftershock.hosts.fleet import Fleet
from aftershock.inventory import Node

pytestmark = pytest.mark.root
MBIT = 1_000_000
SLOW = 8 * MBIT


@pytest.fixture
def agent(wires: World, fleet: Fleet) -> AgentChannel:
    return fleet.fresh(wires["a"])


def sent(source: Node, target: Node, within_s: float = 0.5) -> float:
    """Bits a second that TCP gets from one node to another."""
    with inside(target.netns, lambda: socket.create_server((target.addresses[0], 0))) as server:
        got = 0

        def take() -> None:
            nonlocal got
            taken, _ = server.accept()
            with taken:
                until = time.monotonic() + within_s
                taken.settimeout(within_s)
                while (left := until - time.monotonic()) > 0:
                    taken.settimeout(left)
                    try:
                        got += len(taken.recv(1 << 16))
                    except TimeoutError:
                        return

        taker = threading.Thread(target=take)
        taker.start()
        address = server.getsockname()
        with inside(source.netns, lambda: socket.create_connection(address, 10)) as giver:
            giver.settimeout(within_s)
            try:
                while taker.is_alive():
                    giver.send(b"x" * (1 << 16))
            except OSError:
                pass
            taker.join()
        return got * 8 / within_s


def links(node: Node) -> list[str]:
    """Every device there."""
    return inside(node.netns, lambda: [name for _, name in socket.if_nameindex()])


def look(node: Node) -> list[str]:
    return inside(node.netns, lambda: facts.fingerprint(["eth0"]))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_chosen_traffic_takes_the_detour_and_comes_back(
    wires: World, agent: AgentChannel, hook: str, direction: str
) -> None:
    """Before, armed, fired, after; and the other direction all the while."""
    here, there = wires["a"], wires["w"]
    if direction == "ingress":
        here, there = there, here
    before = look(wires["a"])
    assert sent(here, there) > 4 * SLOW
    step = tbf(SLOW, directions=[direction], hook=hook, match=match(wires["w"].addresses))
    with held(agent, step, fire=False) as holding:
        assert sent(here, there) > 4 * SLOW, "armed, yet nothing is felt"
        holding.ask("fire")
        assert 0.3 * SLOW < sent(here, there) < 1.5 * SLOW
        assert sent(there, here) > 4 * SLOW, "the other direction is as before"
        assert sent(wires["a"], wires["b"]) > 4 * SLOW, "others are as before"
        assert arrives(here, there, 6) and arrives(here, there, 4)
        counted, queue = holding.counts(direction), holding.ask("observe")[0]["qdisc"][direction]
        assert counted["packets"] > 50 and queue["packets"] > 50 and queue["overlimits"] > 0
        assert counted["packets"] < 20_000, "no packet goes round in circles"
        holding.ask("revert")
    assert sent(here, there) > 4 * SLOW
    assert look(wires["a"]) == before and links(wires["a"]) == ["lo", "eth0"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("direction", ["egress", "ingress"])
@pytest.mark.parametrize("first", [0, 1])
def test_two_detours_on_one_device_add_up_and_end_alone(
    wires: World, agent: AgentChannel, hook: str, direction: str, first: int
) -> None:
    here, there = wires["a"], wires["w"]
    if direction == "ingress":
        here, there = there, here
    where = {"directions": [direction], "hook": hook}
    rates = [SLOW, 3 * SLOW]
    with (
        held(agent, tbf(rates[first], **where)) as one,
        held(agent, tbf(rates[1 - first], **where)) as other,
    ):
        assert 0.3 * SLOW < sent(here, there) < 1.5 * SLOW, "the slower one decides"
        assert all(each.counts(direction)["packets"] > 20 for each in (one, other))
        slower, faster = (one, other) if first == 0 else (other, one)
        slower.ask("revert")
        assert 2 * SLOW < sent(here, there) < 4 * SLOW, "the faster one stays"
        faster.ask("revert")
    assert sent(here, there) > 6 * SLOW
    assert links(wires["a"]) == ["lo", "eth0"]


@pytest.mark.parametrize("direction", ["egress", "ingress"])
@pytest.mark.parametrize("drop_first", [True, False])
def test_a_loss_beside_a_detour_is_decided_once(
    wires: World, agent: AgentChannel, direction: str, drop_first: bool
) -> None:
    """Seen twice by the dropping program, of the packets a half would lose three quarters."""
    here, there = (wires["a"], wires["w"]) if direction == "egress" else (wires["w"], wires["a"])
    loss = drop(0.5, directions=[direction], match=match(wires["w"].addresses))
    detour = tbf(1000 * MBIT, directions=[direction], match=match(wires["w"].addresses))
    steps = [loss, detour] if drop_first else [detour, loss]
    with held(agent, steps[0]), held(agent, steps[1]):
        assert 0.4 < share_lost(here, there, 1000) < 0.6  # 6 standard deviations


def test_a_devices_own_qdisc_stays_and_goes_on_shaping(wires: World, agent: AgentChannel) -> None:
    """A shaped network card: its htb shapes everybody, before, during and after."""
    a, b, w = wires["a"], wires["b"], wires["w"]
    wires.tc("a", *["qdisc", "add", "dev", "eth0", "root", "handle", "1:", "htb", "default", "10"])
    words = f"class add dev eth0 parent 1: classid 1:10 htb rate {4 * SLOW // MBIT}mbit burst 20k"
    wires.tc("a", *words.split())
    theirs = wires.tc("a", "qdisc", "show", "dev", "eth0")
    assert 2 * SLOW < sent(a, b) < 5 * SLOW
    with held(agent, tbf(SLOW, match=match(w.addresses))):
        assert 2 * SLOW < sent(a, b) < 5 * SLOW, "not a target: as before"
        assert 0.3 * SLOW < sent(a, w) < 1.5 * SLOW, "a target: ours, then theirs"
    assert 2 * SLOW < sent(a, w) < 5 * SLOW
    assert wires.tc("a", "qdisc", "show", "dev", "eth0") == theirs


@pytest.mark.parametrize("hook", HOOKS)
def test_after_sigkill_of_the_agent_nothing_is_diverted_and_nothing_stays(
    wires: World, agent: AgentChannel, hook: str
) -> None:
    with held(agent, tbf(SLOW, hook=hook)):
        assert sent(wires["a"], wires["w"]) < 1.5 * SLOW
        os.kill(agent.pid, signal.SIGKILL)
        assert wait_for(lambda: not agent.is_open)
        assert wait_for(lambda: links(wires["a"]) == ["lo", "eth0"], 10), "the watcher tidies up"
    assert sent(wires["a"], wires["w"]) > 4 * SLOW


def test_a_stopped_agents_detour_ends_with_the_lease(wires: World, agent: AgentChannel) -> None:
    with held(agent, tbf(SLOW), lease_s=5):  # a busy machine may need two to arm
        ends = time.monotonic() + 5
        os.kill(agent.pid, signal.SIGSTOP)
        try:
            assert sent(wires["a"], wires["w"]) < 1.5 * SLOW
            time.sleep(ends - time.monotonic())
            assert sent(wires["a"], wires["w"]) > 4 * SLOW, "the gate is shut by the kernel"
        finally:
            os.kill(agent.pid, signal.SIGCONT)


def test_what_strangers_send_into_a_pair_goes_nowhere(wires: World, agent: AgentChannel) -> None:
    """An LLDP frame, and an IPv4 packet that nobody diverted, on the pair of an ingress detour."""
    with held(agent, tbf(SLOW, directions=["ingress"])):
        (near,) = [name for name in links(wires["a"]) if name.startswith("as-") and name[-1] == "0"]
        before = _received(wires["a"], "eth0")
        raw = inside(wires["a"].netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        with raw:
            inside(wires["a"].netns, lambda: raw.bind((near, 0)))
            for kind in (b"\x88\xcc", b"\x08\x00"):
                for _ in range(50):
                    raw.send(b"\xff" * 6 + b"\x02" + b"\0" * 5 + kind + b"\x45" + b"\0" * 50)
        assert _received(wires["a"], "eth0") - before < 40


def _received(node: Node, device: str) -> int:
    words = ["ip", "-n", Path(str(node.netns)).name, "-s", "-j", "link", "show", "dev", device]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return int(text.split('"rx":{', 1)[1].split('"packets":', 1)[1].split(",", 1)[0])


def test_a_device_without_ethernet_headers_is_refused(wires: World, fleet: Fleet) -> None:
    words = ["ip", "-n", wires.netns("a"), "tuntap", "add", "as0tun", "mode", "tun"]
    subprocess.run(words, check=True)
    node = replace(wires["a"], name="tunnel", devices=("as0tun",))
    channel = fleet.fresh(node)
    with (
        pytest.raises(Unsupported, match="as0tun has no Ethernet header"),
        held(channel, tbf(SLOW, device="as0tun")),
    ):
        pass


def test_an_option_that_nobody_knows_is_refused(wires: World, agent: AgentChannel) -> None:
    step = tbf(SLOW)
    step["qdisc"] = {"kind": "netem", "dealy_ms": 100}
    before = look(wires["a"])
    with pytest.raises(InvalidInput, match="netem has no dealy_ms"), held(agent, step):
        pass
    with (
        pytest.raises(InvalidInput, match="netem or tbf"),
        held(agent, {**step, "qdisc": {"kind": "cake"}}),
    ):
        pass
    assert look(wires["a"]) == before


def test_a_second_step_that_fails_takes_back_the_first(wires: World, agent: AgentChannel) -> None:
    before = look(wires["a"])
    with (
        pytest.raises((NotApplied, InvalidInput), match="eth7"),
        held(agent, drop(), tbf(SLOW, device="eth7")),
    ):
        pass
    assert look(wires["a"]) == before and arrives(wires["a"], wires["w"])


def test_both_steps_of_an_injection_bite_and_end_together(
    wires: World, agent: AgentChannel
) -> None:
    b, w = wires["b"], wires["w"]
    with held(agent, drop(match=match(b.addresses)), tbf(SLOW, match=match(w.addresses))):
        assert lost(wires["a"], b) and sent(wires["a"], w) < 1.5 * SLOW
    assert arrives(wires["a"], b) and sent(wires["a"], w) > 4 * SLOW


@pytest.fixture(autouse=True)
def no_pair_is_left(wires: World) -> Iterator[None]:
    yield
    assert not [name for name in links(wires["a"]) if name.startswith("as-")]
