"""A Lease in the target's namespace: one run at a time, whatever host it is on."""

import json
from typing import Any

import pytest

from aftershock.cluster import Cluster, objects
from aftershock.cluster.lock import HOLDER, NAME, LeaseLock, ask, held
from aftershock.ledger import Ledger, read, take_back
from aftershock.lock import Occupied
from aftershock.run.alone import TargetLock

from .conftest import Lab, until


@pytest.fixture
def cluster(lab: Lab, core: Any) -> Any:
    core.create_namespace({"metadata": {"name": "inference"}})
    made = Cluster(str(lab.kubeconfig), "inference")
    yield made
    made.close()


def elsewhere(cluster: Cluster, **change: Any) -> None:
    """The Lease's holder is a process on another host now, which renews it no more."""
    place = {"namespace": "inference", "name": NAME}
    lease = objects.get(cluster, "lease", place)
    assert lease
    holder = json.loads(lease["metadata"]["annotations"][HOLDER]) | {"boot": "another"} | change
    objects.patch(
        cluster, "lease", place, {"metadata": {"annotations": {HOLDER: json.dumps(holder)}}}
    )


def test_a_namespace_has_one_holder_and_orders_reach_it(cluster: Cluster) -> None:
    first = LeaseLock(cluster, "the first run")
    assert first.acquire()
    assert (held(cluster) or {})["what"] == "the first run"
    elsewhere(cluster)
    with pytest.raises(Occupied, match=r"inference at .* is taken by the first run \(process"):
        LeaseLock(cluster, "the second", duration_s=6).acquire()
    assert LeaseLock(cluster, "its own day's", first.token).acquire()
    assert ask(cluster, {"order": "abort", "by": "alice"})
    assert until(lambda: first.order) == {"order": "abort", "by": "alice"}
    first.release()
    first.release()
    assert held(cluster) is None and not ask(cluster, {"order": "abort"})


def test_one_that_was_silent_for_its_duration_is_taken_over(cluster: Cluster) -> None:
    dead = LeaseLock(cluster, "a run that died", duration_s=1)
    assert dead.acquire()
    dead._over.set()  # no more renewals, and no deletion: as after SIGKILL
    elsewhere(cluster)
    heir = LeaseLock(cluster, "its heir")
    assert heir.acquire()
    assert heir.stale and heir.stale["what"] == "a run that died"
    dead.release()
    assert (held(cluster) or {})["what"] == "its heir", "what another holds is not deleted"
    heir.release()


def test_recover_deletes_the_lease_of_a_dead_run(cluster: Cluster, book: Ledger) -> None:
    lock = TargetLock("shop", cluster, "a run")
    lock.acquire()
    lock.note(book)
    (entry,) = read(book.path).undos.values()
    assert "is deleted" in take_back(entry["kind"], entry["module"], entry["undo"])
    assert held(cluster) is None
    lock.release()
    assert not read(book.path).is_open()
