"""How many replicas an autoscaler wants: Kubernetes' own worked examples and edges."""

from __future__ import annotations

from typing import Any

import pytest

from aftershock.lab.kubernetes.scaling import Memory, decide, proposed


@pytest.mark.parametrize(
    ("current", "values", "waiting", "target", "wanted"),
    [
        (3, [60, 60, 60], 0, 30, 6),
        (3, [32, 31, 30], 0, 30, 3),  # within the tolerance of 10 %
        (4, [10, 10, 10, 10], 0, 30, 2),
        (3, [50, 50], 1, 30, 4),  # one that does not run yet counts as idle: 33 on average
        (3, [40, 40], 1, 30, 3),  # and then it is enough
        (3, [60, 60, None], 0, 30, 4),  # so does one without a metric, when there is too much
        (3, [10, 10, None], 0, 30, 2),  # and as loaded as it may be, when there is too little
        (3, [20, 20], 1, 30, 2),  # one that waits is left out when there is too little
    ],
)
def test_what_the_metric_asks_for(
    current: int, values: list[float | None], waiting: int, target: float, wanted: int
) -> None:
    told = {str(n): value for n, value in enumerate(values)}
    assert proposed(current, told, waiting, target) == wanted


def decided(
    behaviour: dict[str, Any], steps: list[tuple[float, int]], most: int = 100
) -> list[int]:
    """The sizes after each (moment, wanted), from 3 replicas."""
    spec = {"minReplicas": 1, "maxReplicas": most, "behavior": behaviour}
    memory, size, sizes = Memory(), 3, []
    for now, wanted in steps:
        size = decide(spec, size, wanted, 0.0, memory, now).replicas
        sizes.append(size)
    return sizes


@pytest.mark.parametrize(
    ("behaviour", "steps", "most", "sizes"),
    [
        # By default up by four or to the double in 15 s, whichever is more.
        ({}, [(0, 50), (1, 50), (15.1, 50), (31, 50)], 100, [7, 7, 14, 28]),
        ({}, [(0, 50)], 6, [6]),
        # And down to the highest that was wanted in the last five minutes.
        ({}, [(0, 5), (10, 2), (200, 2), (301, 2)], 100, [5, 5, 5, 2]),
        ({"scaleDown": {"stabilizationWindowSeconds": 0}}, [(0, 1)], 100, [1]),
        (
            {"scaleDown": {"stabilizationWindowSeconds": 0, "policies": [
                {"type": "Pods", "value": 1, "periodSeconds": 10}]}},
            [(0, 1), (5, 1), (10.1, 1)], 100, [2, 2, 1],
        ),
        # Up to what all looks of the window agree on.
        (
            {"scaleUp": {"stabilizationWindowSeconds": 3}},
            [(0, 3), (2, 6), (4, 5)], 100, [3, 3, 5],
        ),
        ({"scaleUp": {"selectPolicy": "Disabled"}}, [(0, 9)], 100, [3]),
        ({"scaleUp": {"selectPolicy": "Min"}}, [(0, 90)], 100, [6]),
    ],
)  # fmt: skip
def test_how_far_it_goes_at_once(
    behaviour: dict[str, Any], steps: list[tuple[float, int]], most: int, sizes: list[int]
) -> None:
    assert decided(behaviour, steps, most) == sizes


def test_what_held_it_back_is_told() -> None:
    spec = {"minReplicas": 2, "maxReplicas": 6}
    assert decide(spec, 3, 9, 0, Memory(), 0).limited == "TooManyReplicas"
    assert decide({**spec, "maxReplicas": 60}, 3, 9, 0, Memory(), 0).limited == "ScaleUpLimit"
    memory = Memory([(0.0, 4)])
    found = decide(spec, 4, 2, 0, memory, 10)
    assert (found.replicas, found.stabilised) == (4, True)
