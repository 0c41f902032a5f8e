"""A day against a cluster holds its Lease, and hears through it who is on another host."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aftershock.cluster import Cluster
from aftershock.cluster.lock import LeaseLock, held
from aftershock.errors import InvalidInput
from aftershock.gameday import commands
from aftershock.lock import Occupied
from tests.kubernetes.conftest import Lab

from .conftest import Site, until


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
            (said,) = commands.order("abort", str(site.plan))
            assert said == "abort asked of whoever holds namespace default, by its Lease"
        assert process.wait(60) == 1
    assert site.notes("tiny-1") == ["broken", "healed"] and site.notes("tiny-2") == []
    assert site.told.stopped.startswith("aborted by alice at 20")
    assert held(shop) is None, "nothing of ours stays in the cluster"


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
