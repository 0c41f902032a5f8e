"""When and where a soak's faults are: by its seed, with room for each; and what makes no sense."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftershock import run as runs
from aftershock.errors import AftershockError
from aftershock.run.judging import until_broken_again
from aftershock.run.settings import Settings
from aftershock.run.soaking import KINDS, planned, soak

ZONES = ("az-a", "az-b", "az-c")


@settings(deadline=None)
@given(st.integers(), st.floats(10, 1e5), st.floats(5, 1e4), st.floats(1, 100))
def test_faults_are_about_so_far_apart_and_have_room(
    seed: int, lasts_s: float, every_s: float, room_s: float
) -> None:
    found = planned(seed, lasts_s, every_s, room_s, ZONES, KINDS)
    assert found == planned(seed, lasts_s, every_s, room_s, ZONES, KINDS)
    times = [0.0, *(one.at_s for one in found)]
    for earlier, later in pairwise(times):
        assert 0.49 * every_s <= later - earlier <= 1.51 * every_s
    assert times[-1] + (room_s if found else 0) <= lasts_s + 1e-3
    assert lasts_s - times[-1] <= 1.5 * every_s + room_s + 1e-3, "as many as fit"
    assert {one.zone for one in found} <= set(ZONES) and {one.kind for one in found} <= set(KINDS)


def test_another_seed_draws_others() -> None:
    first, other = (planned(seed, 1e5, 100, 60, ZONES, KINDS) for seed in (1, 2))
    assert first != other
    assert {one.zone for one in first} == set(ZONES) and {one.kind for one in first} == set(KINDS)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ((600, "fail_zone", "", 5, 120), "soak_s is 40 and every_s 600: no fault fits in"),
        ((0, "fail_zone", "", 5, 120), "every_s must be above 0"),
        (("often", "fail_zone", "", 5, 120), "every_s"),
        ((10, "drop_zone", "", 5, 120), "faults has 'drop_zone': give some of fail_zone, part"),
        ((10, " ", "", 5, 120), "faults has 'none'"),
        ((5, "fail_zone", "az-z", 5, 120), "zones has 'az-z': give some of az-a, az-b, az-c"),
        ((5, "fail_zone", "", 0, 120), "most_drift_percent_per_h is 0: give a percentage above 0"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(told: Any, sentence: str) -> None:
    run = SimpleNamespace(
        settings=Settings(soak_s=40, hold_s=2),
        target=SimpleNamespace(inventory=SimpleNamespace(zones=lambda: ZONES)),
        breaking=SimpleNamespace(foreseeing=False),
    )
    with runs.entered(run), pytest.raises(AftershockError) as raised:  # type: ignore[arg-type]
        soak(*told)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_the_first_faults_figures_end_where_the_next_one_begins() -> None:
    fired = [{"fired_at_monotonic_s": at} for at in (10.0, 10.2, None, 60.0, 90.0)]
    assert until_broken_again(fired, 30.0, 200.0) == 60.0
    assert until_broken_again(fired, 95.0, 200.0) == 200.0
    assert until_broken_again(fired, None, 200.0) == 200.0
