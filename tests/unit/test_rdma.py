"""Which network devices an RDMA card speaks through, by the kernel's files for it.

The layout is the kernel's (Documentation/ABI/stable/sysfs-class-infiniband); no such card is here.
"""

from pathlib import Path

import pytest

from aftershock.agent.facts import _rdma

ETHERNET, INFINIBAND = 1, 32


def card(cards: Path, name: str, own: str, speaks: list[str], real: bool = True) -> None:
    """A card with one network device of its own, and the devices that its addresses are of."""
    if real:
        (cards / name / "device" / "net" / own).mkdir(parents=True)
    ndevs = cards / name / "ports" / "1" / "gid_attrs" / "ndevs"
    ndevs.mkdir(parents=True)
    for index, device in enumerate(speaks):
        (ndevs / str(index)).write_text(device + "\n")


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    """A bond over two ports of one card, a VLAN on a second card, and Soft-RoCE on a third."""
    card(tmp_path, "mlx5_bond_0", "eth0", ["bond0", "bond0"])
    card(tmp_path, "mlx5_1", "eth2", ["eth2", "eth2.100"])
    card(tmp_path, "rxe0", "", ["veth0"], real=False)
    (tmp_path / "mlx5_1/ports/1/gid_attrs/ndevs/9").mkdir()  # an error, as unused ones are
    return tmp_path


@pytest.mark.parametrize(
    ("device", "found"),
    [
        ("eth0", "mlx5_bond_0"),
        ("bond0", "mlx5_bond_0"),  # which is what applications use
        ("eth2.100", "mlx5_1"),
        ("eth2", "mlx5_1"),
        ("eth3", ""),
        ("veth0", ""),  # its packets go through the kernel, and so through traffic control
    ],
)
def test_what_an_rdma_card_is_on(cards: Path, device: str, found: str) -> None:
    said = _rdma(device, ETHERNET, str(cards))
    assert said == (f"the RDMA device {found} is on it (RoCE or iWARP)" if found else "")


def test_infiniband_is_known_by_its_kind(cards: Path) -> None:
    assert _rdma("ib0", INFINIBAND, str(cards)) == "it is InfiniBand"
