"""Delay, duplication, damage, disorder, loss and throttling, felt by sockets and by ping."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from statistics import mean, stdev

import pytest

from aftershock.faults.shaping import Bandwidth, Corrupt, Delay, Duplicate, Loss, Reorder
from aftershock.inventory import Node

from .worlds import Rig, flow, ip, passed, pings, tcp_rate, to

pytestmark = pytest.mark.root
PROMPT_MS = 25.0  # of a packet that nobody holds back, on a slow guest
MBIT = 1_000_000


@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_a_delay_is_felt_in_its_direction_by_its_peers_alone(rig: Rig, direction: str) -> None:
    a, b, w = rig.a, rig.b, rig.w
    late = (a, w) if direction == "egress" else (w, a)
    prompt = [late[::-1], (a, b), (b, a), (w, b)]
    fault = Delay(80, traffic=to(w, direction=direction))
    with rig.inject(fault, fire=False) as injection:
        for family in (4, 6):
            assert flow(*late, 20, family=family).median < PROMPT_MS, "armed, yet nothing is felt"
        assert min(pings(w, a, 3)) < 80
        injection.fire()
        for family in (4, 6):
            held = flow(*late, 20, family=family)
            assert min(held.delays) >= 79.9 and held.median < 80 + PROMPT_MS and not held.lost
        assert all(flow(*way, 20).median < PROMPT_MS for way in prompt)
        assert min(pings(w, a, 3)) >= 79.9 and min(pings(w, a, 3, family=6)) >= 79.9
        assert injection.observe()["bit"] is True
        assert passed(injection, "slower") and passed(injection, "diverted")
    assert flow(*late, 20).median < PROMPT_MS and min(pings(w, a, 3)) < 80


@pytest.mark.one_kernel
def test_jitter_is_uniform_around_the_delay(rig: Rig) -> None:
    with rig.inject(Delay(60, 40, traffic=to(rig.w, direction="egress"))) as injection:
        delays = flow(rig.a, rig.w, 300).delays
        assert injection.observe()["bit"] is True
    assert min(delays) >= 19.9
    assert 16 < stdev(delays) < 40, "23 of a uniform one, and what a slow guest adds"
    assert abs(_follows(delays)) < 0.3, "each by itself"


@pytest.mark.one_kernel
def test_correlated_jitter_follows_the_last_packets(rig: Rig) -> None:
    with rig.inject(Delay(60, 40, 0.9, traffic=to(rig.w, direction="egress"))):
        delays = flow(rig.a, rig.w, 300).delays
    assert min(delays) >= 19.9 and _follows(delays) > 0.6


def _follows(delays: list[float]) -> float:
    """The lag-1 autocorrelation."""
    middle = mean(delays)
    both = sum((one - middle) * (next_one - middle) for one, next_one in pairwise(delays))
    return both / sum((one - middle) ** 2 for one in delays)


@pytest.mark.one_kernel
def test_a_share_stays_what_it_is_when_it_comes_in_runs(rig: Rig) -> None:
    fault = Duplicate(0.3, 0.8, traffic=to(rig.w, direction="egress"))
    with rig.inject(fault) as injection:
        assert 0.12 < flow(rig.a, rig.w, 600).repeated < 0.48
        assert injection.observe()["bit"] is True


@pytest.mark.one_kernel
def test_distributions_have_their_shapes(rig: Rig) -> None:
    delays = {}
    for shape in ("normal", "pareto", "paretonormal"):
        fault = Delay(100, 20, distribution=shape, traffic=to(rig.w, direction="egress"))
        with rig.inject(fault):
            delays[shape] = sorted(flow(rig.a, rig.w, 300).delays)
    for shape, some in delays.items():
        assert 90 < mean(some) < 100 + PROMPT_MS and 12 < stdev(some) < 45, shape
    normal, pareto = delays["normal"], delays["pareto"]
    assert 0.08 < sum(delay < 80 for delay in normal) / 300 < 0.25, "0.16 by the bell"
    assert min(pareto) > 86, "a Pareto's least is 0.58 deviations below its mean"
    assert pareto[150] - pareto[0] < 20 < pareto[-1] - pareto[150], "and its tail is long"
    assert min(delays["paretonormal"]) < min(pareto)


@pytest.mark.one_kernel
@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_a_share_is_lost(rig: Rig, direction: str) -> None:
    fault = Loss(0.3, traffic=to(rig.w, direction=direction))
    way = (rig.a, rig.w) if direction == "egress" else (rig.w, rig.a)
    with rig.inject(fault, fire=False) as injection:
        assert flow(*way, 50).lost == 0
        injection.fire()
        assert 0.19 < flow(*way, 400).lost < 0.41, "0.3, give or take 5 deviations"
        assert 0.15 < flow(*way, 200, family=6).lost < 0.45
        assert flow(*way[::-1], 50).lost == 0 and flow(rig.a, rig.b, 50).lost == 0
        assert injection.observe()["bit"] is True and passed(injection, "lossy")
    assert flow(*way, 50).lost == 0


@pytest.mark.one_kernel
def test_a_channel_that_turns_bad_loses_in_bursts(rig: Rig) -> None:
    with rig.inject(Loss(p=0.05, r=0.2, traffic=to(rig.w, direction="egress"))) as injection:
        there = flow(rig.a, rig.w, 600)
        assert injection.observe()["bit"] is True
    got = {arrival.number for arrival in there.arrivals}
    runs = sum(number in got and number + 1 not in got for number in range(599))
    assert 0.08 < there.lost < 0.35, "0.2 in the long run"
    assert there.lost * 600 / runs > 2.5, "by chance alone it would be 1.25"


@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_a_share_arrives_twice(rig: Rig, direction: str) -> None:
    way = (rig.a, rig.w) if direction == "egress" else (rig.w, rig.a)
    with rig.inject(Duplicate(0.3, traffic=to(rig.w, direction=direction))) as injection:
        for family in (4, 6):
            assert 0.19 < flow(*way, 400, family=family).repeated < 0.41
        assert flow(*way[::-1], 50).repeated == 0 and flow(rig.a, rig.b, 50).repeated == 0
        assert injection.observe()["bit"] is True and passed(injection, "repeated")
    assert flow(*way, 50).repeated == 0


@pytest.mark.one_kernel
@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_a_share_is_damaged_and_checksums_catch_it(rig: Rig, direction: str) -> None:
    way = (rig.a, rig.w) if direction == "egress" else (rig.w, rig.a)
    with rig.inject(Corrupt(0.3, traffic=to(rig.w, direction=direction))) as injection:
        seen = flow(*way, 400)
        assert 0.19 < seen.lost < 0.41 and seen.damaged == 0
        assert flow(*way, 200, checked=False).damaged > 0.15, "without a checksum it arrives"
        assert 0.15 < flow(*way, 200, family=6).lost < 0.45
        assert injection.observe()["bit"] is True and passed(injection, "lossy")
    assert flow(*way, 50).lost == 0


@pytest.mark.parametrize(("direction", "share"), [("egress", 0.2), ("ingress", 0.8)])
def test_a_share_overtakes(rig: Rig, direction: str, share: float) -> None:
    way = (rig.a, rig.w) if direction == "egress" else (rig.w, rig.a)
    with rig.inject(Reorder(share, 40, traffic=to(rig.w, direction=direction))) as injection:
        for family in (4, 6):
            there = flow(*way, 150, family=family)
            early = sum(delay < 39.9 for delay in there.delays) / 150
            assert abs(early - share) < 0.17 and there.overtaken > 0.05 and not there.lost
        assert injection.observe()["bit"] is True and passed(injection, "slower")
    assert flow(*way, 50).overtaken == 0


def test_every_fifth_overtakes(rig: Rig) -> None:
    with rig.inject(Reorder(1, 40, gap=5, traffic=to(rig.w, direction="egress"))) as injection:
        there = flow(rig.a, rig.w, 100)
        assert injection.observe()["bit"] is True
    assert sum(delay < 39.9 for delay in there.delays) == 20


@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_no_more_than_the_rate_gets_through(rig: Rig, direction: str) -> None:
    way = (rig.a, rig.w) if direction == "egress" else (rig.w, rig.a)
    with rig.inject(Bandwidth(1000, traffic=to(rig.w, direction=direction)), fire=False) as slow:
        assert tcp_rate(*way) > 2.5 * MBIT
        slow.fire()
        for family in (4, 6):
            assert 0.2 * MBIT < tcp_rate(*way, family=family) < 1.6 * MBIT
        assert tcp_rate(rig.a, rig.b) > 2.5 * MBIT
        assert slow.observe()["bit"] is True
    assert tcp_rate(*way) > 2.5 * MBIT


@pytest.mark.one_kernel
@pytest.mark.parametrize("first", ["egress", "ingress"])
def test_several_on_one_device_add_up_and_each_ends_alone(rig: Rig, first: str) -> None:
    second = "ingress" if first == "egress" else "egress"
    w = rig.w
    with ExitStack() as some, ExitStack() as others:
        late = some.enter_context(
            rig.inject(Delay(60, traffic=to(w, direction=first)), alone=False)
        )
        others.enter_context(rig.inject(Delay(90, traffic=to(w, direction=second)), alone=False))
        others.enter_context(rig.inject(Duplicate(1, traffic=to(w)), alone=False))
        assert min(pings(rig.a, w, 3)) >= 149.9
        assert flow(rig.a, w, 20).repeated == 1 and flow(w, rig.a, 20).repeated == 1
        late.revert()
        assert 89.9 <= min(pings(rig.a, w, 3)) < 149.9
        assert flow(rig.a, w, 20).repeated == 1, "the others stay"
        others.close()
        assert min(pings(rig.a, w, 3)) < 60 and flow(rig.a, w, 20).repeated == 0


def test_two_delays_of_one_direction_add_up(rig: Rig) -> None:
    traffic = to(rig.w, direction="egress")
    with rig.inject(Delay(60, traffic=traffic)):
        with rig.inject(Delay(40, traffic=traffic)):
            assert min(flow(rig.a, rig.w, 20).delays) >= 99.9
        there = flow(rig.a, rig.w, 20)
        assert min(there.delays) >= 59.9 and there.median < 60 + PROMPT_MS


@pytest.fixture
def second_wire(rig: Rig) -> Iterator[tuple[Node, Node]]:
    """Another device on `a`, straight to `w`: both nodes as they are there."""
    ip(rig.a, *f"link add eth1 type veth peer eth1 netns {rig.wires.netns('w')}".split())
    ends = []
    for node, number in ((rig.a, 1), (rig.w, 3)):
        ip(node, *f"addr add 10.98.0.{number}/24 dev eth1".split())
        ip(node, *f"addr add fd98::{number}/64 dev eth1 nodad".split())
        ip(node, "link", "set", "eth1", "up")
        ends.append(replace(node, addresses=(f"10.98.0.{number}", f"fd98::{number}")))
    yield ends[0], ends[1]
    ip(rig.a, "link", "del", "eth1")


@pytest.mark.one_kernel
def test_several_devices_at_once(rig: Rig, second_wire: tuple[Node, Node]) -> None:
    ends = [(rig.a, rig.w), second_wire]
    everywhere = replace(rig.a, devices=("eth0", "eth1"))
    fault = Delay(80, traffic=to(rig.w, second_wire[1]))
    with rig.inject(fault, everywhere) as injection:
        for here, there in ends:
            for way in ((here, there), (there, here)):
                for family in (4, 6):
                    assert min(flow(*way, 10, family=family).delays) >= 79.9
        assert injection.observe()["bit"] is True
    for here, there in ends:
        assert flow(here, there, 10).median < PROMPT_MS


@pytest.mark.one_kernel
@pytest.mark.parametrize(
    "fault",
    [Delay(80), Loss(0.5), Duplicate(0.5), Corrupt(0.5), Reorder(0.5, 80), Reorder(0.95, 80)],
    ids=lambda fault: fault.name,
)
def test_what_touches_no_packet_of_the_witness_is_no_effect(rig: Rig, fault: Delay) -> None:
    """On the loopback device, which no packet from outside goes through."""
    elsewhere = replace(rig.a, devices=("lo",))
    with rig.inject(fault, elsewhere) as injection:
        assert injection.observe(within_s=0)["bit"] is False
        assert passed(injection, fault.effect.kind) is False
