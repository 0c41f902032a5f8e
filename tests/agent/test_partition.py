"""What a partition does to packets, on a real kernel: before, during and after."""

import fcntl
import socket
import struct
import subprocess
import time

import pytest
from wires import HOOKS, Inject, World, arrives, inside, lost, wait_for

from aftershock.agent import facts
from aftershock.errors import NotApplied
from aftershock.faults.partition import networks
from aftershock.hosts.fleet import Fleet

pytestmark = pytest.mark.root


def fingerprint(wires: World, name: str) -> list[str]:
    return inside(wires[name].netns, lambda: facts.fingerprint(["eth0"]))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", [4, 6])
def test_both_ways_are_lost_and_come_back(
    wires: World, inject: Inject, hook: str, family: int
) -> None:
    a, b, w = wires["a"], wires["b"], wires["w"]
    assert arrives(a, w, family) and arrives(w, a, family)
    injection = inject(hook=hook)
    assert lost(a, w, family) and lost(w, a, family)
    assert arrives(a, b, family) and arrives(b, a, family), "the spared peer"
    assert arrives(b, w, family), "a node that was not injected"
    injection.revert()
    assert arrives(a, w, family) and arrives(w, a, family)


@pytest.mark.parametrize("hook", HOOKS)
def test_one_way_only(wires: World, inject: Inject, hook: str) -> None:
    a, w = wires["a"], wires["w"]
    deaf = inject(hook=hook, direction="ingress")
    assert all(arrives(a, w, family) and lost(w, a, family) for family in (4, 6))
    deaf.revert()
    mute = inject(hook=hook, direction="egress")
    assert all(lost(a, w, family) and arrives(w, a, family) for family in (4, 6))
    mute.revert()


def test_longest_prefix_decides(wires: World, inject: Inject) -> None:
    a, w = wires["a"], wires["w"]
    inject(peers=networks(["10.99.0.3", "10.50.0.0/16"]))
    assert lost(w, a, 4) and arrives(w, a, 6), "only what was named is cut"
    assert arrives(a, wires["b"], 4)


@pytest.mark.parametrize("hook", HOOKS)
def test_arming_is_felt_by_nobody(wires: World, inject: Inject, hook: str) -> None:
    injection = inject(hook=hook, fire=False)
    assert all(arrives(*ends, family) for family in (4, 6) for ends in _ends(wires))
    injection.revert()
    assert not injection.bit and injection.to_dict()["fired_at"] is None


def _ends(wires: World) -> tuple[tuple[object, object], ...]:
    return ((wires["a"], wires["w"]), (wires["w"], wires["a"]))


@pytest.mark.parametrize("hook", HOOKS)
def test_neighbours_still_find_each_other(wires: World, inject: Inject, hook: str) -> None:
    a, w = wires["a"], wires["w"]
    inject(hook=hook)
    for family in (4, 6):
        assert lost(w, a, family)

    def known() -> set[str]:
        for family in (4, 6):  # a busy machine may give up asking after the first
            assert not arrives(w, a, family, 0.05)
        words = ["ip", "-n", wires.netns("w"), "neigh", "show", "dev", "eth0"]
        shown = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        return {line.split()[0] for line in shown.splitlines() if "lladdr" in line}

    assert wait_for(lambda: known() >= {"10.99.0.1", "fd99::1"}), "ARP and discovery pass"


@pytest.mark.parametrize("hook", HOOKS)
def test_tagged_frames_pass(wires: World, inject: Inject, fleet: Fleet, hook: str) -> None:
    """The same IPv4 packet from a peer, bare and with a VLAN tag: only the bare one is dropped."""
    peers = networks([wires["w"].addresses[0]])  # IPv6 has noise of its own
    injection = inject(hook=hook, direction="ingress", peers=peers)
    channel = fleet.fresh(wires["a"])

    def dropped() -> int:
        seen = channel.ask("observe", injection=injection.id)[0]
        return int(seen["counts"]["ingress"]["packets"])

    begin = dropped()
    send_frame(wires, "w", "a", b"\x81\x00\x00\x07")
    assert dropped() == begin
    send_frame(wires, "w", "a", b"")
    assert dropped() == begin + 1


