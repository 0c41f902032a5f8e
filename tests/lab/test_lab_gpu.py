"""What is done to a node's GPU is felt by the model server that shares it, and by no other."""

import json
import time
from http.client import HTTPConnection
from statistics import median
from typing import Any

import pytest

from aftershock.faults.gpu import GpuComputePressure
from aftershock.faults.gpuslow import GpuSlowdown
from aftershock.hosts.fleet import Fleet
from aftershock.injection import Injection
from aftershock.lab.settings import LabSettings
from aftershock.lab.world import Lab
from aftershock.ledger import Ledger

from .labs import free_port

pytestmark = pytest.mark.root


def took_s(lab: Lab) -> float:
    """The usual time of 60 tokens, of which GPU time is a half."""
    body = json.dumps(
        {"prompt": "Hi", "max_tokens": 60, "ignore_eos": True, "model": "deepseek-7b"}
    )
    times = []
    for _ in range(3):
        connection = HTTPConnection("127.0.0.1", lab.settings.gateway_port, timeout=30)
        began = time.monotonic()
        connection.request("POST", "/v1/completions", body)
        assert connection.getresponse().status == 200
        times.append(time.monotonic() - began)
        connection.close()
    return median(times)


@pytest.mark.parametrize(
    "fault",
    [
        GpuComputePressure(duty_percent=90, used_by="engine_core"),
        GpuSlowdown(clock_mhz=660, allowed=True, used_by="engine_core"),
    ],
    ids=lambda fault: fault.name,
)
def test_a_shared_or_slow_gpu_takes_longer_until_the_heal(fault: Any) -> None:
    settings = LabSettings(zones=1, nodes_per_zone=1, replicas=1, gateway_port=free_port())
    with Lab.up(settings) as lab:
        fleet, ledger = Fleet(), Ledger.open("shared-gpu")
        try:
            alone = took_s(lab)
            injection = Injection(
                fault, lab.inventory.nodes, lease_s=60, ledger=ledger, fleet=fleet
            )
            injection.arm()
            injection.fire()
            assert injection.observe()["bit"] is True, injection.evidence
            pressed, until = took_s(lab), time.monotonic() + 15
            while pressed <= 1.2 * alone and time.monotonic() < until:
                pressed = took_s(lab)  # who presses may have waited for a processor
            injection.revert()
            time.sleep(1.2)  # what was busy in the last second counts
            after = took_s(lab)
        finally:
            fleet.close()
            ledger.close()
    assert pressed > 1.2 * alone and after < (alone + pressed) / 2, (alone, pressed, after)
