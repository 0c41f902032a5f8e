"""What can't be swapped out, or not without killing; tests/kernel/test_host.py swaps for good."""

import sys
from typing import Any

import pytest
from cgroups import HOLDER, V1, group, running

from aftershock.errors import InvalidFault, NotApplied
from aftershock.faults.processes import Processes
from aftershock.faults.swapping import SwapOut

pytestmark = pytest.mark.root


@pytest.mark.parametrize("share", [-0.1, 1])
def test_a_share_that_makes_no_sense_is_refused(share: float) -> None:
    with pytest.raises(InvalidFault, match="0 to less than 1"):
        SwapOut(Processes(pid=9), keep_share=share)


def test_a_bound_that_would_kill_is_not_taken(make: Any) -> None:
    said = "never kills: it needs memory.high" if V1 else "nobody could tell from chance"
    with group("memory") as made, running(sys.executable, "-c", HOLDER, "1", within=made) as one:
        with pytest.raises(NotApplied, match=said):
            make(SwapOut(Processes(pid=one.pid)))
        assert one.poll() is None