def send_frame(wires: World, source: str, target: str, tag: bytes) -> None:
    """An IPv4 packet in an Ethernet frame, past the source's own stack."""
    ends = [inside(wires[name].netns, _hardware_address) for name in (target, source)]
    addresses = [socket.inet_aton(wires[name].addresses[0]) for name in (source, target)]
    header = _ipv4_header(*addresses)
    frame = b"".join(ends) + tag + b"\x08\x00" + header
    packets = inside(wires[source].netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    with packets:
        inside(wires[source].netns, lambda: packets.bind(("eth0", 0)))
        packets.send(frame.ljust(60, b"\0"))
    time.sleep(0.05)


def _ipv4_header(source: bytes, target: bytes) -> bytes:
    """With its checksum: a bridge may look at it."""
    parts = [0x4500, 20, 0, 0, 64 << 8 | 253, *struct.unpack("!4H", source + target)]
    total = sum(parts)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return struct.pack("!6H", *parts[:5], checksum) + source + target


def _hardware_address() -> bytes:
    with socket.socket() as any_socket:
        answer = fcntl.ioctl(any_socket, 0x8927, struct.pack("16s24x", b"eth0"))
    return answer[18:24]


@pytest.mark.parametrize("hook", HOOKS)
def test_two_injections_on_one_device_are_independent(
    wires: World, inject: Inject, hook: str
) -> None:
    a, b, w = wires["a"], wires["b"], wires["w"]
    first = inject(hook=hook)
    second = inject(hook=hook, peers=networks(b.addresses), spare="a")
    assert lost(w, a) and lost(b, a)
    first.revert()
    assert arrives(w, a) and lost(b, a)
    assert first.to_dict()["clean"] is True and first.to_dict()["foreign_changes"] == {}
    second.revert()
    assert arrives(b, a) and second.to_dict()["clean"] is True


@pytest.mark.parametrize("hook", HOOKS)
def test_the_device_is_afterwards_as_it_was(wires: World, inject: Inject, hook: str) -> None:
    before = fingerprint(wires, "a")
    injection = inject(hook=hook)
    assert fingerprint(wires, "a") != before
    injection.revert()
    assert fingerprint(wires, "a") == before
    told = injection.to_dict()
    assert (told["clean"], told["ordered"], told["healed_early"]) == (True, True, False)


FOREIGN = "match ip dst 10.99.0.2/32 action mirred egress redirect dev lo"


@pytest.mark.parametrize("hook", HOOKS)
def test_anothers_filters_go_on_working(wires: World, inject: Inject, hook: str) -> None:
    """A stranger's redirect swallows what `a` sends to `b`, before, during and after."""
    a, b, w = wires["a"], wires["b"], wires["w"]
    assert arrives(a, b)
    wires.tc("a", "qdisc", "add", "dev", "eth0", "clsact")
    filter_add = ["filter", "add", "dev", "eth0", "egress", "protocol", "ip", "prio", "7", "u32"]
    wires.tc("a", *filter_add, *FOREIGN.split())
    theirs = wires.tc("a", "filter", "show", "dev", "eth0", "egress")
    assert lost(a, b)
    injection = inject(hook=hook)
    assert lost(a, b) and lost(a, w), "their verdict on spared packets, ours on the rest"
    injection.revert()
    assert lost(a, b) and arrives(a, w)
    assert wires.tc("a", "filter", "show", "dev", "eth0", "egress") == theirs
    assert injection.to_dict()["foreign_changes"] == {}


def test_a_stranger_who_moved_in_keeps_the_qdisc(wires: World, inject: Inject) -> None:
    injection = inject(hook="clsact")
    words = "filter add dev eth0 egress protocol ip prio 7 u32"
    wires.tc("a", *words.split(), *FOREIGN.split())
    injection.revert()
    told = injection.to_dict()
    assert told["clean"] is True
    assert any("u32" in line for line in told["foreign_changes"]["node-a"])
    assert "u32" in wires.tc("a", "filter", "show", "dev", "eth0", "egress")


def test_a_filter_before_every_place_of_ours_is_refused(wires: World, inject: Inject) -> None:
    wires.tc("a", "qdisc", "add", "dev", "eth0", "clsact")
    words = "filter add dev eth0 egress protocol ip prio 1 u32"
    wires.tc("a", *words.split(), *FOREIGN.split())
    before = fingerprint(wires, "a")
    with pytest.raises(NotApplied, match="priority 2"):
        inject(hook="clsact")
    assert fingerprint(wires, "a") == before


def test_what_was_dropped_is_counted_by_direction(
    wires: World, inject: Inject, fleet: Fleet
) -> None:
    injection = inject(direction="ingress")
    lost(wires["w"], wires["a"])
    injection.revert()
    dropped = injection.to_dict()["per_host"]["node-a"]["dropped"]
    assert set(dropped) == {"ingress"} and dropped["ingress"]["packets"] >= 2
    assert dropped["ingress"]["bytes"] >= 2 * 43
