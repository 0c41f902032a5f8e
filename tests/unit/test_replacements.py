"""Which pod came for which: a name that comes again is another pod, by its UID."""

from typing import Any

import pytest

from aftershock.cluster.lives import Life
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
