"""What a run says is left of its lab is looked up, not assumed."""

import pytest

from aftershock.lab.settings import LabSettings
from aftershock.lab.world import Lab
from aftershock.run.target import left_of

from .conftest import free_port

pytestmark = [pytest.mark.root]


def test_a_living_lab_is_left_in_three_ways_and_a_dead_one_in_none() -> None:
    lab = Lab.up(LabSettings(gateway_port=free_port(), zones=1, replicas=1))
    try:
        left = left_of(lab)
        assert len(left) == 3, left
        assert str(lab.pid) in left[0] and str(lab.lab_dir) in left[1]
    finally:
        lab.down()
    assert left_of(lab) == []
