"""What we put together by hand for netem and tbf, read and judged by iproute2."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from aftershock.agent import netem, rtnl
from aftershock.agent.facts import device_index
from aftershock.faults.shaping import Bandwidth, Duplicate
from tests.agent.wires import inside

from .worlds import Rig, flow, ip, tc, to

pytestmark = [pytest.mark.root, pytest.mark.one_kernel]
QDISCS = [
    ({"delay_ms": 100}, "delay 100ms"),
    ({"delay_ms": 0.25, "jitter_ms": 0.125}, "delay 250us 125us"),
    ({"delay_ms": 4000}, "delay 4s"),
    (
        {"delay_ms": 100, "jitter_ms": 20, "distribution": "normal"},
        "delay 100ms 20ms distribution normal",
    ),
    ({"duplicate": 0.25}, "duplicate 25%"),
    ({"duplicate": 1}, "duplicate 100%"),
    ({"corrupt": 0.1}, "corrupt 10%"),
    ({"delay_ms": 10, "reorder": 0.25}, "delay 10ms reorder 25%"),
    ({"delay_ms": 10, "reorder": 0.25, "gap": 5}, "delay 10ms reorder 25% gap 5"),
    ({"delay_ms": 1, "limit_packets": 50}, "delay 1ms limit 50"),
]
BUCKETS = [
    ({"rate_bit": 1_000_000, "burst_bytes": 5000, "limit_bytes": 20_000}, "1mbit 5000 20000"),
    ({"rate_bit": 8000, "burst_bytes": 2000, "limit_bytes": 4000}, "8kbit 2000 4000"),
    (
        {"rate_bit": 100_000_000_000, "burst_bytes": 9_000_000, "limit_bytes": 20_000_000},
        "100gbit 9000000 20000000",
    ),
]


@pytest.fixture
def two(rig: Rig) -> Iterator[tuple[str, str]]:
    """A device for our words and one for iproute2's."""
    ip(rig.b, "link", "add", "ours", "type", "veth", "peer", "theirs")
    yield "ours", "theirs"
    ip(rig.b, "link", "del", "ours")


def both(rig: Rig, two: tuple[str, str], qdisc: Mapping[str, Any], words: str) -> list[Any]:
    """The same qdisc by us and by tc, as tc then shows each."""
    ours, theirs = two
    inside(rig.b.netns, lambda: rtnl.add_root_qdisc(device_index(ours), *netem.encode(qdisc)))
    tc(rig.b, "qdisc", "add", "dev", theirs, "root", *words.split())
    shown = [json.loads(tc(rig.b, "-j", "qdisc", "show", "dev", device))[0] for device in two]
    return [{**one["options"], "kind": one["kind"]} for one in shown]


@pytest.mark.parametrize(("options", "words"), QDISCS, ids=[words for _, words in QDISCS])
def test_netem_is_what_iproute2_would_have_made(
    rig: Rig, two: tuple[str, str], options: dict[str, Any], words: str
) -> None:
    limit = "" if "limit" in words else "limit 100000"
    ours, theirs = both(rig, two, {"kind": "netem", **options}, f"netem {words} {limit}")
    assert ours == theirs and ours["kind"] == "netem"


def test_correlations_reach_the_kernel_and_move_the_bounds(rig: Rig, two: tuple[str, str]) -> None:
    """iproute2 gives the kernel the share as it is for a bound: see agent/netem.py."""
    words: dict[str, Any] = {"delay_ms": 10, "jitter_ms": 1, "delay_correlation": 0.9}
    for name in ("duplicate", "corrupt", "reorder"):
        words |= {name: 0.1, f"{name}_correlation": 0.5}
    spoken = "delay 10ms 1ms 90% duplicate 10% 50% corrupt 10% 50% reorder 10% 50%"
    ours, theirs = both(rig, two, {"kind": "netem", **words}, f"netem {spoken} limit 100000")
    for name in ("duplicate", "corrupt", "reorder"):
        assert ours[name]["correlation"] == theirs[name]["correlation"] == 0.5
        assert 0.15 < ours[name][name] < 0.35
    assert ours["delay"]["correlation"] > 0.999 and ours["gap"] == theirs["gap"]


@pytest.mark.parametrize(("options", "words"), BUCKETS, ids=[words for _, words in BUCKETS])
def test_tbf_is_what_iproute2_would_have_made(
    rig: Rig, two: tuple[str, str], options: dict[str, Any], words: str
) -> None:
    rate, burst, limit = words.split()
    spoken = f"tbf rate {rate} burst {burst} limit {limit}"
    ours, theirs = both(rig, two, {"kind": "tbf", **options}, spoken)
    assert ours == theirs and ours["kind"] == "tbf"


def test_what_a_queue_did_is_what_tc_says_of_it(rig: Rig) -> None:
    fault = Duplicate(0.5, traffic=to(rig.w, direction="egress"))
    with rig.inject(fault) as injection:
        assert flow(rig.a, rig.w, 100).repeated > 0.2
        channel = rig.fleet.fresh(rig.a)
        told = channel.ask("observe", injection=injection.id)[0]["qdisc"]["egress"]
        (shown,) = [
            one
            for one in json.loads(tc(rig.a, "-s", "-j", "qdisc", "show"))
            if one["kind"] == "netem"
        ]
    assert told["packets"] == shown["packets"] > 120
    assert told["bytes"] == shown["bytes"] > 100 * 900
    for ours, theirs in (("drops", "drops"), ("backlog_packets", "qlen"), ("overlimits",) * 2):
        assert told[ours] == shown[theirs] == 0


def test_what_has_no_place_in_a_queue_is_counted_as_dropped(rig: Rig) -> None:
    fault = Bandwidth(100, burst_kb=2, queue_ms=100, traffic=to(rig.w, direction="egress"))
    with rig.inject(fault) as injection:
        assert flow(rig.a, rig.w, 100, takes=1).lost > 0.5
        seen = rig.fleet.fresh(rig.a).ask("observe", injection=injection.id)[0]
    assert seen["counts"]["egress"]["packets"] == 100
    assert seen["qdisc"]["egress"]["drops"] > 50 and seen["qdisc"]["egress"]["overlimits"] > 0
