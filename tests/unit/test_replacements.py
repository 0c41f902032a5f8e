"""Which pod came for which: a name that comes again is another pod, by its UID."""

from typing import Any

import pytest

from aftershock.cluster.lives import Life, born, died, seen
from aftershock.cluster.stages import Replacement, replacements
from aftershock.report.stages import cells


def life(uid: str, **more: Any) -> Life:
    return Life(uid, "db-0", "db", **more)


def only(*lives: Life) -> Replacement:
    (row,) = replacements(lives, 0.5)
    return row


def lost() -> Life:
    return life("uid-1", lost=1.0, gone=1.1, terminating=True)


WAITS = only(lost(), life("uid-2", created=1.2))
CAME = only(lost(), life("uid-2", created=1.2, scheduled=1.3, started=1.4, became_ready=2.5))
STAYED = only(life("uid-1", scheduled=0.1, started=0.2, lost=1.0, became_ready=2.5))
RESTARTED = only(
    life("uid-1", scheduled=0.1, started=2.0, restarted=True, lost=1.0, became_ready=2.5)
)


@pytest.mark.parametrize(
    ("row", "same", "told"),
    [
        (WAITS, False, "one of the same name"),
        (CAME, False, "one of the same name"),
        (STAYED, True, "the same pod"),
        (RESTARTED, True, "restarted in place"),
    ],
    ids=["waits", "came", "stayed", "restarted"],
)
def test_a_name_that_comes_again(row: Replacement, same: bool, told: str) -> None:
    assert (row.pod, row.replaces, row.deleted_s) == ("db-0", "db-0", 0.5)
    assert row.same_pod is same and cells(row.as_dict())[1] == told


def test_a_replica_that_came_and_was_lost_later_had_been_ready() -> None:
    """A soak loses a zone more than once."""
    pod = {"metadata": {"uid": "uid-2", "name": "db-0"}, "spec": {"nodeName": "n"}}
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    second = born({**pod, **ready}, 2.5, is_news=True)
    second.owner = "db"
    going = {"metadata": {**pod["metadata"], "deletionTimestamp": "now"}}
    seen(second, {**pod, **ready, **going}, 9.0)
    died(second, 9.05)
    third = life("uid-3", created=9.1, became_ready=11.0)
    first, again = replacements([lost(), second, third], 0.5)
    assert (first.ready_s, again.deleted_s, again.ready_s) == (2.0, 8.5, 10.5)
