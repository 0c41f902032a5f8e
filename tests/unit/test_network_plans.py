"""What each network fault plans for a host, and what it refuses: without a host."""

from collections.abc import Callable
from typing import Any

import pytest

from aftershock.errors import InvalidFault, Unsupported
from aftershock.faults.base import DeviceFacts, Facts, Fault, PerNode, on
from aftershock.faults.command import Command
from aftershock.faults.dns import Dns
from aftershock.faults.partition import Partition
from aftershock.faults.reset import Reset
from aftershock.faults.shaping import Bandwidth, Corrupt, Delay, Duplicate, Loss, Reorder
from aftershock.faults.traffic import EVERYONE, Traffic, networks, parse_ports

CARD = DeviceFacts("eth0", 2, tcx=True)
GATEWAY, CONTROLLER = "10.0.0.1", "10.9.9.9"
PROTECTED = {
    "controller": (CONTROLLER,),
    "gateway": (GATEWAY,),
    "metadata": ("169.254.169.254", "fd00:ec2::254"),
}


def host(*devices: DeviceFacts, **more: Any) -> Facts:
    told = {"kernel": "6.8", "machine": "x86_64", "root": True, "bpf": "", **more}
    return Facts(devices=devices or (CARD,), **told)


def options(fault: Fault, facts: Facts | None = None) -> dict[str, Any]:
    """What the first step is told."""
    return dict(fault.plan(facts or host()).steps[0].options)


