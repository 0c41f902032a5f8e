"""What several GPUs of a host prove together."""

from typing import Any, cast

import pytest

from aftershock.evidence import bites
from aftershock.faults.gpu import GpuComputePressure
from aftershock.gpupressure import GpuBusy
from aftershock.hosts.channel import AgentChannel
from aftershock.inventory import Node

NODE = Node("host", "none", ("127.0.0.1",), devices=())


class Agent:
    """Two GPUs as NVML tells of them: how busy each is, or None where it doesn't tell."""

    def __init__(self, *busy: float | None) -> None:
        self.busy = busy

    def ask(self, op: str, *_: Any, **__: Any) -> Any:
        if op == "kernel_log":
            return {"at": None, "why": "not here", "xids": []}
        if op == "observe":
            asked = [{"uuid": f"GPU-{n}", "index": n, "duty": 0.6, "pid": 7} for n in (0, 1)]
            return [{"cards": asked, "level": "hardware"}]
        windows = [
            {} if one is None else {"utilisation_percent": {"mean": one}} for one in self.busy
        ]
        return [
            {"uuid": f"GPU-{n}", "lost": False, "window": window, "processes": [], "instances": []}
            for n, window in enumerate(windows)
        ]


@pytest.mark.parametrize(
    ("busy", "bit"),
    [((60, 60), True), ((60, 5), False), ((60, None), False), ((None, None), False)],
)
def test_a_fault_of_two_gpus_bites_where_both_show_it(busy: Any, bit: bool) -> None:
    fault = GpuComputePressure(("0", "1"), duty_percent=60)
    onlooker = GpuBusy(fault, [NODE])
    onlooker.look_before({"host": cast(AgentChannel, Agent(5, 5))})
    pieces = onlooker.look({"host": cast(AgentChannel, Agent(*busy))}, "one")
    assert bites(pieces, onlooker.needed) is bit, pieces
    assert next(one.seen for one in pieces if one.name == "gpu-busy").startswith("GPU 0 ")
