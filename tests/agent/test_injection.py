"""An injection over several hosts: all or none, together, with evidence."""

import json
import subprocess
from pathlib import Path

import pytest
from wires import Inject, World, arrives, cut_off, inside, lost, world

from aftershock.agent import facts
from aftershock.errors import InvalidInput, NotApplied
from aftershock.faults.partition import Partition, networks
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.ledger import Ledger, read

pytestmark = pytest.mark.root


def pieces(injection: Injection) -> dict[tuple[str, str], bool | None]:
    found = injection.to_dict()["evidence"]["pieces"]
    return {(piece["name"], piece["host"]): piece["ok"] for piece in found}


def test_a_zone_is_cut_off_with_evidence_on_every_host(wires: World, inject: Inject) -> None:
    injection = inject("ab", witness=wires["w"])
    assert injection.observe()["bit"] is True
    expected = {(name, host) for name in ("dropped", "silent", "spared") for host in HOSTS}
    assert pieces(injection) == dict.fromkeys(expected, True)
    injection.revert()
    told = json.loads(json.dumps(injection.to_dict()))
    assert told["fault"] == "partition" and told["hosts"] == list(HOSTS)
    assert told["bit"] and told["ordered"] and told["clean"] and not told["healed_early"]
    assert told["skew_ms"] < 50
    for host in HOSTS:
        part = told["per_host"][host]
        assert part["fired_at_monotonic_s"] < part["reverted_at_monotonic_s"]


HOSTS = ("node-a", "node-b")


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_one_way_has_evidence_too(wires: World, inject: Inject, direction: str) -> None:
    injection = inject("ab", witness=wires["w"], direction=direction)
    assert injection.observe()["bit"] is True


def test_without_traffic_from_peers_there_is_no_effect(wires: World, inject: Inject) -> None:
    injection = inject(peers=networks(["192.0.2.0/24"]))
    assert injection.observe(within_s=0.3)["bit"] is False
    assert pieces(injection)["dropped", "node-a"] is False


def test_a_witness_that_was_not_answered_before_proves_nothing(
    wires: World, inject: Inject
) -> None:
    wires.tc("a", "qdisc", "add", "dev", "eth0", "root", "tbf", *_CHOKE)
    injection = inject(witness=wires["w"])
    injection.observe(within_s=0.2)
    assert pieces(injection)["silent", "node-a"] is None


_CHOKE = ("rate", "8bit", "burst", "10", "limit", "10")


@pytest.mark.parametrize("cable", ["up", "down"])
def test_a_witness_that_reaches_nothing_any_more_proves_no_silence(
    fleet: Fleet, ledger: Ledger, cable: str
) -> None:
    with world("abwc") as wires:
        injection = Injection(
            cut_off(wires),
            [wires["a"]],
            lease_s=20,
            ledger=ledger,
            fleet=fleet,
            witness=wires["w"],
            controls=[wires["c"]],
        )
        injection.arm()
        subprocess.run(["ip", "-n", wires.netns("w"), "link", "set", "eth0", cable], check=True)
        injection.fire()
        injection.observe(within_s=0.5)
        silent = next(piece for piece in injection.pieces if piece.name == "silent")
        injection.revert()
    assert silent.ok is (True if cable == "up" else None), silent
    assert ("reaches nothing any more" in silent.seen) == (cable == "down")
    assert injection.bit is (cable == "up")


def test_a_witness_that_is_not_cut_is_refused(wires: World, fleet: Fleet, ledger: Ledger) -> None:
    with pytest.raises(InvalidInput, match="witness"):
        fault = cut_off(wires, spare="abw")
        Injection(fault, [wires["a"]], lease_s=5, ledger=ledger, fleet=fleet, witness=wires["w"])