@pytest.mark.parametrize(
    ("fault", "qdisc"),
    [
        (Delay(100), {"kind": "netem", "delay_ms": 100, "jitter_ms": 0.0}),
        (
            Delay(100, 20, 0.25, "normal"),
            {"delay_ms": 100, "jitter_ms": 20, "delay_correlation": 0.25, "distribution": "normal"},
        ),
        (Duplicate(0.1, 0.5), {"duplicate": 0.1, "duplicate_correlation": 0.5}),
        (Corrupt(0.02), {"kind": "netem", "corrupt": 0.02}),
        (Reorder(0.3, 15, 0.5, 5), {"reorder": 0.3, "delay_ms": 15, "gap": 5}),
        (
            Bandwidth(8000, queue_ms=100),
            {"kind": "tbf", "rate_bit": 8e6, "burst_bytes": 10_000, "limit_bytes": 110_000},
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_queue_of_ours(fault: Fault, qdisc: dict[str, Any]) -> None:
    plan = fault.plan(host())
    told = plan.steps[0].options
    assert plan.steps[0].kind == "divert" and told["directions"] == ["ingress", "egress"]
    assert qdisc.items() <= told["qdisc"].items()


@pytest.mark.parametrize(
    ("fault", "model", "rate"),
    [
        (Loss(0.1), (0, 0, 0.1, 0.1), 0.1),
        (Loss(0.1, correlation=0.5), (0.05, 0.45, 0, 1), 0.1),
        (Loss(p=0.01, r=0.1, loss_in_bad=0.8), (0.01, 0.1, 0, 0.8), 0.8 / 11),
        (Loss(1.0), (0, 0, 1, 1), 1),
    ],
)
def test_loss_is_a_model_of_two_states(fault: Loss, model: tuple[float, ...], rate: float) -> None:
    loss = options(fault)["loss"]
    told = [loss[name] for name in ("to_bad", "to_good", "in_good", "in_bad")]
    assert told == pytest.approx(list(model))
    assert fault.rate == pytest.approx(rate)
    if loss["to_bad"]:  # the share lost in the long run, from the model's own chances
        bad = loss["to_bad"] / (loss["to_bad"] + loss["to_good"])
        assert bad * loss["in_bad"] + (1 - bad) * loss["in_good"] == pytest.approx(rate)


def test_both_directions_are_felt_by_a_round_trip() -> None:
    assert Delay(50).effect.size == 100
    assert Delay(50, traffic=Traffic(direction="egress")).effect.size == 50
    assert Loss(0.5).effect.size == pytest.approx(0.75)


def test_queries_are_dropped_also_to_a_gateway_that_resolves() -> None:
    match = options(Dns(), host(protected=PROTECTED))["match"]
    assert match["protocols"] == ["udp", "tcp"]
    assert match["peer_ports"] == [[53, 53], [853, 853]]
    assert f"{GATEWAY}/32" not in match["spare"] and f"{CONTROLLER}/32" in match["spare"]
    assert options(Dns(over_tls=False))["match"]["peer_ports"] == [[53, 53]]


def test_several_devices_have_a_step_each() -> None:
    old = DeviceFacts("eth1", 3, tcx=False)
    steps = Delay(5).plan(host(CARD, old)).steps
    assert [(s.options["device"], s.options["hook"]) for s in steps] == [
        ("eth0", "tcx"),
        ("eth1", "clsact"),
    ]


@pytest.mark.parametrize(
    ("allowed", "spared"),
    [
        ({}, [CONTROLLER, GATEWAY, "169.254.169.254"]),
        ({"cut_gateway": True}, [CONTROLLER, "169.254.169.254"]),
        ({"cut_metadata": True, "cut_controller": True}, [GATEWAY]),
    ],
)
def test_what_is_protected_is_cut_only_when_asked(
    allowed: dict[str, bool], spared: list[str]
) -> None:
    match = options(Partition(EVERYONE, **allowed), host(protected=PROTECTED))["match"]
    assert [net for net in match["spare"] if "." in net] == [f"{one}/32" for one in spared]


def test_a_prefix_that_covers_the_controller_is_refused() -> None:
    fault = Partition(networks(["10.9.0.0/16"]))
    with pytest.raises(InvalidFault, match=r"10\.9\.0\.0/16 covers the controller"):
        fault.plan(host(protected=PROTECTED))
    assert Partition(fault.peers, cut_controller=True).plan(host(protected=PROTECTED)).steps


@pytest.mark.parametrize(
    ("fault", "facts", "said"),
    [
        (Delay(5), host(lacks={"netem": "no sch_netem"}), "no sch_netem.*doctor"),
        (Bandwidth(100), host(lacks={"veth": "no veth"}), "no veth"),
        (Reset(), host(lacks={"sock_destroy": "no such option"}), "no such option"),
        (Reset(), host(root=False), "needs root"),
        (Loss(0.1), host(root=False), "needs root"),
        (Loss(0.1), host(DeviceFacts("ib0", 4, True, rdma="it is InfiniBand")), "command fault"),
        (
            PerNode("partition", {"a": Partition(EVERYONE)}, {}),
            host(),
            "ask for one node's fault",
        ),
    ],
)
def test_a_host_that_cannot(fault: Fault, facts: Facts, said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        fault.plan(facts)


def test_rdma_is_accepted_when_told() -> None:
    ib = host(DeviceFacts("ib0", 4, True, rdma="it is InfiniBand"))
    assert Loss(0.1, traffic=Traffic(allow_rdma=True)).plan(ib).steps


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Loss(140), r"share 140: a share from 0 to 1$"),
        (lambda: Loss(14), r"14 % is 0\.14"),
        (Loss, "either share.*or the model"),
        (lambda: Loss(0.1, p=0.1, r=0.1), "either share.*or the model"),
        (lambda: Loss(p=0.1), "never turn good"),
        (lambda: Loss(0.1, correlation=1), "correlation 1"),
        (lambda: Loss(p=0.1, r=0.1, loss_in_bad=0), "neither state"),
        (lambda: Delay(0), "delay_ms 0: more than 0"),
        (lambda: Delay(-1), "delay_ms -1"),
        (lambda: Delay(10, 20), "jitter_ms 20 is above delay_ms 10"),
        (lambda: Delay(10, correlation=0.5), "one of jitter"),
        (lambda: Delay(10, 5, 0, "gaussian"), "distribution 'gaussian': one of uniform"),  # type: ignore[arg-type]
        (lambda: Duplicate(0), "nothing would happen"),
        (lambda: Corrupt(2), r"2 % is 0\.02"),
        (lambda: Reorder(0.5, 0), "delay_ms 0"),
        (lambda: Reorder(0.5, gap=-1), "gap -1"),
        (lambda: Bandwidth(0), "rate_kbit 0: from 8"),
        (lambda: Bandwidth(100, queue_ms=0), "queue_ms 0"),
        (lambda: Reset(every_s=-1), "every_s -1"),
        (lambda: Reset(traffic=Traffic(protocols=("udp",))), "only TCP"),
        (lambda: Reset(traffic=Traffic(direction="egress")), "both directions"),
        (lambda: Dns(traffic=Traffic(protocols=("udp",))), "DNS's own"),
        (lambda: Traffic(protocols=("sctp",)), "protocol 'sctp': some of tcp"),
        (lambda: Traffic(peer_ports=((90, 80),)), "ports 90 to 80"),
        (lambda: Traffic(peer_ports=((0, 80),)), "ports 0 to 80"),
        (lambda: Traffic(protocols=("icmp",), local_ports=((1, 2),)), "icmp has no ports"),
        (lambda: parse_ports("https"), "give them as 53"),
        (lambda: Command((), ("x",)), "no apply"),
        (lambda: Command(("x",), ()), "no undo"),
        (lambda: Command(("x",), ("y",), timeout_s=0), "timeout_s 0"),
    ],
)
def test_nonsense_is_refused_before_a_host_is_touched(
    make: Callable[[], object], said: str
) -> None:
    with pytest.raises(InvalidFault, match=said):
        make()


def test_ports() -> None:
    assert parse_ports(" 53, 8000-8010 ") == ((53, 53), (8000, 8010)) and parse_ports("") == ()


def test_each_node_has_its_own() -> None:
    one, other = Partition(networks(["10.0.0.5"])), Partition(networks(["fd00::5"]))
    both = PerNode("partition", {"a": one, "b": other}, {"shape": "ring"})
    assert on(both, "b") is other and on(one, "b") is one
    assert both.cuts("10.0.0.5") and both.cuts("fd00::5") and not both.cuts("10.0.0.6")
    assert both.to_dict()["by_node"]["a"]["peers"] == ["10.0.0.5/32"]
