"""A day against a cluster holds its Lease, and hears through it who is on another host."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aftershock.cluster import Cluster
from aftershock.cluster.lock import LeaseLock, held
from aftershock.errors import InvalidInput
from aftershock.gameday import commands
from aftershock.gameday.check import check
from aftershock.lock import Occupied
from tests.kubernetes.conftest import Lab

from .conftest import Site, until

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def shop(site: Site, tmp_path: Path) -> Iterator[Cluster]:
    """The lab's API, which the plan's target names."""
    lab = Lab(tmp_path)
    cluster = Cluster(str(lab.kubeconfig), "default")
    site.folder.joinpath("target.yaml").write_text(
        "gateway_url: http://127.0.0.1:9\nmodel: m\n"
        f"kubernetes: {{kubeconfig: {lab.kubeconfig}, namespace: default}}\n"
    )
    yield cluster
    cluster.close()
    lab.down()


def test_from_another_host_it_is_aborted_through_the_lease(
    site: Site, shop: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write({"variables": {"hold_s": 60}}, {}, target="target.yaml", may_abort=["alice"])
    with site.held() as process:
        until(lambda: site.notes("tiny-1") == ["broken"])
        assert (held(shop) or {})["what"] == "the game day 'A day of tiny things'"
        with pytest.raises(Occupied, match=r"namespace default at .* is taken by the game day"):
            LeaseLock(shop, "a run by hand").acquire()
        with monkeypatch.context() as elsewhere:  # which has none of this host's files
            elsewhere.setenv("AFTERSHOCK_JOURNAL", str(tmp_path / "another"))
            elsewhere.setenv("AFTERSHOCK_STATE", str(tmp_path / "another"))
            elsewhere.setenv("SUDO_USER", "alice")
            with pytest.raises(InvalidInput, match="no game day goes on here"):
                list(commands.order("abort", None))
            asked = time.monotonic()
            (said,) = commands.order("abort", str(site.plan))
            assert said == "abort asked of whoever holds namespace default, by its Lease"
        until(lambda: site.notes("tiny-1") == ["broken", "healed"])
        assert time.monotonic() - asked < 20, "at once: its run would have held for a minute"
        assert process.wait(60) == 1
    assert site.notes("tiny-2") == []
    assert site.told.stopped.startswith("aborted by alice at 20")
    assert held(shop) is None, "nothing of ours stays in the cluster"


@pytest.mark.parametrize(
    ("experiment", "mark", "why"),
    [
        ("tiny-1.json", "ok", "the plan breaks no host itself, which would want more: "),
        (str(EXPERIMENTS / "network-partition.json"), "wrong", ""),
    ],
)
def test_hosts_that_cannot_be_reached_are_in_the_way_of_a_day_that_breaks_them(
    site: Site, shop: Cluster, experiment: str, mark: str, why: str
) -> None:
    assert shop.namespace == "default"
    site.write({"file": experiment}, target="target.yaml")
    (line,) = (one for one in check(str(site.plan)).lines() if "doctor of target.yaml" in one)
    assert line.startswith(f"{mark:<6} doctor of target.yaml: {why}"), line
    assert "agent:" in line or "ssh" in line, "and how they could be reached"


def test_what_holds_it_but_is_no_day_is_not_asked(site: Site, shop: Cluster) -> None:
    site.write({}, target="target.yaml")
    run = LeaseLock(shop, "the run 'by hand'")
    run.acquire()
    with pytest.raises(
        InvalidInput, match=r"is taken by the run 'by hand' .* which is no game day"
    ):
        list(commands.order("abort", str(site.plan)))
    with pytest.raises(Occupied):
        site.hold()
    run.release()
    assert site.hold() and held(shop) is None