def test_a_host_that_cannot_arm_undoes_the_others(wires: World, inject: Inject) -> None:
    """On `b` another kind of filter holds the first place, so a clsact partition is refused."""
    wires.tc("b", "qdisc", "add", "dev", "eth0", "clsact")
    words = "filter add dev eth0 ingress protocol ip prio 1 u32 match u32 0 0 action pass"
    try:
        wires.tc("b", *words.split())
    except Exception:
        words = "filter add dev eth0 ingress protocol ip prio 1 u32 match u32 0 0 classid 1:1"
        wires.tc("b", *words.split())
    before = inside(wires["a"].netns, lambda: facts.fingerprint(["eth0"]))
    with pytest.raises(NotApplied, match=r"node-b.*priority.*undone"):
        inject("ab", hook="clsact")
    assert inside(wires["a"].netns, lambda: facts.fingerprint(["eth0"])) == before
    assert arrives(wires["w"], wires["a"])


def test_an_unknown_device_is_refused_before_anything_is_touched(
    wires: World, fleet: Fleet, ledger: Ledger
) -> None:
    from dataclasses import replace

    nodes = [wires["a"], replace(wires["b"], devices=("eth9",))]
    injection = Injection(cut_off(wires), nodes, lease_s=5, ledger=ledger, fleet=fleet)
    with pytest.raises(InvalidInput, match=r"node-b: no device eth9 here, only .*eth0"):
        injection.arm()
    assert not read(ledger.path).is_open()
    injection.revert()


def test_the_ledger_knows_before_it_happens(wires: World, inject: Inject, ledger: Ledger) -> None:
    injection = inject(fire=False)
    assert read(ledger.path).injections[injection.id]["state"] == "armed"
    injection.fire()
    assert read(ledger.path).injections[injection.id]["state"] == "fired"
    injection.revert()
    assert not read(ledger.path).is_open()


def test_six_hosts_fire_within_milliseconds(fleet: Fleet, ledger: Ledger) -> None:
    skews = []
    with world("abcdef") as six:
        nodes = list(six.nodes.values())
        for _ in range(3):  # a busy machine makes one late, hardly all
            fault = Partition(networks(["192.0.2.0/24"]))
            injection = Injection(fault, nodes, lease_s=20, ledger=ledger, fleet=fleet)
            injection.arm()
            injection.fire()
            assert injection.skew_ms is not None
            skews.append(injection.skew_ms)
            assert lost(nodes[0], nodes[1]) is False
            injection.revert()
    assert min(skews) < 50, skews


@pytest.mark.parametrize("seconds", [0, -5, float("nan"), 1e9])
def test_a_lease_that_makes_no_sense_is_refused(
    wires: World, fleet: Fleet, ledger: Ledger, seconds: float
) -> None:
    with pytest.raises(InvalidInput, match="lease_s"):
        Injection(cut_off(wires), [wires["a"]], lease_s=seconds, ledger=ledger, fleet=fleet)


def test_a_full_disk_keeps_no_fault_alive(
    wires: World, inject: Inject, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    injection = inject()

    def full(event: str, **_: object) -> None:
        raise InvalidInput("ledger: No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(ledger, "note", full)
        injection.revert()
    assert arrives(wires["w"], wires["a"]) and injection.to_dict()["clean"] is True
    assert read(ledger.path).is_open(), "recover will look, and find nothing"
    ledger.note("reverted", injection=injection.id)


def test_records_that_cannot_be_written_refuse_the_arming(
    wires: World, inject: Inject, state: Path
) -> None:
    (state / "records").write_text("in the way")
    with pytest.raises(NotApplied, match="node-a"):
        inject()
    assert arrives(wires["w"], wires["a"])


def test_what_ends_within_another_of_ours_changes_nothing_of_others(
    wires: World, inject: Inject
) -> None:
    """The clsact qdisc was there before the second one, and stays after it: the first one's."""
    first = inject(hook="clsact")
    second = inject(hook="clsact", peers=networks(["192.0.2.0/24"]))
    second.revert()
    assert second.to_dict()["foreign_changes"] == {}
    first.revert()
    assert first.to_dict()["foreign_changes"] == {} and first.to_dict()["clean"] is True
