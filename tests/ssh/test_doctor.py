"""`aftershock doctor` of hosts that are reached by SSH."""

import platform
import time

import pytest

from aftershock.doctor import examine

from .conftest import Far
from .sshds import free_port

pytestmark = pytest.mark.root


def test_every_host_is_asked_at_once_and_one_that_is_silent_is_a_line(far: Far) -> None:
    refused, silent = {"port": free_port()}, {"address": "192.0.2.1", "timeout_s": 1.0}
    nodes = [
        far("good", devices=("lo",)),
        far("refused", ssh=refused),
        *(far(f"silent-{number}", ssh=silent) for number in range(4)),
    ]
    began = time.monotonic()
    report = examine(nodes, far("witness", devices=("lo",)))
    took = time.monotonic() - began
    good, *broken, witness = report.hosts
    assert report.ready is False and took < 4.0, "not one after the other"
    assert good.error is None and good.survey["kernel"] == platform.release()
    assert all(host.error and host.name in host.error for host in broken)
    rows = [line.split() for line in report.lines()[1:8]]
    assert [row[0] for row in rows if row[1] == "✗"] == [host.name for host in broken]
    assert witness.ready and not any(check.needed for check in witness.checks)
    (clock,) = [check for check in good.checks if check.name == "clock"]
    assert clock.ok is True, "it is this machine's own"
