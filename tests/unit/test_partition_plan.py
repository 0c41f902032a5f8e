"""A partition as data: what it refuses, what it plans, and what it cuts."""

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.agent.classifier import trie_entries
from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import DeviceFacts, Facts
from aftershock.faults.partition import EVERYONE, TOTAL_LOSS, Partition, networks

ETH0 = DeviceFacts("eth0", 2, tcx=True)
FACTS = Facts("6.18.0", "x86_64", True, "", (ETH0,))
OLD = replace(FACTS, devices=(replace(ETH0, tcx=False),))
ONE = networks(["10.0.1.0/24"])


@pytest.mark.parametrize(
    ("facts", "hook", "planned"),
    [
        (FACTS, "auto", "tcx"),
        (FACTS, "clsact", "clsact"),
        (OLD, "auto", "clsact"),
        (OLD, "clsact", "clsact"),
    ],
)
def test_the_hook_follows_the_kernel(facts: Facts, hook: str, planned: str) -> None:
    plan = Partition(ONE, hook=hook).plan(facts)  # type: ignore[arg-type]
    match = {"peers": ["10.0.1.0/24"], "spare": [], "protocols": []}
    assert [step.request() for step in plan.steps] == [
        {
            "kind": "drop",
            "device": "eth0",
            "directions": ["ingress", "egress"],
            "hook": planned,
            "match": {**match, "peer_ports": [], "local_ports": []},
            "loss": TOTAL_LOSS,
        }
    ]
    assert plan.observe == ("ingress", "egress")


@pytest.mark.parametrize(
    ("change", "mend"),
    [
        ({"root": False}, "run as root"),
        ({"bpf": "Operation not permitted"}, "CAP_BPF"),
        ({"devices": (replace(ETH0, rdma="it is InfiniBand"),)}, "RDMA bypasses"),
    ],
)
def test_a_host_that_cannot_is_refused_with_the_mend(change: dict[str, object], mend: str) -> None:
    with pytest.raises(Unsupported, match=mend):
        Partition(ONE).plan(replace(FACTS, **change))  # type: ignore[arg-type]


def test_forcing_tcx_needs_it() -> None:
    with pytest.raises(Unsupported, match="no TCX"):
        Partition(ONE, hook="tcx").plan(OLD)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda: Partition(()), "no peers"),
        (lambda: Partition(ONE, direction="up"), "direction 'up': one of both, ingress, egress"),  # type: ignore[arg-type]
        (lambda: Partition(ONE, hook="nft"), "hook 'nft'"),  # type: ignore[arg-type]
        (lambda: Partition(ONE, spare=networks(["10.0.0.0/8"])), "every peer is spared"),
        (lambda: Partition(("10.0.0.1",)), "is no network"),  # type: ignore[arg-type]
        (lambda: networks(["10.0.0.1/99"]), "use an address or prefix"),
    ],
)
def test_nonsense_is_refused_before_a_host_is_touched(fault: object, said: str) -> None:
    with pytest.raises(InvalidFault, match=said):
        fault()  # type: ignore[operator]


def test_a_zone_cut_off_from_everything_else() -> None:
    fault = Partition(EVERYONE, networks(["10.0.1.5", "fd00::5"]))
    assert not fault.cuts("10.0.1.5") and not fault.cuts("fd00::5")
    assert fault.cuts("10.0.1.6") and fault.cuts("fd00::6") and fault.cuts("8.8.8.8")


@st.composite
def nets(draw: st.DrawFn) -> str:
    """Small worlds, so that prefixes nest often."""
    length = draw(st.integers(0, 32))
    return str(ip_network((draw(st.integers(0, 7)) << 29, length), strict=False))


@given(st.lists(nets(), min_size=1), st.lists(nets()), st.integers(0, 2**32 - 1))
def test_what_it_says_it_cuts_is_what_the_trie_holds(
    peers: list[str], spare: list[str], address: int
) -> None:
    """The longest prefix of the agent's trie decides as `cuts` does."""
    try:
        fault = Partition(networks(peers), networks(spare))
    except InvalidFault:
        return
    where = str(ip_address(address))
    assert fault.cuts(where) == _trie_drops(peers, spare, address)


def _trie_drops(peers: list[str], spare: list[str], address: int) -> bool:
    best, verdict = -1, False
    for key, value in trie_entries(peers, spare):
        length = int.from_bytes(key[:4], "little") - 32
        network = int.from_bytes(key[8:12], "big")
        if length > best and (network ^ address) >> (32 - length) == 0:
            best, verdict = length, value[0] == 1
    return verdict


def test_both_families_share_a_trie_without_mixing() -> None:
    entries = dict(trie_entries(["0.0.0.0/0", "::/0"], ["10.0.0.1/32"]))
    assert sorted(key[:8] for key in entries) == sorted(
        int(length).to_bytes(4, "little") + family.to_bytes(4, "little")
        for length, family in ((32, 4), (32, 6), (64, 4))
    )


def test_a_plan_does_not_depend_on_chance() -> None:
    random.seed(1)
    first = Partition(EVERYONE).plan(FACTS).to_dict()
    random.seed(2)
    assert Partition(EVERYONE).plan(FACTS).to_dict() == first
