"""What breaks in the lab is felt, noticed and mended as in the real thing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace

from aftershock.lab.settings import LabSettings
from aftershock.lab.world import Lab, gateway_status

from .labs import on_node, python_on, server_pid, wait_until
from .test_lab_serving import call

WATCH_MEMORY = """
import json, time, pynvml
pynvml.nvmlInit()
card = pynvml.nvmlDeviceGetHandleByIndex(0)
def used(): return pynvml.nvmlDeviceGetMemoryInfo(card).used
def pids(): return [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(card)]
print(json.dumps([used(), pids()]), flush=True)
low, until = used(), time.monotonic() + 8
while time.monotonic() < until and low > 1 << 30:
    low = min(low, used())
    time.sleep(0.002)
while time.monotonic() < until and used() < 60 << 30:
    time.sleep(0.02)
print(json.dumps([low, used(), pids()]), flush=True)
"""


def up(lab: Lab) -> dict[str, bool]:
    return {slot.node: slot.up for slot in gateway_status(lab)}


def healthy(lab: Lab, times: int) -> int:
    return sum(call(lab, "/health")[0] == 200 for _ in range(times))


def test_a_killed_servers_memory_returns_and_requests_go_on(lab: Lab) -> None:
    node = lab.inventory.nodes[3]
    with python_on(node, WATCH_MEMORY) as watch:
        assert watch.stdout
        before, holders = json.loads(watch.stdout.readline())
        assert before > 70 << 30
        assert len(holders) == 1
        os.kill(server_pid(lab, node), signal.SIGKILL)
        assert healthy(lab, 24) == 24
        low, after, new_holders = json.loads(watch.stdout.readline())
    assert low == 600 << 20, "the card holds only what the driver keeps"
    assert after > 60 << 30, "the server's successor allocates again"
    assert new_holders != holders
    wait_until(lambda: all(up(lab).values()), 5, "every slot up again")


def test_a_silent_node_goes_down_and_comes_back(lab: Lab) -> None:
    node = lab.inventory.nodes[0]
    with on_node(node, "ip", "link", "set", "eth0", "down") as done:
        assert done.wait() == 0
    wait_until(lambda: not up(lab)[node.name], 3, f"{node.name} down")
    assert sum(up(lab).values()) == 5
    assert healthy(lab, 12) == 12
    with on_node(node, "ip", "link", "set", "eth0", "up") as done:
        assert done.wait() == 0
    wait_until(lambda: up(lab)[node.name], 3, f"{node.name} up")


def test_nodes_reach_each_other_over_both_protocols(lab: Lab) -> None:
    first, *_, last = lab.inventory.nodes
    assert lab.inventory.witness
    for node in (last, lab.inventory.witness):
        for address in first.addresses:
            code = f"import socket; socket.create_connection(({address!r}, 9), 2)"
            with python_on(
                node, f"try:\n {code}\nexcept ConnectionRefusedError: print('there')"
            ) as p:
                assert p.stdout
                assert p.stdout.read() == "there\n"


def test_utilisation_rises_while_it_works(lab: Lab) -> None:
    node = lab.inventory.nodes[0]
    sample = (
        "import pynvml as n; n.nvmlInit(); h = n.nvmlDeviceGetHandleByIndex(0);"
        "print(n.nvmlDeviceGetUtilizationRates(h).gpu)"
    )

    def utilisation() -> int:
        with python_on(node, sample) as asked:
            assert asked.stdout
            return int(asked.stdout.read())

    wait_until(lambda: utilisation() == 0, 5, "an idle card")
    body = {"prompt": "long", "max_tokens": 400, "ignore_eos": True}
    code = f"""
import json, urllib.request
request = urllib.request.Request("http://{node.addresses[0]}:8000/v1/completions",
    json.dumps({body!r}).encode())
urllib.request.urlopen(request).read()"""
    with python_on(node, code) as working:
        wait_until(lambda: utilisation() >= 30, 5, "a busy card")
        assert working.wait() == 0


def test_a_naive_gateway_loses_the_dead_zones_third(settings: LabSettings) -> None:
    with Lab.up(replace(settings, gateway="naive", connect_timeout_ms=100)) as lab:
        for node in lab.inventory.in_zone("az-a"):
            with on_node(node, "ip", "link", "set", "eth0", "down") as done:
                assert done.wait() == 0
        assert healthy(lab, 30) == 20
        assert {slot.status for slot in gateway_status(lab)} == {"no check"}


def test_a_gpu_that_is_taken_keeps_the_lab_from_coming_up(settings: LabSettings) -> None:
    """The message carries the server's own words."""
    greedy = replace(
        settings, up_within_s=2, model_args=("--max-model-len", "999999999"), replicas=1
    )
    try:
        Lab.up(greedy).down()
    except Exception as why:
        assert "max seq len (999999999) is larger" in str(why)
    else:
        raise AssertionError("it came up")


def test_the_machines_own_network_gets_only_the_gateway(lab: Lab) -> None:
    ours = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    mine = [line for line in ours.splitlines() if f":{lab.settings.gateway_port} " in line]
    assert len(mine) == 1
    assert f"127.0.0.1:{lab.settings.gateway_port}" in mine[0]
