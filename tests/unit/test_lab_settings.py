"""A lab's settings, places, texts and inventory, all pure."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from aftershock.errors import InvalidInput
from aftershock.inventory import Inventory
from aftershock.lab import gateway, network
from aftershock.lab.pods import is_model_server, repository
from aftershock.lab.settings import EDGE_PLACE, LabSettings
from aftershock.lab.workload import model_args
from aftershock.lab.world import inventory_of


def test_the_default_has_three_zones_of_two_nodes() -> None:
    places = LabSettings().places()
    assert [place.name for place in places] == [
        *("node-a-1", "node-a-2", "node-b-1", "node-b-2", "node-c-1", "node-c-2")
    ]
    assert [place.zone for place in places] == ["az-a"] * 2 + ["az-b"] * 2 + ["az-c"] * 2


def test_addresses_are_private_and_distinct_in_the_largest_lab() -> None:
    places = (EDGE_PLACE, *LabSettings(zones=26, nodes_per_zone=50).places())
    addresses = [ip_address(a) for place in places for a in (place.ipv4, place.ipv6)]
    assert len(set(addresses)) == 2 * len(places)
    assert all(address.is_private for address in addresses)


def test_settings_survive_json() -> None:
    settings = LabSettings(model_args=("--max-num-seqs", "4"), state_dir=Path("/tmp/x"))
    assert LabSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"zones": 0}, "zones is 0: it must be 1 to 26"),
        ({"zones": 2, "replicas": 5}, "replicas is 5: it must be 0 to 4"),
        ({"gateway_port": 70000}, "gateway_port is 70000"),
        ({"gateway": "nginx"}, "unknown gateway 'nginx': it is resilient, canary, naive"),
        ({"server_startup_s": -1}, "server_startup_s is -1"),
    ],
)
def test_nonsense_is_refused_with_value_and_range(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        LabSettings(**fields)


def test_the_state_directory_follows_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERSHOCK_STATE", "/tmp/elsewhere")
    assert LabSettings().state_dir == Path("/tmp/elsewhere")
    monkeypatch.delenv("AFTERSHOCK_STATE")
    assert LabSettings().state_dir == Path("/run/aftershock")


def test_the_inventory_points_into_the_lab() -> None:
    inventory = inventory_of(LabSettings(), 4711, "/cache/libs", "/k")
    node = inventory.in_zone("az-b")[0]
    assert node.netns == "/proc/4711/root/run/netns/node-b-1"
    assert node.enter_pid == 4711
    assert node.env["MOCKGPU_LEDGER"] == "/dev/shm/gpu-node-b-1"
    assert node.env["LD_LIBRARY_PATH"].startswith("/cache/libs")
    assert inventory.witness
    assert inventory.witness.zone not in inventory.zones()
    assert Inventory.from_dict(json.loads(json.dumps(inventory.to_dict()))) == inventory


def test_the_resilient_gateway_checks_and_retries_and_the_naive_one_does_not() -> None:
    resilient = gateway.config(LabSettings())
    naive = gateway.config(LabSettings(gateway="naive"))
    for text in (resilient, naive):
        assert "bind 127.0.0.1:18080\n" in text
        assert text.count(" namespace EDGE\n") == 6
    assert "inter 500ms fall 2 rise 1" in resilient
    assert "redispatch" in resilient
    assert "check" not in naive
    assert "retries 0" in naive


def test_stats_become_slots() -> None:
    text = (
        "# pxname,svname,scur,stot,status\n"
        "gateway,FRONTEND,1,9,OPEN\n"
        "model,node-a-1,2,5,UP\n"
        "model,node-b-1,0,4,DOWN\n"
        "model,node-b-2,0,0,UP 1/2\n"
        "model,BACKEND,2,9,UP\n"
    )
    zones = {"node-a-1": "az-a", "node-b-1": "az-b", "node-b-2": "az-b"}
    slots = gateway.parse_stats(text, zones)
    assert slots[0] == gateway.Slot("node-a-1", "az-a", True, "UP", 5, 2)
    assert [slot.up for slot in slots] == [True, False, True]


def test_every_node_hangs_on_the_one_bridge() -> None:
    places = LabSettings().places()
    lines = network.switch_lines(places).splitlines()
    for number, place in enumerate(places):
        assert f"link add p{number} type veth peer name eth0 netns {place.name}" in lines
        assert f"link set p{number} master br0 up" in lines
    assert "addr add 10.97.1.1/16 dev eth0" in network.node_lines(places[0])


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("aftershock/model-server", "aftershock/model-server"),
        ("aftershock/model-server:v1", "aftershock/model-server"),
        ("localhost:5000/busybox:1@sha256:ab", "localhost:5000/busybox"),
    ],
)
def test_an_images_name_goes_without_tag_and_digest(image: str, name: str) -> None:
    assert repository(image) == name
    assert is_model_server(image) == name.startswith("aftershock/")


def test_the_seed_reaches_the_servers() -> None:
    args = model_args(LabSettings(seed=11, model_args=("--max-num-seqs", "4")))
    assert args[args.index("--seed") + 1] == "11"
    assert args[-2:] == ["--max-num-seqs", "4"]
