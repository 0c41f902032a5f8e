"""What a kernel tells of an RDMA device: Soft-RoCE's, since a card is in no guest.

The tree below /sys is the kernel's own; only the link by which a card says that it is one is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aftershock.agent.facts import _rdma
from aftershock.errors import Unsupported
from aftershock.faults.partition import Partition
from aftershock.faults.traffic import networks
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.inventory import Node
from aftershock.ledger import Ledger

from .fetch import ORDINARY
from .worlds import run

pytestmark = [pytest.mark.root, pytest.mark.survival, pytest.mark.one_kernel(ORDINARY)]
ETHERNET = 1
CARDS = Path("/sys/class/infiniband")
CARD, DEVICE, PEER, VLAN = "asrxe", "asroce0", "asroce1", "asroce0.5"


@pytest.fixture
def soft_roce() -> Iterator[Path]:
    """Soft-RoCE on one end of a veth, with addresses of it and of a VLAN over it."""
    run(*f"ip link add {DEVICE} type veth peer name {PEER}".split())
    try:
        run(*f"ip link add link {DEVICE} name {VLAN} type vlan id 5".split())
        run(*f"rdma link add {CARD} type rxe netdev {DEVICE}".split())
        for number, device in enumerate((DEVICE, PEER, VLAN)):
            run(*f"ip address add 10.99.{number}.1/24 dev {device}".split())
            run(*f"ip link set {device} up".split())
        yield CARDS / CARD
    finally:
        run(*f"ip link delete {DEVICE}".split())  # which takes VLAN and card along


def test_a_card_is_known_by_the_devices_that_it_speaks_through(
    soft_roce: Path, tmp_path: Path, ledger: Ledger, agents: Fleet
) -> None:
    devices = (DEVICE, VLAN, PEER)
    assert not (soft_roce / "device").exists()
    assert [_rdma(one, ETHERNET) for one in devices] == ["", "", ""], "it sends by the kernel"

    card = tmp_path / "cards" / "mlx5_0"
    (card / "device" / "net" / "eth7").mkdir(parents=True)
    (card / "ports").symlink_to((soft_roce / "ports").resolve())
    found = [_rdma(one, ETHERNET, str(card.parent)) for one in (*devices, "eth7")]
    told = "the RDMA device mlx5_0 is on it (RoCE or iWARP)"
    assert found == [told, told, "", told]

    run("mount", "--bind", str(card.parent), str(CARDS))
    try:
        host = Node("here", "none", ("127.0.0.1",), devices=(VLAN,))
        cut = Partition(networks(["10.99.2.2/32"]))
        injection = Injection(cut, [host], lease_s=60, ledger=ledger, fleet=agents)
        with pytest.raises(Unsupported, match=rf"{VLAN}: the RDMA device mlx5_0.*command fault"):
            injection.arm()
    finally:
        run("umount", str(CARDS))
