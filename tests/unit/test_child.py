"""A generator's process: it comes before others, for its own lateness would be read as theirs."""

import os
from pathlib import Path

import pytest

from aftershock.load.child import Child
from tests.agent.wires import wait_for

pytestmark = pytest.mark.root


def test_it_comes_before_others_within_its_session_and_among_sessions() -> None:
    child = Child("a sleeper", lambda line: None)
    child.start(["sleep", "60"], {})
    try:
        assert child.pid
        group = Path(f"/proc/{child.pid}/autogroup")
        has_groups = group.exists() and bool(group.read_text().strip())
        assert wait_for(lambda: os.getpriority(os.PRIO_PROCESS, child.pid or 0) == -10)
        assert not has_groups or wait_for(lambda: group.read_text().strip().endswith("nice -10"))
    finally:
        child.stop(grace_s=0)
    assert not child.alive()
