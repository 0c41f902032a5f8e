"""`aftershock doctor` says what another look at this machine says, and leaves no trace."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wires import World

from aftershock.agent.survey import READY
from aftershock.inventory import Inventory

pytestmark = pytest.mark.root
AFTERSHOCK = str(Path(sys.executable).with_name("aftershock"))
# Not root, yet able to read: the interpreter may lie in root's own folder.
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
NOBODY += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
NAMES = ["privileges", "bpf", "tcx", "cls_bpf", "veth", "netem", "tbf", "ifb", "sock_destroy"]
NAMES += ["dm_delay", "dm_flakey", "dm_error", "devices", "cgroup", "fio", "gpu", "clock"]


def doctor(*words: str, before: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    command = [*before, AFTERSHOCK, "doctor", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def told(*words: str, before: tuple[str, ...] = ()) -> dict[str, Any]:
    done = doctor("--json", *words, before=before)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def works(words: str) -> bool:
    """Whether a command succeeds in a network namespace that nobody will miss."""
    line = ["unshare", "--net", "sh", "-c", words]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def machine() -> list[str]:
    """What looking might have changed."""
    looks = [["ip", "-o", "link"], ["tc", "qdisc"], ["cat", "/proc/modules"], ["mount"]]
    return [subprocess.run(w, capture_output=True, text=True, check=False).stdout for w in looks]


def mounts() -> list[str]:
    return subprocess.run(["mount"], capture_output=True, text=True, check=True).stdout.splitlines()


def test_it_says_what_another_look_says_and_changes_nothing() -> None:
    before = machine()
    done = doctor("--json")
    report = json.loads(done.stdout)
    assert machine() == before
    (host,) = report["hosts"]
    assert [check["name"] for check in host["checks"]] == NAMES
    ok = {check["name"]: check["ok"] for check in host["checks"]}
    assert ok["netem"] == works("tc qdisc add dev lo root netem delay 1ms")
    assert ok["tbf"] == works("tc qdisc add dev lo root tbf rate 1mbit burst 2k limit 2k")
    assert ok["veth"] == works("ip link add one type veth peer name two")
    if host["survey"]["things"]["ifb"]["modules"]["ifb"] != READY:  # trying would load it
        assert ok["ifb"] == works("ip link add one type ifb")
    assert ok["cls_bpf"] == works("tc qdisc add dev lo clsact")
    assert ok["fio"] == bool(shutil.which("fio")) and ok["privileges"] is True
    assert ok["cgroup"] == any(" type cgroup" in line for line in mounts())
    assert ok["clock"] is True, "one machine has one clock"
    needed = [check["ok"] for check in host["checks"] if check["needed"]]
    assert report["ready"] == host["ready"] == all(needed)
    assert done.returncode == (0 if report["ready"] else 1)


def test_each_check_is_whole_and_what_is_missing_has_a_mend() -> None:
    report = told()
    assert set(report) == {"ready", "hosts", "api"}
    (host,) = report["hosts"]
    assert set(host) == {"name", "ready", "error", "checks", "survey"}
    for check in host["checks"]:
        assert set(check) == {"name", "ok", "needed", "found", "mend"}
        assert bool(check["mend"]) == (check["ok"] is not True), check
    assert host["survey"]["kernel"] == os.uname().release
    assert host["survey"]["loaded_by_looking"] == []


def test_the_table_is_for_people() -> None:
    lines = doctor().stdout.splitlines()
    assert lines[0].split() == ["host", "kernel", "python", *NAMES]
    assert lines[1].split()[1] == os.uname().release
    assert lines[-1].startswith(("Ready", "Not ready for network faults"))


def test_who_is_not_root_is_told_what_needs_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    cache = ("env", f"XDG_CACHE_HOME={tmp_path / 'cache'}")
    report = told(before=(*NOBODY, *cache))
    (host,) = report["hosts"]
    by_name = {check["name"]: check for check in host["checks"]}
    assert report["ready"] is False and host["error"] is None
    assert by_name["privileges"]["ok"] is False
    assert by_name["privileges"]["mend"].startswith(f"sudo {AFTERSHOCK} doctor")
    assert by_name["tbf"]["ok"] is None and by_name["tcx"]["ok"] is None
    assert by_name["fio"]["ok"] or by_name["fio"]["mend"].startswith("sudo ")


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    tmp_path.chmod(0o777)
    place = ("env", f"XDG_CACHE_HOME={closed}", f"TMPDIR={tmp_path}")
    assert told(before=(*NOBODY, *place))["hosts"][0]["error"] is None
    spare = tmp_path / "aftershock-65534"
    assert spare.stat().st_mode & 0o077 == 0 and list(spare.glob("agent-*.pyz"))


def inventory(path: Path, wires: World, **changed: Any) -> Path:
    """A file of the world's nodes, one of them changed."""
    nodes = tuple(
        replace(node, **changed) if node.name == "node-b" else node for node in wires.nodes.values()
    )
    made = Inventory("wires", nodes, "http://127.0.0.1:1", "m")
    path.write_text(json.dumps(made.to_dict()))
    return path


def test_every_host_of_an_inventory_is_asked(wires: World, tmp_path: Path) -> None:
    report = told("--inventory", str(inventory(tmp_path / "i.json", wires)))
    assert [host["name"] for host in report["hosts"]] == ["node-a", "node-b", "node-w"]
    for host in report["hosts"]:
        assert host["error"] is None
        assert list(host["survey"]["devices"]) == ["eth0"], "as the inventory names it"


def test_a_host_that_cannot_be_reached_is_a_line_and_not_the_end(
    wires: World, tmp_path: Path
) -> None:
    path = inventory(tmp_path / "i.json", wires, netns="/run/netns/there-is-none")
    done = doctor("--inventory", str(path))
    assert done.returncode == 1
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:4]}
    assert "✗ node-b: no network namespace /run/netns/there-is-none" in rows["node-b"]
    assert "✓" in rows["node-a"] and "✓" in rows["node-w"]
    assert "node-b" in done.stdout.splitlines()[-1]


def test_a_device_that_is_not_there_is_told(wires: World, tmp_path: Path) -> None:
    path = inventory(tmp_path / "i.json", wires, devices=("eth7",))
    report = told("--inventory", str(path))
    (devices,) = [c for c in report["hosts"][1]["checks"] if c["name"] == "devices"]
    assert devices["ok"] is False and "no device eth7 here, only lo, eth0" in devices["found"]


@pytest.mark.parametrize("text", ["{", "[]", '{"nodes": 7}', '{"nodes": [{"nom": "x"}]}'])
def test_a_bad_inventory_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    done = doctor("--inventory", str(path))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("aftershock: ") and done.stderr.count("\n") == 1


def test_an_inventory_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = doctor("--inventory", str(tmp_path / "none"))
    assert done.returncode == 1 and "No such file" in done.stderr
