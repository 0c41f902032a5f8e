"""What the lines are called while a service is waited for."""

from types import SimpleNamespace
from typing import cast

import pytest

from aftershock.run.session import Run
from aftershock.slo.levels import load_levels
from aftershock.slo.timeline import Timeline

EFFECT = 100.0


def run(outage_s: float, end: float) -> Run:
    """A service that fails wholly for so long after the effect, as known up to `end`."""
    timeline = Timeline()
    times = [90.0 + n / 50 for n in range(round((end - 90.0) * 50))]
    kinds = ["timeout" if EFFECT <= at < EFFECT + outage_s else "" for at in times]
    done = [at + 0.01 for at in times]
    timeline.feed(
        {
            "source": "health",
            "decided": end,
            "rate": 50.0,
            "sent": times,
            "scheduled": times,
            "done": done,
            "kind": kinds,
        }
    )
    timeline.mark("t_effect", EFFECT)
    known = SimpleNamespace(timeline=timeline, levels=load_levels("lab"), _decided=lambda: end)
    return cast(Run, known)


@pytest.mark.parametrize(
    ("outage_s", "end", "name"),
    [
        (1.0, EFFECT, "waiting"),  # nothing is decided after the effect yet
        (1.0, 100.5, "failing"),
        (1.0, 102.5, "failing"),  # the last two seconds still hold failures
        (1.0, 103.5, "recovering"),
        (0.0, 103.5, "waiting"),  # not felt yet: it may come
    ],
)
def test_good_seconds_after_bad_ones_are_called_recovering(
    outage_s: float, end: float, name: str
) -> None:
    assert Run._unproven(run(outage_s, end)) == name
